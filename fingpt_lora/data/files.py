"""Records from files: CSV, TSV, JSONL, JSON, Parquet, Arrow and ``sentence@label``, each text format also gzipped.

Everything streams where the format allows it. A record that cannot be parsed becomes a BadRow with its line.
"""

from __future__ import annotations

import contextlib
import csv
import glob
import gzip
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from fingpt_lora.data.rows import BadRow, Record
from fingpt_lora.errors import DataError

_FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".txt": "phrasebank",
}
_SNIFF_BYTES = 1 << 20
csv.field_size_limit(1 << 30)  # filings are longer than the standard library's 128 KiB


def expand(paths: str | Sequence[str]) -> list[Path]:
    """Return the files that paths, globs and folders name, sorted within each.

    Raises:
        DataError: a path names nothing.
    """
    found: list[Path] = []
    for name in [paths] if isinstance(paths, str) else paths:
        path = Path(name).expanduser()
        if path.is_dir():
            inside = sorted(
                p for p in path.rglob("*") if p.is_file() and _extension(p) in _FORMATS and not _hidden(p, path)
            )
            # A data set saved by datasets.save_to_disk keeps bookkeeping as JSON beside its Arrow files.
            if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
                inside = [p for p in inside if p.suffix == ".arrow"]
            if not inside:
                raise DataError(f"data.path: the folder '{path}' holds no data file ({', '.join(_FORMATS)}).")
            found += inside
        elif glob.has_magic(name):
            matches = sorted(Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file())
            if not matches:
                raise DataError(f"data.path: no file matches '{name}'.")
            found += matches
        elif path.is_file():
            found.append(path)
        else:
            raise DataError(f"data.path: there is no file or folder '{name}'.")
    return found


def _hidden(path: Path, top: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(top).parts)


def _extension(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return (suffixes[-2] if len(suffixes) > 1 else "") if suffixes and suffixes[-1] == ".gz" else "".join(suffixes[-1:])


def read_records(path: Path, format: str = "auto", encoding: str = "auto") -> Iterator[Record | BadRow]:
    """Yield the records of one file with the line (or row number) at which each starts.

    Raises:
        DataError: the format is unknown, or the file as a whole cannot be read.
    """
    kind = _FORMATS.get(_extension(path)) if format == "auto" else format
    if kind is None:
        raise DataError(f"'{path}': its name does not tell its format. Name it: data.format: csv, jsonl, parquet, ...")
    try:
        if kind in ("parquet", "arrow"):
            yield from _columnar(path, kind)
            return
        with _open(path, encoding, kind) as stream:
            if kind in ("csv", "tsv"):
                yield from _delimited(stream, path, "\t" if kind == "tsv" else None)
            elif kind == "jsonl":
                yield from _json_lines(stream, path)
            elif kind == "json":
                yield from _json(stream, path)
            else:
                yield from _phrasebank(stream, path)
    except UnicodeDecodeError as error:
        raise DataError(
            f"'{path}' is not {error.encoding} text (byte {error.start}). Name its encoding: data.encoding: latin-1 (or gb18030, ...)."
        ) from None
    except (OSError, EOFError, gzip.zlib.error) as error:  # type: ignore[attr-defined]
        raise DataError(f"'{path}' cannot be read: {error}.") from None


@contextlib.contextmanager
def _open(path: Path, encoding: str, kind: str) -> Iterator[TextIO]:
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    if encoding == "auto":
        with opener(path, "rb") as raw:
            encoding = _detect(raw, kind)
    try:
        "".encode(encoding)
    except LookupError:
        raise DataError(
            f"data.encoding: Python knows no encoding '{encoding}'. Try utf-8, latin-1 or gb18030."
        ) from None
    with opener(path, "rb") as raw, io.TextIOWrapper(raw, encoding=encoding, newline="") as stream:
        yield stream


def _detect(raw: Any, kind: str) -> str:
    """Decide the encoding: UTF-8 if the whole file is, latin-1 for PhraseBank, else by statistics of its start."""
    import codecs

    start = raw.read(_SNIFF_BYTES)
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if start.startswith(mark):
            return name
    decoder, block = codecs.getincrementaldecoder("utf-8")(), start
    try:
        while block:
            decoder.decode(block)
            block = raw.read(_SNIFF_BYTES)
        decoder.decode(b"", final=True)
        return "utf-8"
    except UnicodeDecodeError:
        pass
    if kind == "phrasebank":
        return "latin-1"  # as the Financial PhraseBank is published
    from charset_normalizer import from_bytes

    best = from_bytes(start).best()
    if best is None:
        raise DataError("The encoding of the file cannot be told. Name it: data.encoding: latin-1 (or gb18030, ...).")
    # GB2312 and GBK are subsets of GB18030, which decodes the rest of such a file as well.
    return "gb18030" if best.encoding in ("gb2312", "gbk", "gb18030") else best.encoding


class _Counted:
    """Feeds lines to a CSV reader and remembers how many it has fed."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines, self.fed = lines, 0

    def __iter__(self) -> _Counted:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.fed += 1
        if "\0" in line:
            raise csv.Error("it holds a NUL byte; is it a text file?")
        return line


def _delimited(stream: TextIO, path: Path, delimiter: str | None) -> Iterator[Record | BadRow]:
    first = stream.readline()
    if not first.strip():
        return
    if delimiter is None:
        # Files named .csv are often separated otherwise; the header shows it.
        delimiter = max(",\t;|", key=first.count)
    lines = _Counted(iter([first]))
    lines._lines = _chain(first, stream)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        line = lines.fed + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield BadRow(str(path), line, f"not valid CSV: {error}")
            continue
        if header is None:
            header = [name.strip() for name in cells]
        elif not cells:
            continue
        elif len(cells) != len(header):
            yield BadRow(str(path), line, f"{len(cells)} cells where the header has {len(header)}")
        else:
            yield Record(dict(zip(header, cells, strict=True)), str(path), line)


def _chain(first: str, stream: TextIO) -> Iterator[str]:
    yield first
    yield from stream


def _json_lines(stream: TextIO, path: Path) -> Iterator[Record | BadRow]:
    for number, line in enumerate(stream, start=1):
        if line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield BadRow(str(path), number, f"not valid JSON: {error}")
                continue
            yield _as_record(value, path, number)


def _json(stream: TextIO, path: Path) -> Iterator[Record | BadRow]:
    try:
        content = json.load(stream)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"'{path}' is not valid JSON: {error}. If it has one object per line, set data.format: jsonl."
        ) from None
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        if len(lists) != 1:
            raise DataError(f"'{path}': expected a list of objects, or an object with one such list.")
        content = lists[0]
    if not isinstance(content, list):
        raise DataError(f"'{path}': expected a list of objects.")
    for number, value in enumerate(content, start=1):
        yield _as_record(value, path, number)


def _as_record(value: Any, path: Path, number: int) -> Record | BadRow:
    if isinstance(value, dict):
        return Record(value, str(path), number)
    return BadRow(str(path), number, f"expected an object with named fields, found {type(value).__name__}")


def _phrasebank(stream: TextIO, path: Path) -> Iterator[Record | BadRow]:
    for number, line in enumerate(stream, start=1):
        if line.strip():
            text, at, label = line.rstrip("\r\n").rpartition("@")  # a sentence may itself hold an @
            if at:
                yield Record({"text": text, "label": label.strip()}, str(path), number)
            else:
                yield BadRow(str(path), number, "expected sentence@label, found no @")


def _columnar(path: Path, kind: str) -> Iterator[Record | BadRow]:
    import pyarrow as pa

    number = 0
    try:
        for batch in _batches(path, kind):
            for values in batch.to_pylist():
                number += 1
                yield Record(values, str(path), number)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"'{path}' is not a readable {kind} file: {str(error).splitlines()[0]}") from None


def _batches(path: Path, kind: str) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix.lower() == ".gz":
        source: Any = pa.BufferReader(gzip.decompress(path.read_bytes()))
    else:
        source = str(path)
    if kind == "parquet":
        yield from pq.ParquetFile(source).iter_batches(batch_size=1024)
        return
    opened = pa.memory_map(source) if isinstance(source, str) else source
    try:
        reader = pa.ipc.open_file(opened)
        yield from (reader.get_batch(i) for i in range(reader.num_record_batches))
    except pa.ArrowInvalid:
        opened.seek(0)
        yield from pa.ipc.open_stream(opened)  # what datasets.save_to_disk writes
