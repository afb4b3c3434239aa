"""A task of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from fingpt_lora.data import load_splits
from fingpt_lora.errors import RecipeError
from fingpt_lora.recipe import parse_recipe
from fingpt_lora.tasks import build_task

MODULE = """
from fingpt_lora.tasks.base import Asked

class Tone(Asked):
    name, fields, labels, aliases, several = "tone", ("text",), ("up", "down"), {}, False

    def __init__(self, question="Up or down?"):
        self.question, self.asked_in = question, "en"

    def instruction(self, language):
        return self.question

    def answer(self, label, language):
        return label

    def parse(self, answer, language):
        return answer if answer in self.labels else None

class Nothing:
    name = "nothing"

class Writes(Tone):
    def read(self, written, text):
        return None

class Listed(Tone):
    labels = ["up", "down"]
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = "own_tasks_of_a_test"
    (tmp_path / f"{name}.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "broken_task_of_a_test.py").write_text("def", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def build(python: str, options: str = "{}") -> object:
    return build_task(parse_recipe(f"task: {{name: custom, python: '{python}', options: {options}}}").task)


def test_options_reach_the_class(module: str) -> None:
    task = build(f"{module}:Tone", "{question: Which way?}")
    assert task.instruction("en") == "Which way?"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("python", "options", "message"),
    [
        ("{}", "{}", "write it as module:Class"),
        ("{}:Tune", "{}", "cannot be used: AttributeError: module '.*' has no attribute 'Tune'"),
        ("no_such_module:Tone", "{}", "No module named 'no_such_module'"),
        ("{}:Tone", "{colour: red}", "unexpected keyword argument 'colour'"),
        ("{}:Nothing", "{}", "is no task: it lacks fields, columns, labels"),
        ("{}:Writes", "{}", "it lacks gold, grammar, by_heart"),
        ("{}:Listed", "{}", "its labels are to be a tuple"),
        ("broken_task_of_a_test:Tone", "{}", "cannot be used: SyntaxError"),
    ],
)
def test_what_is_no_task_is_named(module: str, python: str, options: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build(python.format(module), options)


def test_rows_carry_its_labels(module: str) -> None:
    Path("rows.csv").write_text("text,label\n" + "".join(f"Sales {i},{('up', 'down')[i % 2]}\n" for i in range(10)))
    recipe = parse_recipe(
        f"task: {{name: custom, python: '{module}:Tone'}}\ndata: {{path: rows.csv, split: {{method: random}}}}\n"
    )
    splits = load_splits(recipe.data, build_task(recipe.task))
    assert splits.audit.rows["train"] == {"up": 4, "down": 4}


def test_it_needs_its_class() -> None:
    with pytest.raises(RecipeError, match="python"):
        parse_recipe("task: {name: custom}")
