"""Every planted leak is found, and clean rows pass."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingpt_lora.data.leaks import leaks_of, refuse_leaks
from fingpt_lora.data.rows import Row
from fingpt_lora.errors import DataError

DECIDED = datetime(2024, 5, 3, 20, tzinfo=UTC)


def row(text: str = "ACME, 2024-05-03", *facts: dict[str, Any], **fields: Any) -> Row:
    known = {
        "decided_at": DECIDED.isoformat(),
        "target_end": (DECIDED + timedelta(days=3)).isoformat(),
        "facts": list(facts),
    }
    return Row(text, "up", "rows.jsonl", 7, None, {**known, **fields})


def fact(text: str = "Orders doubled", when: str | None = DECIDED.isoformat()) -> dict[str, Any]:
    return {"kind": "news", "text": text, "available_at": when}


CLEAN = (
    "Shares rose 3% on 2024-05-02 and closed at a high.",
    "The company reports on 2024-08-01.",
    "On May 3, 2024 the stock fell.",
    "Results follow on 9 May 2024; analysts expect a rise.",
    "2024年5月2日股价上涨。公司将于2024年8月1日公布业绩。",
    "As of today the plant is closed.",  # the story has a date
    "Sales rose 12% in the following markets: France, Spain.",
)


@pytest.mark.parametrize("text", CLEAN)
def test_clean_texts_pass(text: str) -> None:
    assert not list(leaks_of(row(text, fact(text))))


DAYS = st.integers(1, 400).map(lambda days: DECIDED.date() + timedelta(days=days))
FORMATS = (
    lambda day: day.isoformat(),
    lambda day: f"{day:%B} {day.day}, {day.year}",
    lambda day: f"{day.day} {day:%b} {day.year}",
    lambda day: f"{day.year}年{day.month}月{day.day}日",
)
MOVES = ("shares rose 3%", "the stock closed lower", "it plunged", "Aktie fell", "股价大涨", "收于新高")


@given(DAYS, st.sampled_from(FORMATS), st.sampled_from(MOVES), st.booleans(), st.sampled_from(CLEAN))
def test_an_outcome_with_its_day_is_found(day: date, write: Any, move: str, in_fact: bool, around: str) -> None:
    planted = f"{around}\nOn {write(day)} {move}"
    found = list(leaks_of(row("ACME", fact(planted)) if in_fact else row(planted)))
    assert [leak.field for leak in found] == ["facts[0].text" if in_fact else "text"]
    assert str(day) in found[0].reason


@pytest.mark.parametrize("text", ["The next day shares jumped.", "One week later it settled at 12.", "次日股价下跌"])
def test_an_outcome_without_its_day_is_found(text: str) -> None:
    assert [leak.field for leak in leaks_of(row(text))] == ["text"]
    assert not list(leaks_of(row(text, fact(text))))  # a dated story tells of days before it


@given(st.integers(1, 10**7))
def test_a_fact_from_later_is_found(seconds: int) -> None:
    late = (DECIDED + timedelta(seconds=seconds)).isoformat()
    found = list(leaks_of(row("ACME", fact(), fact(when=late))))
    assert [leak.field for leak in found] == ["facts[1].available_at"] and late in found[0].reason


def test_a_text_of_no_date_is_found() -> None:
    (leak,) = leaks_of(row("ACME", fact("ACME has 900 shops as of today.", None)))
    assert leak.field == "facts[0].available_at" and "'as of today'" in leak.reason
    (leak,) = leaks_of(row("ACME", fact(when="2024-05-01")))
    assert "not a time with its zone" in leak.reason


@pytest.mark.parametrize("when", [None, (DECIDED + timedelta(days=9)).isoformat()])
def test_a_rationale_that_may_know_the_outcome_is_found(when: str | None) -> None:
    (leak,) = leaks_of(row(rationale="Up, because orders grow.", rationale_available_at=when))
    assert leak.field == "rationale"
    assert not list(leaks_of(row(rationale="Up.", rationale_available_at=DECIDED.isoformat())))


def test_a_target_that_is_over_is_found() -> None:
    (leak,) = leaks_of(row(target_end=DECIDED.isoformat()))
    assert leak.field == "target_end"


def test_a_refusal_names_rows_and_fields() -> None:
    late = replace(row("ACME", fact(when="2024-05-06T00:00:00+00:00")), line=9)
    with pytest.raises(DataError) as caught:
        refuse_leaks({"train": [late] * 7, "validation": [], "test": []})
    assert "rows.jsonl:9: facts[0].available_at: known from 2024-05-06" in str(caught.value)
    assert "and 2 more" in str(caught.value)
    refuse_leaks({"train": [row()], "validation": [], "test": []})
    with pytest.raises(DataError, match="window meets"):
        refuse_leaks({"train": [row()], "test": [row()]})


def test_rows_without_times_cannot_be_checked() -> None:
    with pytest.raises(DataError, match=r"rows.jsonl:7: 'None' in 'decided_at' is not a time"):
        list(leaks_of(row(decided_at=None)))
