from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fingpt_lora.data.files import read_records
from fingpt_lora.data.rows import BadRow, Record
from fingpt_lora.errors import DataError

Write = Callable[..., str]
CELL = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
TABLE = st.lists(st.fixed_dictionaries({"text": CELL, "label": CELL, "with, comma": CELL}), min_size=1, max_size=8)
JSON = st.recursive(st.none() | st.booleans() | st.integers() | CELL, lambda inner: st.lists(inner, max_size=3))
OBJECTS = st.lists(st.dictionaries(CELL, JSON, min_size=1, max_size=4), min_size=1, max_size=6)


def read(path: str | Path, **settings: str) -> list[Record | BadRow]:
    return list(read_records(Path(path), **settings))


def values(path: str | Path, **settings: str) -> list[Any]:
    return [dict(r.fields) if isinstance(r, Record) else str(r) for r in read(path, **settings)]


def round_trip(name: str, content: bytes, **settings: str) -> list[Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return values(path, **settings)


def as_csv(rows: list[dict[str, str]], delimiter: str) -> bytes:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, rows[0].keys(), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


@given(TABLE, st.sampled_from(["a.csv", "a.tsv", "a.csv.gz", "a.tsv.gz"]))
@settings(max_examples=60, deadline=None)
def test_tables_come_back_as_written(rows: list[dict[str, str]], name: str) -> None:
    assert round_trip(name, as_csv(rows, "\t" if "tsv" in name else ",")) == rows


@given(TABLE, st.sampled_from(";|\t"))
@settings(max_examples=40, deadline=None)
def test_the_header_tells_the_delimiter_of_a_csv(rows: list[dict[str, str]], delimiter: str) -> None:
    assert round_trip("a.csv", as_csv(rows, delimiter)) == rows


@given(OBJECTS, st.sampled_from(["a.jsonl", "a.jsonl.gz", "a.json", "a.json.gz"]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_objects_come_back_as_written(rows: list[dict[str, Any]], name: str, ascii_only: bool) -> None:
    if "jsonl" in name:
        content = "\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in rows)
    else:
        content = json.dumps(rows, ensure_ascii=ascii_only, indent=1)
    assert round_trip(name, content.encode()) == rows


@given(st.lists(st.tuples(st.text("ab @.,é", min_size=1), st.sampled_from(["positive", "very negative"])), min_size=1))
@settings(max_examples=40, deadline=None)
def test_phrasebank_splits_at_the_last_at(rows: list[tuple[str, str]]) -> None:
    content = "".join(f"{text}@{label}\n" for text, label in rows).encode("latin-1")
    assert round_trip("a.txt", content) == [{"text": text, "label": label} for text, label in rows]


def test_a_plain_sentence_has_no_label(write: Write) -> None:
    path = write("a.txt", "Profit rose.\nWrite to ir@example.com\nAsk a@b for more of it, please.\nUp@positive\n")
    assert [row["label"] for row in values(path)] == [None, None, None, "positive"]
    assert values(path)[1]["text"] == "Write to ir@example.com"


def test_csv_lines_are_the_physical_lines_where_records_start(write: Write) -> None:
    path = write("a.csv", 'text,label\r\n"two\r\nlines",up\r\n\r\nlast,down\r\ntoo,many,cells\r\n"x"y,up\r\nend,up\r\n')
    found = read(path)
    assert [(type(row).__name__, row.line) for row in found] == [
        ("Record", 2),
        ("Record", 5),
        ("BadRow", 6),
        ("BadRow", 7),
        ("Record", 8),
    ]
    assert "3 cells where the header has 2 (a text that contains ',' must be quoted)" in str(found[2])
    assert "not valid CSV" in str(found[3])


def test_a_stray_quote_costs_one_line_not_the_rest_of_the_file(write: Write) -> None:
    path = write("a.csv", 'text,label\none,up\n"two,up\nthree,down\nfour,up\n')
    assert values(path) == [
        {"text": "one", "label": "up"},
        f"{path}:3: a quote opens here and is never closed",
        {"text": "three", "label": "down"},
        {"text": "four", "label": "up"},
    ]
    assert [row.line for row in read(path)] == [2, 3, 4, 5]


def test_long_cells_are_read(write: Write) -> None:
    story = "An annual report. " * 20_000
    assert values(write("a.csv", f'text,label\n"{story}",neutral\n'))[0]["text"] == story


def test_two_columns_of_one_name_are_an_error(write: Write) -> None:
    with pytest.raises(DataError, match="two columns are named 'text'"):
        read(write("a.csv", "text,label,text\na,b,c\n"))


def test_bad_json_lines_are_bad_rows_with_their_line(write: Write) -> None:
    path = write("a.jsonl", '{"text": "one"}\n\n{"text": \n[[1], 2]\n"word"\n7\nnull\n{"text": "two"}\n')
    found = read(path)
    assert [row.line for row in found] == [1, 3, 4, 5, 6, 7, 8]
    assert [str(row).split(": ", 1)[1][:40] for row in found[1:6]] == [
        "not valid JSON: Expecting value: line 2 ",
        "expected an object with named fields, fo",
        "expected an object with named fields, fo",
        "expected an object with named fields, fo",
        "expected an object with named fields, fo",
    ]
    assert str(found[2]).endswith("found a list") and str(found[5]).endswith("found nothing")


@pytest.mark.parametrize(
    "content",
    [
        [{"text": "one"}, {"text": "two"}],
        {"version": 1, "data": [{"text": "one"}, {"text": "two"}]},
        {"text": ["one", "two"]},
        {"text": {"0": "one", "1": "two"}},
    ],
)
def test_records_are_found_in_json_documents(write: Write, content: Any) -> None:
    assert values(write("a.json", json.dumps(content))) == [{"text": "one"}, {"text": "two"}]


def test_lists_by_split_carry_their_split(write: Write) -> None:
    content = {"train": [{"text": "one"}], "test": [{"text": "two"}]}
    assert values(write("a.json", json.dumps(content))) == [
        {"split": "train", "text": "one"},
        {"split": "test", "text": "two"},
    ]


def test_a_json_document_without_records_is_an_error(write: Write) -> None:
    for content in ({"a": [1, 2], "b": [1]}, {"a": [{"x": 1}], "b": [{"y": 2}]}, 7, {}):
        with pytest.raises(DataError, match="no records found"):
            read(write("a.json", json.dumps(content)))
    with pytest.raises(DataError, match="not valid JSON"):
        read(write("a.json", "{'text': 'one'}"))


def test_the_first_line_corrects_the_name(write: Write) -> None:
    lines = '{"text": "one"}\n{"text": "two"}\n'
    both = [{"text": "one"}, {"text": "two"}]
    assert values(write("lines.json", lines)) == both
    assert values(write("pretty.jsonl", json.dumps(both, indent=2))) == both
    assert values(write("list.jsonl", json.dumps(both).replace("},", "},\n"))) == both
    assert values(write("comma.tsv", "text,label\none,up\n")) == [{"text": "one", "label": "up"}]
    assert values(write("single.json", '{"text": "one"}')) == [{"text": "one"}]
    with pytest.raises(DataError, match=r"data\.format: jsonl"):
        read(write("lines.json", lines), format="json")


def test_a_line_may_be_longer_than_digits_python_converts(write: Write) -> None:
    found = read(write("a.jsonl", '{"n": ' + "9" * 5000 + "}\n" + "[" * 100_000 + "\n"))
    assert [type(row) for row in found] == [BadRow, BadRow]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.txt", "a.csv.gz"])
def test_empty_files_hold_no_records(write: Write, name: str) -> None:
    assert read(write(name, gzip.compress(b"") if name.endswith(".gz") else "")) == []


def test_files_that_cannot_be_read_are_named(write: Write, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"name does not tell its format.*data\.format"):
        read(write("a.dat", "x"))
    with pytest.raises(DataError, match=r"a\.csv\.gz' cannot be read"):
        read(write("a.csv.gz", b"no gzip at all"))
    with pytest.raises(DataError, match=r"cut\.csv\.gz' cannot be read"):
        read(write("cut.csv.gz", gzip.compress(b"text\n" * 1000)[:-9]))
    with pytest.raises(DataError, match=r"a\.csv:3: this is not utf-8 text"):
        read(write("a.csv", b"text\nfine\ncaf\xe9\n"), encoding="utf-8")
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / "missing.csv")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "latin-1", "utf-16"])
def test_encodings_are_read_without_being_named(write: Write, encoding: str) -> None:
    path = write("a.csv", "text,label\nCafé Zürich rose,up\n", encoding)
    assert values(path) == values(path, encoding=encoding) == [{"text": "Café Zürich rose", "label": "up"}]


def test_records_stream(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n' * 50_000 + "broken\n")
    rows = read_records(path)
    assert next(rows).line == 1  # before the last line was parsed


@given(
    st.binary(max_size=200) | st.text('a,"\n\t{}[]:@1 ', max_size=60).map(str.encode),
    st.sampled_from(["a.csv", "a.tsv", "a.jsonl", "a.json", "a.txt", "a.parquet", "a.arrow", "a.csv.gz", "a.jsonl.gz"]),
)
@settings(max_examples=400, deadline=None)
def test_any_bytes_are_rows_or_one_clear_error(content: bytes, name: str) -> None:
    for data in {content, gzip.compress(content) if name.endswith(".gz") else content}:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(data)
            with contextlib.suppress(DataError):
                found = read(path)
                assert [row.line for row in found] == sorted(row.line for row in found)


def test_cells_without_names_are_told_by_their_place(write: Write) -> None:
    assert values(write("a.jsonl", '["ACME", "owns", 7]\n')) == [{"1": "ACME", "2": "owns", "3": 7}]
