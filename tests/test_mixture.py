"""Several tasks in one adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from fingpt_lora import mixture
from fingpt_lora.data import Row, Splits
from fingpt_lora.data.audit import Audit
from fingpt_lora.errors import DataError, FingptLoraError, RecipeError
from fingpt_lora.plan import make_plan
from fingpt_lora.predict import Predictor
from fingpt_lora.recipe import dump_recipe, load_recipe, parse_recipe
from fingpt_lora.runs import open_run
from fingpt_lora.sections import MixtureSection, Recipe
from fingpt_lora.train import run_recipe

SENTENCES = [
    "Sales rose to 5.",
    "Sales fell to 3.",
    "The board meets on Thursday.",
    "Profit doubled.",
    "A loss widened.",
]
LABELS = ["positive", "negative", "neutral", "positive", "negative"]


def section(**tasks: dict[str, object]) -> MixtureSection:
    return MixtureSection.model_validate({"tasks": {name: {"recipe": "x", **own} for name, own in tasks.items()}})


@given(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 500), min_size=2), st.sampled_from((1.0, 2.0, 5.0)))
def test_no_row_is_left_out_and_heat_levels(sizes: dict[str, int], temperature: float) -> None:
    mixed = section(**{name: {} for name in sizes}).model_copy(update={"temperature": temperature})
    counts = mixture.copies(sizes, mixed)
    assert all(counts[name] >= sizes[name] for name in sizes)
    if temperature == 1:
        assert counts == sizes
    largest = max(sizes, key=lambda name: sizes[name])
    assert counts[largest] == sizes[largest]
    for name, size in sizes.items():
        assert counts[name] == round(sizes[largest] * (size / sizes[largest]) ** (1 / temperature))


def test_weights_are_shares_and_untrained_tasks_get_none() -> None:
    mixed = section(a={"weight": 1}, b={"weight": 3}, c={"train": False})
    assert mixture.copies({"a": 100, "b": 100, "c": 50}, mixed) == {"a": 100, "b": 300, "c": 0}


@given(st.integers(1, 20), st.integers(0, 60))
def test_rows_are_repeated_evenly(size: int, count: int) -> None:
    drawn = mixture.repeated(range(size), count, seed=1)
    assert len(drawn) == count
    occurrences = [drawn.count(item) for item in range(size)]
    assert max(occurrences) - min(occurrences) <= 1


def write(folder: Path, *, rows: int = 12, overlap: bool = False) -> Path:
    """Write two recipes with rows of their own and a mixture of them."""
    for name, wording in (("sentiment", "Alpha: "), ("topic", "Alpha: " if overlap else "Beta: ")):
        lines = [
            {
                "text": f"{wording}{SENTENCES[i % 5]} ({i})",
                "label": LABELS[i % 5] if name == "sentiment" else ("money", "other")[i % 2],
                "split": "test" if i % 4 == (0 if name == "sentiment" else 1) else "train",
            }
            for i in range(rows)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    (folder / "sentiment.yaml").write_text(
        f"task: {{language: en}}\ndata: {{path: {folder}/sentiment.jsonl}}\noutput: unused\n"
    )
    (folder / "topic.yaml").write_text(
        "task: {name: choice, language: en, question: What is it about?, choices: {money: money, other: other}}\n"
        f"data: {{path: {folder}/topic.jsonl}}\nevaluation: {{bootstrap: 100}}\noutput: unused\n"
    )
    recipe = folder / "mix.yaml"
    recipe.write_text(
        "mixture: {tasks: {sentiment: {recipe: sentiment.yaml}, topic: {recipe: topic.yaml, weight: null}}}\n"
        "model: {quantization: none}\nadapter: {r: 4, target_modules: [q_proj]}\n"
        "training: {max_steps: 2, per_device_train_batch_size: 4}\n"
        f"output: {folder}/run\n"
    )
    return recipe


def test_what_one_task_holds_out_no_other_trains(tmp_path: Path) -> None:
    plan = make_plan(load_recipe(write(tmp_path, overlap=True)))
    held_out = {row.text for part in plan.parts.values() for row in part.splits.test}
    for part in plan.parts.values():
        assert held_out.isdisjoint(row.text for row in part.splits.train)
        assert part.splits.audit.duplicates["other_tasks"] == 3
        assert part.splits.audit.totals["train"] == len(part.splits.train) == len(part.train)
    assert len(plan.train) == len(plan.groups) == sum(len(part.train) for part in plan.parts.values())
    assert len(set(plan.groups)) == 2


def test_an_article_is_known_in_the_frame_of_another_task() -> None:
    def splits(train: str, test: str) -> Splits:
        rows = [Row(train, "a", "x", 1)], [Row(test, "a", "x", 2)]
        return Splits((*rows[0], Row("Something else.", "a", "x", 3)), (), tuple(rows[1]), Audit(rows={}))

    kept = mixture.kept_apart(
        {"relation": splits("Nokia → Acme\nNokia buys Acme.", "x"), "sentiment": splits("y", "Nokia buys ACME!")}
    )
    assert [row.text for row in kept["relation"].train] == ["Something else."]
    kept = mixture.kept_apart(
        {"question": splits("Sales | 5\nHow much?", "x"), "text": splits("Sales | 5", "Another document.")}
    )
    assert len(kept["question"].train) == 2 and len(kept["text"].train) == 2


def test_the_order_of_the_tasks_is_part_of_what_a_mixture_is() -> None:
    one, other = section(a={}, b={}), section(b={}, a={})
    parts = {"a": "1", "b": "2"}
    assert mixture.identity(one, parts) != mixture.identity(other, parts)


def test_a_stopped_mixture_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_base: Path) -> None:
    from fingpt_lora.callbacks import StepTimer

    settings = [f"model.base={small_base}", "model.dtype=float32", "training.save_steps=1", "training.max_steps=3"]
    recipe = write(tmp_path)
    whole = run_recipe(recipe, [*settings, f"output={tmp_path / 'whole'}"])
    begin = StepTimer.on_step_begin

    def die(self: StepTimer, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            raise KeyboardInterrupt
        begin(self, args, state, control, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(StepTimer, "on_step_begin", die)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(recipe, [*settings, f"output={tmp_path / 'stopped'}"])
    stopped = run_recipe(recipe, [*settings, f"output={tmp_path / 'stopped'}"])
    one, two = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (whole, stopped))
    assert all(torch.allclose(one[key], two[key], atol=1e-6) for key in one)


def test_validation_is_over_the_tasks(tmp_path: Path, small_base: Path) -> None:
    recipe = write(tmp_path, rows=24)
    settings = [f"model.base={small_base}", "training.eval_strategy=epoch", "training.max_steps=-1"]
    with pytest.raises(DataError, match="set data.validation_share in a task's recipe"):
        make_plan(load_recipe(recipe, settings))
    shares = [f"mixture.tasks.{name}.set=[data.validation_share=0.3]" for name in ("sentiment", "topic")]
    folder = run_recipe(recipe, [*settings, *shares, "training.num_train_epochs=1"])
    assert (folder / "tasks" / "topic" / "report.html").is_file()


def test_an_unseen_task_is_told_as_such(tmp_path: Path, small_base: Path) -> None:
    recipe = write(tmp_path)
    folder = run_recipe(recipe, [f"model.base={small_base}", "mixture.tasks.topic.train=false"])
    seen, unseen = ((folder / "tasks" / name / "README.md").read_text() for name in ("sentiment", "topic"))
    assert "never seen" in unseen and "never seen" not in seen
    assert "tested, without having seen it" in (folder / "tasks" / "topic" / "report.html").read_text()


def test_one_run_folder_per_task(tmp_path: Path) -> None:
    recipe = write(tmp_path)
    folder = run_recipe(recipe)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics["tasks"]) == {"sentiment", "topic"}
    for name in metrics["tasks"]:
        own = folder / "tasks" / name
        assert (own / "report.html").is_file() and not (own / "adapter").exists()
        answer = Predictor.load(own).predict(["Sales rose."])[0]
        assert answer["label"] in open_run(own).contract.labels
    with pytest.raises(FingptLoraError, match="name one of them: .*tasks/sentiment'"):
        Predictor.load(folder)
    assert run_recipe(recipe) == folder  # done: nothing is computed again
    saved = parse_recipe((folder / "recipe.yaml").read_text())
    assert saved.mixture is not None and "task:" not in dump_recipe(saved)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mixture: {tasks: {a: {recipe: x}}}", "at least 2"),
        ("mixture: {tasks: {a: {recipe: x}, b: {recipe: y}}}\ntask: {name: text}", "takes 'task' from the recipes"),
        ("mixture: {tasks: {a: {recipe: x, wheight: 1}, b: {recipe: y}}}", "Did you mean 'weight'"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe(text)


def test_what_has_no_effect_is_refused(tmp_path: Path) -> None:
    recipe = write(tmp_path)
    with pytest.raises(RecipeError, match="'training.max_length=99' has no effect"):
        make_plan(load_recipe(recipe, ["mixture.tasks.topic.set=[training.max_length=99]"]))
    with pytest.raises(RecipeError, match="classes of their own"):
        make_plan(load_recipe(recipe, ["model.head=classification"]))


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({"a": {"train": False}, "b": {"train": False}}, "none of them is trained"),
        ({"a": {"weight": 1.0}, "b": {}}, "every trained task has a weight, or none"),
    ],
)
def test_tasks_must_go_together(tasks: dict[str, dict[str, object]], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        mixture.check(Recipe(), section(**tasks))
