"""The embedded sample is what its data card says."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from typing import Any

import pytest

from fingpt_lora.data import load_labelled, load_splits
from fingpt_lora.data.audit import normalise
from fingpt_lora.data.sources import SAMPLE_FILE
from fingpt_lora.sections import DataSection
from fingpt_lora.tasks import SentimentTask
from fingpt_lora.tasks.base import language_of

ROWS: list[dict[str, Any]] = [json.loads(line) for line in SAMPLE_FILE.read_text(encoding="utf-8").splitlines()]
CARD = (SAMPLE_FILE.parent / "README.md").read_text(encoding="utf-8")
TASK = SentimentTask(3)
LABELS = ("negative", "neutral", "positive")


def test_it_loads_as_the_default_data() -> None:
    splits = load_splits(DataSection(), TASK)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (743, 0, 187)
    assert not any(splits.audit.duplicates.values()) and splits.audit.contradictions["train"] == 0
    assert splits.audit.licence == "cc0-1.0" and not splits.audit.warnings and not splits.audit.bad_rows
    assert splits.train[0].language in ("en", "zh")


def test_evaluating_on_it_takes_the_test_rows() -> None:
    assert len(load_labelled("sample", DataSection(), TASK)[0]) == 187


def test_fields_and_ids() -> None:
    for language, count in (("en", 620), ("zh", 310)):
        ids = [row["id"] for row in ROWS if row["language"] == language]
        assert sorted(ids) == [f"{language}-{n:04}" for n in range(1, count + 1)]
    names = {"id", "split", "label", "language", "source", "phenomenon", "text"}
    assert all(row.keys() == names and row["label"] in LABELS and row["split"] in ("train", "test") for row in ROWS)
    assert all(row["text"] == row["text"].strip() and "\n" not in row["text"] for row in ROWS)
    assert len({normalise(row["text"]) for row in ROWS}) == len(ROWS)


def test_the_language_is_what_the_task_takes_it_for() -> None:
    assert [row["id"] for row in ROWS if language_of(row["text"]) != row["language"]] == []


def test_a_fifth_of_each_stratum_is_for_the_test() -> None:
    strata = Counter((row["language"], row["label"], row["phenomenon"]) for row in ROWS)
    test = Counter((row["language"], row["label"], row["phenomenon"]) for row in ROWS if row["split"] == "test")
    assert {key: test[key] for key in strata} == {key: round(count * 0.2) for key, count in strata.items()}


def test_the_order_is_mixed() -> None:
    longest = max(len(list(run)) for _, run in itertools.groupby(row["label"] for row in ROWS))
    assert longest <= 10


def test_no_row_of_one_side_resembles_one_of_the_other() -> None:
    def grams(text: str) -> set[str]:
        text = normalise(text)
        return {text[n : n + 3] for n in range(len(text) - 2)}

    for language in ("en", "zh"):
        sides = [
            [grams(row["text"]) for row in ROWS if row["language"] == language and row["split"] == side]
            for side in ("train", "test")
        ]
        closest = max(len(a & b) / len(a | b) for a, b in itertools.product(*sides))
        assert closest < 0.3


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_cards_tables_are_right(language: str) -> None:
    part = CARD.split("English:" if language == "en" else "Chinese:")[1].split("Chinese:")[0].split("## The split")[0]
    table = {
        cells[0].strip("*"): tuple(map(int, cells[1:]))
        for cells in (re.findall(r"[^|\s]+", line) for line in part.splitlines())
        if len(cells) == 5 and cells[1].isdigit()
    }
    rows = [row for row in ROWS if row["language"] == language]
    expected = {"all": rows}
    for field in ("source", "phenomenon"):
        expected |= {value: [r for r in rows if r[field] == value] for value in sorted({r[field] for r in rows})}
    assert table == {
        name: (*(sum(r["label"] == label for r in group) for label in LABELS), len(group))
        for name, group in expected.items()
    }
