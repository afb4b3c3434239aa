from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from fingpt_lora.data.rows import Record
from fingpt_lora.data.sources import Source, open_sources
from fingpt_lora.errors import DataError
from fingpt_lora.sections import DataSection

Write = Callable[..., str]
CARD = "---\nlicense: cc-by-4.0\ntask_categories:\n- text-classification\n---\n# Card\nlicense: mit\n"


def texts(source: Source) -> list[object]:
    return [row.fields["text"] for row in source.records() if isinstance(row, Record)]


def test_a_source_knows_its_digest(write: Write) -> None:
    path = write("a.csv", "text,label\nUp,positive\n")
    (source,) = open_sources(path, DataSection())
    assert source.digest() == hashlib.sha256(Path(path).read_bytes()).hexdigest() and source.name == path


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        (CARD, "cc-by-4.0"),
        (CARD.replace("cc-by-4.0", "'mit'"), "mit"),
        (CARD.replace("license: cc-by-4.0\n", ""), None),
        (CARD.replace("task_categories", "library_name"), None),  # a model's card says nothing about the data
        ("# Program\nlicense: mit\n", None),
        (None, None),
    ],
)
def test_the_licence_is_that_of_the_data_card(write: Write, card: str | None, licence: str | None) -> None:
    if card:
        write("README.md", card)
    (source,) = open_sources(write("a.csv", "text\nUp\n"), DataSection())
    assert source.licence == licence


def test_a_guessed_encoding_is_announced(write: Write) -> None:
    path = write("a.csv", "text\nCafé rose\n", "latin-1")
    (source,) = open_sources(path, DataSection())
    assert source.note and "read as latin-1" in source.note
    (named,) = open_sources(path, DataSection(encoding="latin-1"))
    assert named.note is None
    (bank,) = open_sources(write("a.txt", "Café rose@positive\n", "latin-1"), DataSection())
    assert bank.note is None and texts(bank) == ["Café rose"]


def test_another_file_goes_by_its_own_name_and_bytes(write: Write) -> None:
    recipe = DataSection(format="jsonl", encoding="gb18030")
    (table,) = open_sources(write("a.csv", "text\n净利润增长\n"), recipe, own=False)
    assert texts(table) == ["净利润增长"]
    (legacy,) = open_sources(write("b.csv", "text\n净利润增长\n", "gb18030"), recipe, own=False)
    assert texts(legacy) == ["净利润增长"]
    (nameless,) = open_sources(write("c.dat", '{"text": "Up"}\n'), recipe, own=False)
    assert texts(nameless) == ["Up"]


def test_a_name_is_taken_once(write: Write, tmp_path: Path) -> None:
    write("a.csv", "text\nUp\n")
    assert len(open_sources(("a.csv", "*.csv", "sample", "sample"), DataSection(), base_dir=tmp_path)) == 2


def test_a_broken_archive_is_named(write: Write) -> None:
    with pytest.raises(DataError, match=r"a\.csv\.gz' cannot be read"):
        open_sources(write("a.csv.gz", gzip.compress(b"text\nUp\n" * 500)[:-9]), DataSection())
