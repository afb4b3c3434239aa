"""Every recipe loads, says at its head how it is run, and its real data (where it is there) passes the check."""

from __future__ import annotations

from pathlib import Path

import pytest

from fingpt_lora.plan import make_plan
from fingpt_lora.recipe import load_recipe
from fingpt_lora.tasks.base import language_of

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_it_loads_and_names_its_command(path: Path) -> None:
    load_recipe(path)
    head = path.read_text(encoding="utf-8")[:700]
    assert f"accelerate launch -m fingpt_lora.train recipes/{path.name}" in head
    assert "healthy run" in path.read_text(encoding="utf-8")


def test_the_default_plan(checkpoint: Path) -> None:
    plan = make_plan(load_recipe(ROOT / "recipes" / "sentiment.yaml"))
    assert len(plan.train) == len(plan.splits.train) >= 700 and len(plan.splits.test) >= 180
    assert plan.shortened == 0
    assert {language_of(row.text) for row in plan.splits.test} == {"en", "zh"}
