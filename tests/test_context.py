"""What a row is told beside its article."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fingpt_lora.context import put_before
from fingpt_lora.contract import load_tokenizer, make_contract
from fingpt_lora.data import Row
from fingpt_lora.errors import DataError
from fingpt_lora.plan import make_plan, texts
from fingpt_lora.prompts import PromptEncoder
from fingpt_lora.recipe import parse_recipe
from fingpt_lora.tasks import SentimentTask

ARTICLE = "Sales rose by a third in the quarter, the company said."


def encoder(checkpoint: Path, max_length: int = 512) -> PromptEncoder:
    tokenizer, task = load_tokenizer(checkpoint), SentimentTask(3, "en")
    contract = make_contract(task, checkpoint, template="chat", system=None, max_length=max_length, tokenizer=tokenizer)
    return PromptEncoder(contract, tokenizer, task)


def told(own: PromptEncoder, budgets: dict[str, int], **fields: Any) -> str:
    (row,) = put_before([Row(ARTICLE, "positive", "x", 1, fields=fields)], budgets, own)
    assert row.text == ARTICLE
    prompt = own.text(own.prompts(texts([row]))[0].ids)
    assert row.context + ARTICLE in prompt  # as it is asked
    return row.context + row.text


def test_columns_stand_before_the_article_in_the_order_of_the_recipe(checkpoint: Path) -> None:
    own = encoder(checkpoint)
    text = told(own, {"prices": 50, "facts": 50}, facts="A maker of\nphones.", prices="up, up, down")
    assert text == f"prices: up, up, down\nfacts: A maker of phones.\n{ARTICLE}"
    assert told(own, {"facts": 50}, facts="  ") == ARTICLE
    assert told(own, {"facts": 50}) == ARTICLE


def test_each_column_keeps_to_its_budget(checkpoint: Path) -> None:
    own = encoder(checkpoint)
    text = told(own, {"facts": 5}, facts="one two three four five six seven eight nine")
    line = text.splitlines()[0].removeprefix("facts: ")
    assert own.length(line) <= 5 and "one two three four five six".startswith(line)


@pytest.mark.parametrize("spare", [0, 3, 10, 25])
def test_the_last_column_gives_way_first_and_the_article_stays_whole(checkpoint: Path, spare: int) -> None:
    frame = 512 - encoder(checkpoint).room(ARTICLE)
    own = encoder(checkpoint, frame + encoder(checkpoint).length(ARTICLE) + spare)
    text = told(own, {"prices": 50, "facts": 50}, prices="up and down and up again", facts="word " * 30)
    assert text.endswith(ARTICLE)
    assert own.length(text) <= own.room(text) and not own.prompts([text])[0].shortened
    if "facts" in text:
        assert text.startswith("prices: up and down and up again\n")
    assert (text == ARTICLE) == (spare < 4)


def test_spans_of_written_answers_count_in_the_text_alone(tmp_path: Path) -> None:
    row = {"text": "Nokia rose.", "entities": [{"type": "ORG", "start": 0, "end": 5}], "facts": "A maker of phones."}
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({**row, "text": f"Nokia rose {i}."}) + "\n" for i in range(8)))
    plan = make_plan(
        parse_recipe(
            "task: {name: entity, types: [ORG], language: en}\n"
            f"data: {{path: {file}, context: {{facts: 20}}, split: {{method: random, test: 0.5}}}}\n"
        )
    )
    for row_, text in zip(plan.splits.test, texts(plan.splits.test), strict=True):
        read = plan.task.read(str(row_.label), text)  # type: ignore[attr-defined]
        assert "facts: " in row_.context and read == row_.label


RECIPE = """
task: {{language: en}}
data: {{path: {path}, context: {{{column}: 20}}, split: {{method: random, test: 0.4}}}}
"""


def test_a_recipe_with_context(tmp_path: Path) -> None:
    rows = "".join(f"Sales rose {i}.,positive,maker {i}\nSales fell {i}.,negative,shop {i}\n" for i in range(10))
    file = tmp_path / "rows.csv"
    file.write_text("text,label,facts\n" + rows)
    plan = make_plan(parse_recipe(RECIPE.format(path=file, column="facts")))
    assert all(row.context.startswith("facts: ") for row in (*plan.splits.train, *plan.splits.test))
    assert "facts: " in plan.encoder.text(plan.train[0].ids)
    without = make_plan(
        parse_recipe(f"task: {{language: en}}\ndata: {{path: {file}, split: {{method: random, test: 0.4}}}}\n")
    )
    assert plan.identity != without.identity
    assert [row.text for row in plan.splits.test] == [row.text for row in without.splits.test]
    with pytest.raises(DataError, match="no row has a column 'fact'. Did you mean 'facts'"):
        make_plan(parse_recipe(RECIPE.format(path=file, column="fact")))
