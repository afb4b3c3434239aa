"""Records from one file: CSV, TSV, JSONL, JSON, ``sentence@label`` and CoNLL, each also gzipped; Parquet and Arrow.

Everything but JSON streams. A record that cannot be parsed becomes a BadRow with its line, never an exception.
"""

from __future__ import annotations

import csv
import json
import re
import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from fingpt_lora.data.conll import DOCUMENT, read_conll
from fingpt_lora.data.encodings import encoding_of, open_text, undecodable
from fingpt_lora.data.paths import BINARY, FORMATS, format_of
from fingpt_lora.data.rows import BadRow, Record
from fingpt_lora.errors import DataError

SPLIT_NAMES = {"train": "train", "test": "test", "validation": "validation", "valid": "validation"}
SPLIT_NAMES |= {"dev": "validation", "val": "validation"}

csv.field_size_limit(1 << 26)  # the standard library's 128 KiB are less than one annual report
_DELIMITERS = ",\t;|"
_QUOTED = re.compile(r'"[^"]*"')
# The label of sentence@label; the end of an e-mail address or of a sentence about one is none.
_LABEL = re.compile(r"[\w-]+(?: [\w-]+){0,2}")


def read_records(path: Path, format: str = "auto", encoding: str = "auto") -> Iterator[Record | BadRow]:
    """Yield the records of one file with the place at which each starts.

    Args:
        path: the file; text formats may be gzipped.
        format: a format of :data:`FORMATS`, or ``auto`` to go by the name and by what the first line shows.
        encoding: of a text format; ``auto`` as in :func:`fingpt_lora.data.encodings.encoding_of`.

    Raises:
        DataError: the format cannot be told, or the file as a whole cannot be read.
    """
    kind = format_of(path) if format == "auto" else format
    if kind is None:
        known = ", ".join(dict.fromkeys(FORMATS.values()))
        raise DataError(f"'{path}': its name does not tell its format. Name it: data.format: one of {known}.")
    try:
        if kind in BINARY:
            from fingpt_lora.data.columnar import read_columnar

            yield from read_columnar(path, kind)
            return
        if encoding == "auto":
            encoding = encoding_of(path, otherwise="latin-1" if kind == "phrasebank" else None)
        if format == "auto":
            kind = _sniff(path, kind, encoding)
        with open_text(path, encoding) as stream:
            yield from _READERS[kind](stream, str(path))
    except UnicodeDecodeError:
        raise undecodable(path, encoding) from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"'{path}' cannot be read: {error}.") from None


def _sniff(path: Path, kind: str, encoding: str) -> str:
    """Correct the name where the first line shows something else: JSON Lines in .json is as common as the reverse."""
    if kind not in ("json", "jsonl", "tsv", "phrasebank"):
        return kind
    with open_text(path, encoding) as stream:
        first, more = "", False
        for line in stream:
            if first and line.strip():
                more = True
                break
            first = first or line.strip()
    if kind == "phrasebank":
        return "conll" if first.startswith(DOCUMENT) else kind
    if kind == "tsv":
        return "csv" if "\t" not in first and "," in first else "tsv"
    try:
        whole = isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return "json" if kind == "json" or first in ("{", "[") or first.startswith("[{") else "jsonl"
    return "jsonl" if kind == "jsonl" or (whole and more) else "json"


class _Lines:
    """Feeds physical lines to a CSV reader, counts them, and can take back what a stray quote swallowed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._again: deque[str] = deque()
        self._record: list[str] = []
        self.fed = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._stream)
        self.fed += 1
        self._record.append(line)
        return line

    def begin_record(self) -> int:
        """Forget the lines of the last record and return the number of the next line."""
        self._record.clear()
        return self.fed + 1

    def take_back(self) -> None:
        """Feed the record's lines again, except its first."""
        self._again.extendleft(reversed(self._record[1:]))
        self.fed -= len(self._record) - 1


def _csv(stream: TextIO, origin: str) -> Iterator[Record | BadRow]:
    """Read by the delimiter that the header shows: files named .csv are often separated by something else."""
    header = _QUOTED.sub("", next((line for line in iter(stream.readline, "") if line.strip()), ""))
    stream.seek(0)
    yield from _delimited(stream, origin, max(_DELIMITERS, key=header.count))


def _tsv(stream: TextIO, origin: str) -> Iterator[Record | BadRow]:
    yield from _delimited(stream, origin, "\t")


def _delimited(stream: TextIO, origin: str, delimiter: str) -> Iterator[Record | BadRow]:
    lines = _Lines(stream)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        line = lines.begin_record()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end" in str(error) or "field larger" in str(error):
                # The quote is a stray one; what follows it are rows of their own.
                lines.take_back()
                yield BadRow(origin, line, "a quote opens here and is never closed")
            else:
                yield BadRow(origin, line, f"not valid CSV: {error}; quotes inside a quoted text are written twice")
            continue
        if not cells:
            continue
        if header is None:
            header = [name.strip() for name in cells]
            _check_header(header, origin)
        elif len(cells) == len(header):
            yield Record(dict(zip(header, cells, strict=True)), origin, line)
        else:
            hint = f" (a text that contains '{delimiter}' must be quoted)" if len(cells) > len(header) else ""
            yield BadRow(origin, line, f"{len(cells)} cells where the header has {len(header)}{hint}")


def _check_header(header: list[str], origin: str) -> None:
    twice = next((name for name in header if name and header.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"'{origin}': two columns are named '{twice}'. Rename one, so that it is clear which is meant.")


def _json_lines(stream: TextIO, origin: str) -> Iterator[Record | BadRow]:
    for number, line in enumerate(stream, start=1):
        if line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield BadRow(origin, number, f"not valid JSON: {error}")
                continue
            yield _as_record(value, origin, number)


def _json(stream: TextIO, origin: str) -> Iterator[Record | BadRow]:
    text = stream.read()
    if not text.strip():
        return
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"'{origin}' is not valid JSON: {error}. If it has one object per line, set data.format: jsonl."
        ) from None
    for number, value in enumerate(_objects(content, origin), start=1):
        yield _as_record(value, origin, number)


def _objects(content: Any, origin: str) -> Iterator[Any]:
    """Find the records in a JSON document: a list, a list under a name, lists by split, or columns."""
    if isinstance(content, list):
        yield from content
        return
    values = list(content.values()) if isinstance(content, dict) else []
    lists = {name: value for name, value in content.items() if isinstance(value, list)} if values else {}
    of_records = bool(lists) and all(isinstance(item, dict) for value in lists.values() for item in value)
    if of_records and len(lists) == 1:
        yield from next(iter(lists.values()))
    elif of_records and all(name.lower() in SPLIT_NAMES for name in lists):
        for name, value in lists.items():
            yield from ({"split": name, **item} for item in value)
    elif lists and not of_records and len(lists) == len(values) and len({len(value) for value in lists.values()}) == 1:
        yield from (dict(zip(lists, cells, strict=True)) for cells in zip(*lists.values(), strict=True))
    elif values and all(isinstance(value, dict) and value.keys() == values[0].keys() for value in values):
        # What pandas' to_json writes unless told otherwise: column -> index -> cell.
        yield from ({name: column[index] for name, column in content.items()} for index in values[0])
    elif values and not lists:
        yield content  # a single record
    else:
        raise DataError(
            f"'{origin}': no records found in it. It should be a list of objects, or an object with one such list."
        )


def _as_record(value: Any, origin: str, number: int) -> Record | BadRow:
    if isinstance(value, dict):
        return Record(value, origin, number)
    if isinstance(value, list) and value and all(isinstance(cell, (str, int, float)) for cell in value):
        # Cells without names are told by their place, from 1: data.fields: {text: "2"}.
        return Record({str(place): cell for place, cell in enumerate(value, start=1)}, origin, number)
    return BadRow(origin, number, f"expected an object with named fields, found {_KINDS.get(type(value), 'nothing')}")


_KINDS = {list: "a list", str: "a text", int: "a number", float: "a number", bool: "true/false"}


def _phrasebank(stream: TextIO, origin: str) -> Iterator[Record | BadRow]:
    """Read ``sentence@label`` lines; a line without a label is a plain sentence, as ``predict`` takes them."""
    for number, line in enumerate(stream, start=1):
        if line.strip():
            sentence, at, label = line.rstrip("\r\n").rpartition("@")  # a sentence may itself hold an @
            if at and _LABEL.fullmatch(label.strip()):
                yield Record({"text": sentence, "label": label.strip()}, origin, number)
            else:
                yield Record({"text": line.rstrip("\r\n"), "label": None}, origin, number)


def _text(stream: TextIO, origin: str) -> Iterator[Record | BadRow]:
    """Read the whole file as one document."""
    yield Record({"text": stream.read()}, origin, 1)


_READERS = {
    "csv": _csv,
    "tsv": _tsv,
    "jsonl": _json_lines,
    "json": _json,
    "phrasebank": _phrasebank,
    "conll": read_conll,
    "text": _text,
}
