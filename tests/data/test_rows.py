from __future__ import annotations

import dataclasses

import pytest

from fingpt_lora.data import BadRow, Row


def test_a_bad_row_reads_as_file_line_reason() -> None:
    assert str(BadRow("news.csv", 7, "it has no text")) == "news.csv:7: it has no text"


def test_rows_do_not_change() -> None:
    row = Row("Profit rose.", "positive", "news.csv", 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        row.label = "negative"  # type: ignore[misc]
    assert row.language is None and dict(row.fields) == {}
