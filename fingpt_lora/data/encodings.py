"""Bytes -> text: UTF-8 where a file is UTF-8, a named encoding where one is named, else a guess that is announced."""

from __future__ import annotations

import codecs
import gzip
import io
import re
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from fingpt_lora.errors import DataError

_BLOCK = 1 << 20
_SAMPLE = 1 << 18  # bytes shown to the statistics: plenty for them, and still fast

# The mark of UTF-32-LE begins with that of UTF-16-LE, so the longer ones come first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
UTF = frozenset({"utf-8", "utf-8-sig", "utf-16", "utf-32"})  # decided beyond doubt
_HIGH = re.compile(rb"[\x80-\xff]+")
_C1 = re.compile(rb"[\x80-\x9f]")
_HAN = re.compile(r"[\u4e00-\u9fff]")


def open_bytes(path: Path) -> BinaryIO:
    """Open a file, through gzip where its name ends in ``.gz``."""
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix.lower() == ".gz" else path.open("rb")


def open_text(path: Path, encoding: str) -> TextIO:
    """Open a text file so that its line ends stay as they are; a UTF-8 byte order mark is skipped.

    Raises:
        DataError: Python knows no such encoding.
    """
    try:
        name = codecs.lookup(encoding).name
        "".encode(name)  # refuses codecs such as base64, which do not make text
    except LookupError:
        raise DataError(
            f"data.encoding: Python knows no text encoding '{encoding}'. Try utf-8, latin-1 or gb18030."
        ) from None
    return io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig" if name == "utf-8" else name, newline="")


def encoding_of(path: Path, *, otherwise: str | None = None) -> str:
    """Decide the encoding of a file: by its mark, as UTF-8 if all of it is, ``otherwise``, or by statistics.

    The whole file is looked at, because one story in Latin-1 may stand after a million lines of ASCII.

    Raises:
        DataError: the statistics have no answer.
    """
    with open_bytes(path) as raw:
        block = raw.read(_BLOCK)
        for mark, name in _MARKS:
            if block.startswith(mark):
                return name
        if block.count(0) > len(block) // 4:  # every second byte of Latin text in UTF-16 is zero
            return "utf-16-le" if block[1::2].count(0) > block[::2].count(0) else "utf-16-be"
        decoder = codecs.getincrementaldecoder("utf-8")()
        while True:
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                return otherwise or _guess(_around(block, error.start), path)
            if not block:
                return "utf-8"
            block = raw.read(_BLOCK)


def _around(block: bytes, place: int) -> bytes:
    """Return whole lines from ``place`` on: cut elsewhere, a character of several bytes would look broken."""
    start = block.rfind(b"\n", 0, place) + 1
    sample = block[start : start + _SAMPLE]
    end = sample.rfind(b"\n")
    return sample[: end + 1] if end > 0 and len(block) > start + len(sample) else sample


def _guess(sample: bytes, path: Path) -> str:
    """Tell single accented letters from Chinese by how bytes above 127 cluster; ask charset_normalizer for the rest.

    Korean and Japanese legacy encodings share their byte pairs with GB 2312; this toolkit reads English and
    Chinese, so the pairs count as Chinese. Name the encoding where that is wrong.
    """
    runs = _HIGH.findall(sample)
    high = sum(len(run) for run in runs)
    if 2 * sum(len(run) == 1 for run in runs) > high:
        # Only Windows puts printable characters between 0x80 and 0x9f.
        return "cp1252" if _C1.search(sample) and _decodes(sample, "cp1252") else "latin-1"
    if _decodes(sample, "gb18030"):
        foreign = "".join(c for c in sample.decode("gb18030") if c > "\x7f")
        # Real Chinese stays within the 6,763 characters of GB 2312; chance pairs scatter over all of GB 18030.
        common = len(foreign.encode("gb2312", "ignore")) // 2
        if _HAN.search(foreign) and common >= 0.9 * len(foreign):
            return "gb18030"
    from charset_normalizer import from_bytes  # 50 ms that only such files pay

    best = from_bytes(sample).best()
    if best is None:
        raise DataError(
            f"'{path}' is not UTF-8, and its encoding cannot be told. "
            "Name it: data.encoding: latin-1 (or gb18030, big5, ...)."
        )
    return best.encoding


def _decodes(sample: bytes, encoding: str) -> bool:
    try:
        sample.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def undecodable(path: Path, encoding: str) -> DataError:
    """Return the error to raise for a file that is not text in ``encoding``, with the first line that shows it."""
    where = ""
    if not encoding.startswith(("utf-16", "utf-32")):  # their line ends are not single bytes
        with open_bytes(path) as raw:
            bad = (n for n, line in enumerate(raw, start=1) if not _decodes(line, encoding))
            where = f":{next(bad, 1)}"
    return DataError(
        f"{path}{where}: this is not {encoding} text. Name the file's encoding: data.encoding: latin-1 "
        "(or gb18030, utf-8, ...)."
    )
