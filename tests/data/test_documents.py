"""Documents with several questions become rows."""

from __future__ import annotations

from typing import Any

import pytest

from fingpt_lora.data.documents import unfold
from fingpt_lora.data.rows import BadRow, Record

TABLE = [["", "2019"], ["Sales", "5"]]
TATQA: dict[str, Any] = {
    "table": {"uid": "t1", "table": TABLE},
    "paragraphs": [{"order": 2, "text": "Second."}, {"order": 1, "text": "First\n line."}],
    "questions": [
        {"question": "How much?", "answer": 5, "scale": "million", "answer_type": "span", "derivation": ""},
        {"question": "And then?"},
    ],
}
FINQA: dict[str, Any] = {
    "pre_text": ["Before."],
    "post_text": ["After."],
    "table": TABLE,
    "filename": "A/2019/page_1.pdf",
    "qa": {"question": "How much?", "program": "add(2, 3)", "exe_ans": 5.0, "answer": "5"},
}


def rows(record: Record | BadRow) -> list[Record | BadRow]:
    return list(unfold([record]))


def test_tatqa() -> None:
    first, second = rows(Record(TATQA, "x.json", 3))
    assert isinstance(first, Record) and isinstance(second, Record)
    assert first.fields["text"] == " | 2019\nSales | 5\nFirst line.\nSecond."
    assert first.fields["question"] == "How much?" and first.fields["document"] == "t1" and first.line == 3
    assert first.fields["label"] == {"answer": 5, "scale": "million", "answer_type": "span", "derivation": ""}
    assert second.fields["label"] is None


def test_finqa() -> None:
    (row,) = rows(Record(FINQA, "x.json", 1))
    assert isinstance(row, Record) and row.fields["text"].endswith("Sales | 5\nBefore.\nAfter.")
    assert row.fields["label"] == {"answer": "5", "program": "add(2, 3)", "exe_ans": 5.0}
    assert row.fields["document"] == "A/2019/page_1.pdf"


def test_other_records_pass() -> None:
    record, bad = Record({"text": "a", "table": [1]}, "x", 1), BadRow("x", 2, "why")
    assert list(unfold([record, bad])) == [record, bad]


@pytest.mark.parametrize("record", [{**TATQA, "table": {"uid": 1, "table": "x"}}, {**FINQA, "table": ["x"]}])
def test_a_table_must_be_one(record: dict[str, Any]) -> None:
    (bad,) = rows(Record(record, "x", 1))
    assert isinstance(bad, BadRow) and "table" in bad.reason


def test_a_question_must_be_one() -> None:
    (bad,) = rows(Record({**TATQA, "questions": ["How much?"]}, "x", 1))
    assert isinstance(bad, BadRow) and "question" in bad.reason
