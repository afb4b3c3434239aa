from __future__ import annotations

import random
from collections import Counter
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fingpt_lora.data.rows import Row
from fingpt_lora.data.splits import by_column, hold_out, walk_forward
from fingpt_lora.errors import DataError
from fingpt_lora.sections import SplitSection

LABELS = ["negative", "neutral", "positive"]


def make(labels: list[str], **columns: list[Any]) -> list[Row]:
    fields = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)] or [{}] * len(
        labels
    )
    return [Row(f"text {n}", label, "a.csv", n + 2, None, fields[n]) for n, label in enumerate(labels)]


def lines(rows: list[Row]) -> list[int]:
    return [row.line for row in rows]


RANDOM = SplitSection(method="random")
MANY = st.lists(st.sampled_from(LABELS), min_size=5, max_size=80)


@given(MANY, st.floats(0.1, 0.8), st.integers(0, 99))
def test_random_is_disjoint_complete_repeatable_and_stratified(labels: list[str], share: float, seed: int) -> None:
    rows, split = make(labels), SplitSection(method="random", seed=seed)
    kept, held = hold_out(rows, share, split)
    assert sorted(lines(kept) + lines(held)) == lines(rows)
    assert lines(kept) == sorted(lines(kept)) and lines(held) == sorted(lines(held))  # the order stays
    assert (kept, held) == hold_out(rows, share, split)
    assert len(held) == max(1, round(len(rows) * share))
    took, had = Counter(row.label for row in held), Counter(labels)
    assert all(abs(took[label] - had[label] * share) <= 1 for label in had)


def test_another_seed_draws_other_rows() -> None:
    rows = make(LABELS * 40)
    assert hold_out(rows, 0.2, RANDOM)[1] != hold_out(rows, 0.2, SplitSection(method="random", seed=7))[1]


@given(st.lists(st.sampled_from("ABCDEFG"), min_size=8, max_size=60), st.floats(0.1, 0.6), st.integers(0, 9))
def test_groups_stay_together(groups: list[str], share: float, seed: int) -> None:
    rows, split = (
        make(["neutral"] * len(groups), company=groups),
        SplitSection(method="group", column="company", seed=seed),
    )
    wanted = max(1, round(len(set(groups)) * share))
    if wanted == len(set(groups)):
        with pytest.raises(DataError, match="too few different values"):
            hold_out(rows, share, split)
        return
    kept, held = hold_out(rows, share, split)
    assert sorted(lines(kept) + lines(held)) == lines(rows)
    inside, outside = ({row.fields["company"] for row in part} for part in (held, kept))
    assert not inside & outside and len(inside) == wanted
    shuffled = random.Random(0).sample(rows, len(rows))
    assert {row.fields["company"] for row in hold_out(shuffled, share, split)[1]} == inside


@given(
    st.lists(st.integers(0, 30), min_size=5, max_size=60),
    st.floats(0.1, 0.6),
    st.sampled_from(["iso", "short", "date"]),
)
@settings(deadline=None)
def test_time_holds_out_the_newest_days_whole(days: list[int], share: float, spelling: str) -> None:
    dates = [date(2024, 1, 20) + timedelta(day) for day in days]
    spell = {"iso": date.isoformat, "short": lambda d: int(d.strftime("%Y%m%d")), "date": lambda d: d}[spelling]
    rows, split = (
        make(["neutral"] * len(days), date=[spell(d) for d in dates]),
        SplitSection(method="time", column="date"),
    )
    boundary = sorted(dates)[len(dates) - max(1, round(len(dates) * share))]
    if boundary == min(dates):
        with pytest.raises(DataError, match="too many rows share one day"):
            hold_out(rows, share, split)
        return
    kept, held = hold_out(rows, share, split)
    assert sorted(lines(kept) + lines(held)) == lines(rows) and len(held) >= max(1, round(len(rows) * share))
    by_line = {row.line: day for row, day in zip(rows, dates, strict=True)}
    assert max(by_line[n] for n in lines(kept)) < min(by_line[n] for n in lines(held))


def test_moments_of_one_day_are_not_parted_and_zones_are_respected() -> None:
    moments = [
        "2024-05-01T09:00",
        "2024-05-02T09:00Z",
        datetime(2024, 5, 3, 1),
        "2024-05-03T23:00",
        "2024-05-04T06:00+08:00",
    ]
    kept, held = hold_out(make(["neutral"] * 5, at=moments), 0.2, SplitSection(method="time", column="at"))
    assert lines(kept) == [2, 3] and lines(held) == [4, 5, 6]  # 06:00 in Shanghai is still the 3rd in UTC


@pytest.mark.parametrize("value", ["31-05-2024", "05/31/2024", "soon", "2024"])
def test_dates_of_unknown_order_are_refused(value: str) -> None:
    with pytest.raises(DataError, match=rf"a\.csv:2: '{value}' in column 'date' is not a date.*ISO 8601"):
        hold_out(make(["neutral"], date=[value]), 0.2, SplitSection(method="time", column="date"))


def test_a_missing_column_or_value_is_named() -> None:
    rows = make(["neutral"] * 2, company=["A", None])
    with pytest.raises(DataError, match=r"no column 'compny'\. Did you mean 'company'"):
        hold_out(rows, 0.2, SplitSection(method="group", column="compny"))
    with pytest.raises(DataError, match=r"a\.csv:3: nothing in column 'company'"):
        hold_out(rows, 0.2, SplitSection(method="group", column="company"))


def test_nothing_may_be_left_empty() -> None:
    with pytest.raises(DataError, match="too few rows"):
        hold_out(make(["neutral"]), 0.2, RANDOM)
    assert hold_out(make(["neutral"]), 0.0, RANDOM)[1] == []


def test_a_column_names_the_split() -> None:
    names = ["train", "Test", "dev", "valid", "validation", "VAL ", "train"]
    parts = by_column(make(["neutral"] * 7, split=names), "split")
    assert {name: lines(part) for name, part in parts.items()} == {
        "train": [2, 8],
        "validation": [4, 5, 6, 7],
        "test": [3],
    }
    with pytest.raises(DataError, match=r"a\.csv:2: 'eval' in column 'split' names no split"):
        by_column(make(["neutral"], split=["eval"]), "split")


@given(st.integers(1, 5), st.integers(0, 30))
def test_walking_forward_tests_every_later_day_once_on_what_came_before(folds: int, more: int) -> None:
    days = [date(2024, 1, 1) + timedelta(days=n // 2) for n in range(2 * (folds + 1) + more)]
    rows = make(["neutral"] * len(days), date=[day.isoformat() for day in days])
    tested: list[Row] = []
    for fold in range(1, folds + 1):
        before, test = walk_forward(rows, SplitSection(method="time", column="date", folds=folds, fold=fold))
        assert before and test and max(row.fields["date"] for row in before) < min(row.fields["date"] for row in test)
        assert tested == before[len(before) - len(tested) :]
        tested += test
    assert tested == rows[len(rows) - len(tested) :]


def test_too_many_folds_are_refused() -> None:
    with pytest.raises(DataError, match="2 days cannot be cut into 3 parts"):
        walk_forward(
            make(["neutral"] * 2, date=["2024-01-01", "2024-01-02"]),
            SplitSection(method="time", column="date", folds=2, fold=1),
        )


@pytest.mark.parametrize(
    "section", [{"method": "time", "column": "date", "folds": 2}, {"method": "random", "folds": 2, "fold": 1}, {"method": "time", "column": "date", "folds": 2, "fold": 3}]
)  # fmt: skip
def test_folds_are_of_time_and_numbered(section: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="fold"):
        SplitSection(**section)
