from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from fingpt_lora.errors import RecipeError
from fingpt_lora.recipe import dump_recipe, json_schema, load_recipe, parse_recipe
from fingpt_lora.sections import Recipe

scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8))
trees = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=12), inner, max_size=4)),
)


def test_an_empty_recipe_is_the_default_job() -> None:
    assert parse_recipe("") == Recipe() == parse_recipe("training:\nadapter:\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:\n  b: 1\n", "r.yaml:1: a: unknown key in a recipe"),
        ("model:\n  qantization: nf4\n", "r.yaml:2: model.qantization: unknown key in section 'model'. Did you mean 'quantization'?"),
        ("\nmodel:\n  quantization: nf5\n", "r.yaml:3: model.quantization: must be 'none', 'int8' or 'nf4' (it is 'nf5'). Did you mean 'nf4'?"),
        ("task:\n  name: forecast\n  labels: 5\n", "r.yaml:1: task: 'labels' belongs to the task 'sentiment', not to 'forecast'"),
        ("data:\n  market:\n    callendar: XNYS\n", "r.yaml:3: data.market.callendar: unknown key in section 'data.market'. Did you mean 'calendar'?"),
        ("task:\n  labels: 4\n", "must be 3, 5 or 7 (it is 4)"),
        ("data:\n  split: {method: group}\n", "r.yaml:2: data.split: method 'group' needs 'column'."),
        ("data:\n  split: {method: random, column: x}\n", "does not take 'column'"),
        ("data:\n  bad_rows: 2\n", "r.yaml:2: data.bad_rows: must be below 1 (it is 2)."),
        ("data: {limit: many}\n", "r.yaml:1: data.limit: must be a whole number (it is 'many')."),
        ("data: {limit: true}\n", "must be a whole number (it is true)."),
        ("data: {limit: 0}\n", "must be at least 1 (it is 0)."),
        ("evaluation:\n  batch_size: 2.5\n", "r.yaml:2: evaluation.batch_size: must be a whole number (it is 2.5)."),
        ("evaluation: {base_model: 'yes'}\n", "must be true or false (it is 'yes')."),
        ("evaluation: {confidence: 0.5}\n", "must be above 0.5 (it is 0.5)."),
        ("data: {split: random}\n", "data.split: must be a mapping with method, column, test, ... (it is 'random'). Write {method: random}."),
        ("task: event\n", "task: must be a mapping with name, language, labels, ... (it is 'event')."),
        ("data: {split: {test: 0.2}}\n", "data.split.method: is missing (random: stratified by label; "),
        ("data: {split: {method: random, test: 20%}}\n", "data.split.test: must be a number (it is '20%')."),
        ("data: {path: 7}\n", "data.path: must be text or a list (it is 7)."),
        ("data: {path: []}\n", "data.path: must name at least 1, not 0."),
        ("data: {labels: [up]}\n", "data.labels: must be a mapping (it is a list)."),
        ("data: {labels: {1: 2}}\n", "data.labels.1: must be text (it is 2). Put it in quotes."),
        ("task: {name: event, types: profit}\n", "task.types: must be a list or a mapping (it is 'profit')."),
        ("task: {labels: '3'}\n", "task.labels: must be 3, 5 or 7 (it is '3')."),
        ("model: {quantization: 5}\n", "must be 'none', 'int8' or 'nf4' (it is 5)."),
        ("model: {knowledge_cutoff: 2024-01-01}\n", "must be text (it is the date 2024-01-01). Put it in quotes."),
        ("model: {knowledge_cutoff: May}\n", "must be a day, such as 2024-05-31 (it is 'May')."),
        ("model: {base: }\n", "model.base: must be text (nothing is written there)."),
        ("mixture: {tasks: {a: {recipe: x}}}\n", "mixture.tasks: must name at least 2, not 1."),
        ("output: ''\n", "output: must not be empty."),
        (f"data: {{limit: {'x' * 99}}}\n", f"(it is '{'x' * 59}...)."),
        ("a: 1\na: 2\n", "not valid YAML"),
        ("a: [1\n", "not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']\n", "unknown key"),
        ("- a\n", "a recipe is a mapping of sections"),
    ],
)  # fmt: skip
def test_a_mistake_names_file_line_key_and_the_way_out(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, name="r.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_recipe_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "sentiment.yaml").write_text("")
    with pytest.raises(RecipeError, match="Did you mean 'sentiment.yaml'"):
        load_recipe(tmp_path / "sentimant.yaml")


def test_numbers_are_yaml_1_2() -> None:
    recipe = parse_recipe("training: {learning_rate: 1e-4}\ndata: {labels: {no: negative, 1: positive, 2.0: neutral}}")
    assert recipe.training["learning_rate"] == 1e-4
    assert recipe.data.labels == {"no": "negative", "1": "positive", "2.0": "neutral"}


def test_overrides_replace_words_and_reach_deep() -> None:
    recipe = parse_recipe(
        "model: {quantization: nf4}", ["model.quantization.load_in_8bit=true", "output=/tmp/x y", "data.split=null"]
    )
    assert recipe.model.quantization == {"load_in_8bit": True}
    assert recipe.output == "/tmp/x y" and recipe.data.split is None


@pytest.mark.parametrize("override", ["output", "=1", "training.=1", ".x=1", "training.learning_rate=fast", "nope.x=1"])
def test_a_wrong_override_names_itself(override: str) -> None:
    with pytest.raises(RecipeError, match=r"--set "):
        parse_recipe("", [override])


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(ValidationError):
        Recipe().output = "elsewhere"  # type: ignore[misc]


def test_a_dumped_forecast_names_no_key_of_another_task() -> None:
    recipe = parse_recipe(
        "task: {name: forecast, horizon: 5}\ndata: {market: {moves: 3}, split: {method: time, column: date}}"
    )
    assert "labels" not in recipe.as_dict()["task"] and parse_recipe(dump_recipe(recipe)) == recipe


def test_dumping_and_parsing_is_the_identity() -> None:
    text = """
task: {labels: 7, language: zh}
model: {quantization: {load_in_4bit: true}, prompt: fingpt, system: "你是分析师: 1"}
adapter: {r: 4, target_modules: [q_proj, v_proj], rank_pattern: {q_proj: 8}}
data: {path: [a.csv, b.csv], labels: {0: neutral, "yes": neutral}, split: {method: time, column: date}}
training: {learning_rate: 1e-4, eval_strategy: epoch, early_stopping_patience: 2}
"""
    recipe = parse_recipe(text)
    assert parse_recipe(dump_recipe(recipe)) == recipe


@given(st.text(max_size=200))
@example("-_")
def test_no_text_brings_a_traceback(text: str) -> None:
    try:
        assert isinstance(parse_recipe(text), Recipe)
    except RecipeError as error:
        assert str(error)


@given(st.dictionaries(st.sampled_from([*Recipe.model_fields, "other"]), trees, max_size=4))
def test_no_tree_brings_a_traceback(tree: dict[str, object]) -> None:
    text = json.dumps(tree)
    try:
        recipe = parse_recipe(text)
    except RecipeError as error:
        assert str(error)
    else:
        assert parse_recipe(dump_recipe(recipe)) == recipe


@given(st.text(max_size=40))
def test_no_override_brings_a_traceback(override: str) -> None:
    try:
        parse_recipe("", [override])
    except RecipeError as error:
        assert str(error)


def test_the_schema_knows_our_keys_and_the_installed_ones() -> None:
    schema = json_schema()
    assert {"learning_rate", "batching"} <= schema["properties"]["training"]["properties"].keys()
    assert "packing" not in schema["properties"]["training"]["properties"]
    assert "r" in schema["properties"]["adapter"]["properties"]
    json.dumps(schema)


def test_labels_of_the_recipe_keep_their_order() -> None:
    recipe = parse_recipe("task: {name: event, types: {Turnover: turnover, Profit: profit, Debt: debt}}")
    again = parse_recipe(dump_recipe(recipe))
    assert again == recipe and list(again.task.types) == ["Turnover", "Profit", "Debt"]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("{name: event}", "the task 'event' needs 'types'"),
        ("{name: choice, choices: [a, b]}", "the task 'choice' needs 'question'"),
        (
            "{name: relation, choices: [a, b], question: x}",
            "'question' belongs to the task 'choice', not to 'relation'",
        ),
    ],
)
def test_a_task_gets_what_it_needs_and_nothing_else(task: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe(f"task: {task}")
