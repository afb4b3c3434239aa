"""The README names only what there is."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from fingpt_lora.data import load_splits
from fingpt_lora.plan import make_plan
from fingpt_lora.recipe import load_recipe, parse_recipe
from fingpt_lora.sections import DataSection
from fingpt_lora.tasks import SentimentTask, build_task

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_file_it_names_is_there() -> None:
    named = set(re.findall(r"`((?:recipes|launch|notebooks|benchmarks|fingpt_lora)/[\w./-]*)`", TEXT)) | set(
        re.findall(r"\]\((\w[\w./]+)\)", TEXT)
    )
    assert named and [name for name in named if not (ROOT / name).exists()] == []


def test_its_make_targets_and_commands_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(f"\n{target}:" in makefile for target in re.findall(r"^make (\w+)$", TEXT, re.MULTILINE))
    from fingpt_lora.cli import app

    commands = {command.callback.__name__ for command in app.registered_commands if command.callback}
    assert set(re.findall(r"^fingpt-lora (\w+)", TEXT, re.MULTILINE)) <= commands


def test_its_overrides_are_accepted() -> None:
    written = re.findall(r"--set ([\w.]+=[\w./]+)", TEXT)
    assert written
    for override in (text for text in written if not text.endswith("...")):
        load_recipe(ROOT / "recipes" / "sentiment.yaml", [override])


def test_the_number_of_sample_sentences_is_true() -> None:
    splits = load_splits(DataSection(), SentimentTask(3))
    rows = len(splits.train) + len(splits.validation) + len(splits.test)
    assert f"sample of {rows} sentences" in " ".join(TEXT.split())


def test_make_would_run_what_it_says() -> None:
    result = subprocess.run(
        ["make", "-n", "sentiment", "VENV=not-there-yet"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "accelerate launch -m fingpt_lora.train recipes/sentiment.yaml" in result.stdout
    assert "--constraint constraints.txt" in result.stdout


def test_its_class_of_a_task_of_ones_own_is_one(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = re.findall(r"```python\n(from dataclasses.*?)```", TEXT, re.DOTALL)
    (tmp_path / "my_tasks.py").write_text(block, encoding="utf-8")
    rows = "".join(f"Call me {i},{('asap', 'routine')[i % 2]}\n" for i in range(20))
    (tmp_path / "rows.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    recipe = parse_recipe(
        "task: {name: custom, python: 'my_tasks:Urgency'}\ndata: {path: rows.csv, split: {method: random}}\n"
    )
    plan = make_plan(recipe)
    assert plan.contract.labels == ("urgent", "routine") and len(plan.train) == 16
    assert "urgent or routine?" in plan.encoder.text(plan.train[0].ids)


def test_its_example_of_a_task_of_ones_own_is_one() -> None:
    (block,) = re.findall(r"```\n(task:\n.*?)```", TEXT, re.DOTALL)
    task = build_task(parse_recipe(block).task)
    assert task.answer("macro", "en") == "the economy" and "the economy" in task.instruction("en")
