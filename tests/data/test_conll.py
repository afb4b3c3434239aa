"""CoNLL's columns in every tagging of the field."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from fingpt_lora.data.conll import read_conll
from fingpt_lora.data.files import read_records
from fingpt_lora.data.rows import BadRow, Record


def read(text: str) -> list[Record | BadRow]:
    return list(read_conll(io.StringIO(text), "x.conll"))


def spans(text: str) -> list[tuple[str, str]]:
    (record,) = read(text)
    assert isinstance(record, Record)
    for one in record.fields["entities"]:
        assert record.fields["text"][one["start"] : one["end"]] == one["text"]
    return [(one["type"], one["text"]) for one in record.fields["entities"]]


@pytest.mark.parametrize(
    "tags",
    [
        ["I-ORG", "I-ORG", "O", "I-PER", "I-LOC"],  # IO, IOB1
        ["B-ORG", "I-ORG", "O", "B-PER", "B-LOC"],  # IOB2
        ["B-ORG", "E-ORG", "O", "S-PER", "S-LOC"],  # IOBES
        ["B-ORG", "L-ORG", "O", "U-PER", "U-LOC"],  # BILOU
    ],
)
def test_taggings(tags: list[str]) -> None:
    words = ["Nokia", "Oyj", "hired", "Pekka", "Espoo"]
    text = "".join(f"{word} NNP - {tag}\n" for word, tag in zip(words, tags, strict=True))
    assert spans(text) == [("ORG", "Nokia Oyj"), ("PER", "Pekka"), ("LOC", "Espoo")]


def test_a_prefix_parts_what_lies_side_by_side() -> None:
    assert spans("Oslo B-LOC\nParis B-LOC\n") == [("LOC", "Oslo"), ("LOC", "Paris")]
    assert spans("Oslo S-LOC\nParis I-LOC\n") == [("LOC", "Oslo"), ("LOC", "Paris")]


def test_sentences_documents_and_lines() -> None:
    found = read("-DOCSTART- -X- O O\n\nOslo\tNNP\tI-LOC\n\n\n-DOCSTART- -X- O O\n\nIt PRP O\nrose VBD O")
    records = [r for r in found if isinstance(r, Record)]
    assert [(r.line, r.fields["text"]) for r in records] == [(3, "Oslo"), (8, "It rose")]
    assert [r.fields["document"] for r in records] == ["x.conll#1", "x.conll#2"]


def test_bare_words_have_no_entities() -> None:
    (record,) = read("It\nrose\n")
    assert isinstance(record, Record) and record.fields == {"text": "It rose", "document": "x.conll#0"}


@pytest.mark.parametrize(("text", "line"), [("Oslo NNP LOC\n", 1), ("Oslo I-LOC\nrose\n", 2)])
def test_what_is_no_tag(text: str, line: int) -> None:
    (bad,) = read(text)
    assert isinstance(bad, BadRow) and bad.line == line and "is no tag" in bad.reason


def test_a_text_file_of_documents_is_known_by_its_first_line(tmp_path: Path) -> None:
    file = tmp_path / "loans.txt"
    file.write_text("-DOCSTART- -X- O O\n\nOslo NNP - I-LOC\n")
    (record,) = read_records(file)
    assert isinstance(record, Record) and record.fields["entities"][0]["type"] == "LOC"
