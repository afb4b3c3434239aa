"""Forecasts with their reasons; those without are in test_tasks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingpt_lora.errors import DataError
from fingpt_lora.plan import make_plan
from fingpt_lora.recipe import parse_recipe
from fingpt_lora.tasks.base import Answer, Fact
from fingpt_lora.tasks.forecast import ForecastTask, ReasonedForecastTask

TASKS = [
    ReasonedForecastTask(ForecastTask(target, asked_in=lang))
    for target in ("direction", "bins")
    for lang in ("en", "zh")
]  # type: ignore[arg-type]
REASONS = st.text(min_size=1).map(str.strip).filter(bool)


@pytest.mark.parametrize("task", TASKS)
@given(data=st.data())
def test_reading_undoes_writing(task: ReasonedForecastTask, data: st.DataObject) -> None:
    label, reasons = data.draw(st.sampled_from(task.labels)), data.draw(REASONS)
    answer = task.gold({"label": label, "rationale": reasons}, "Sales rose.")
    assert isinstance(answer, Answer)
    read = task.read(answer.text, "Sales rose.")
    assert read is not None and read.content == {"label": label, "rationale": reasons}
    assert read.facts == (Fact(label, ("move",)),)


@pytest.mark.parametrize(
    "miss", ["up", "up\n", "up\n ", "Up\nSales rose.", " up\nSales rose.", "up: Sales rose.", "\nup"]
)
def test_no_near_miss_is_read(miss: str) -> None:
    assert TASKS[0].read(miss, "Sales rose.") is None


@pytest.mark.parametrize(
    ("raw", "reason"),
    [({"label": "sideways", "rationale": "x"}, "unknown label 'sideways'"), ({"label": "up"}, "gives no reasons")],
)
def test_what_cannot_be_used_says_why(raw: dict[str, str], reason: str) -> None:
    found = TASKS[0].gold(raw, "Sales rose.")
    assert isinstance(found, str) and reason in found


def test_reasons_that_may_have_known_the_outcome_are_refused(tmp_path: Path) -> None:
    rows = [
        {
            "text": f"Sales rose {day}.",
            "label": ("up", "down")[day % 2],
            "rationale": "Sales grow.",
            "rationale_available_at": f"2024-03-{day:02}T15:00:00+00:00",
            "decided_at": f"2024-03-{day:02}T16:00:00+00:00",
            "target_end": f"2024-03-{day:02}T20:00:00+00:00",
            "facts": [{"text": "Sales rose.", "available_at": f"2024-03-{day:02}T09:00:00+00:00"}],
        }
        for day in range(1, 21)
    ]
    file = tmp_path / "rows.jsonl"
    recipe = parse_recipe(
        f"task: {{name: forecast, rationale: true, language: en}}\ndata: {{path: {file}, "
        "split: {method: time, column: decided_at}}\n"
    )

    def plan() -> object:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return make_plan(recipe)

    assert plan()
    rows[3]["rationale_available_at"] = "2024-03-05T09:00:00+00:00"
    with pytest.raises(DataError, match="rationale: written at 2024-03-05"):
        plan()
    rows[3].pop("rationale")
    with pytest.raises(DataError, match="gives no reasons"):
        plan()
