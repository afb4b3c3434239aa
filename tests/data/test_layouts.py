from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingpt_lora.data.known_layouts import strip_frame
from fingpt_lora.data.layouts import Layout
from fingpt_lora.errors import DataError

QUESTION = "What is the sentiment of this news? Please choose an answer from {negative/neutral/positive}."
FRAMED = f"Instruction: {QUESTION}\nInput: Profit rose.\nAnswer: "
TURNS = [
    {"role": "system", "content": "You are an analyst."},
    {"role": "user", "content": "Profit fell."},
    {"role": "assistant", "content": "negative"},
    {"role": "user", "content": FRAMED},
    {"role": "assistant", "content": "positive"},
]


@pytest.mark.parametrize(
    ("layout", "record"),
    [
        ("columns", {"sentence": "Profit rose.", "sentiment": "positive"}),
        ("columns", {"Title": "Profit rose.", "LABEL": "positive"}),
        ("columns", {"标题": "Profit rose.", "标签": "positive"}),
        ("fingpt", {"instruction": QUESTION, "input": "Profit rose.", "output": "positive"}),
        ("alpaca", {"instruction": "Profit rose.", "input": "", "output": "positive"}),
        ("alpaca", {"instruction": FRAMED, "output": "positive"}),
        ("finlora", {"context": FRAMED, "target": "positive"}),
        ("pixiu", {"id": 1, "query": "Long.", "answer": "positive", "text": "Profit rose.", "choices": [], "gold": 0}),
        ("pixiu", {"query": "Profit rose.", "choices": ["negative", "positive"], "gold": 1}),
        ("messages", {"messages": TURNS}),
        (
            "messages",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "Profit rose."}]}, TURNS[-1]]},
        ),
        (
            "messages",
            {"conversations": [{"from": "human", "value": "Profit rose."}, {"from": "gpt", "value": "positive"}]},
        ),
    ],
)
def test_layouts_are_recognised_by_their_columns(layout: str, record: dict[str, Any]) -> None:
    for asked in ("auto", layout):
        assert Layout(asked, {}).read(record)[:2] == ("Profit rose.", "positive")


@pytest.mark.parametrize(
    "record",
    [
        {"instruction": QUESTION, "input": "Profit rose."},
        {"context": FRAMED},
        {"messages": TURNS[:-1]},
        {"text": "Profit rose."},
        {"text": "Profit rose.", "label": None},
    ],
)
def test_a_label_may_be_missing(record: dict[str, Any]) -> None:
    assert Layout("auto", {}).read(record) == ("Profit rose.", None, None)


def test_columns_are_mapped_and_the_rest_is_guessed() -> None:
    record = {"text": "no", "body": "Profit rose.", "tag": "positive", "lang": "en"}
    assert Layout("auto", {"text": "body", "label": "tag"}).read(record) == ("Profit rose.", "positive", "en")
    assert Layout("auto", {"label": "tag"}).read(record) == ("no", "positive", "en")
    framed = {"instruction": QUESTION, "input": "Profit rose.", "output": "x", "gold": "positive"}
    assert Layout("fingpt", {"label": "gold"}).read(framed)[:2] == ("Profit rose.", "positive")


def test_what_cannot_be_read_says_why() -> None:
    assert "no column 'bodi' (data.fields.text). Did you mean 'body'?" in Layout("auto", {"text": "bodi"}).read(
        {"body": "x"}
    )
    assert "(ticker, move) looks like the text" in Layout("auto", {}).read({"ticker": "A", "move": 1})
    assert "header?" in Layout("auto", {}).read({"Net sales rose by a quarter from the year before.": 1, "up": 1})
    for layout in ("fingpt", "finlora", "pixiu", "messages"):
        assert isinstance(Layout(layout, {}).read({"sentence": "x"}), str)
    for turns in ("x", [1], [], [{"role": "assistant", "content": "x"}]):
        assert isinstance(Layout("auto", {}).read({"messages": turns}), str)
    with pytest.raises(DataError, match=r"data\.fields: 'txt' is no field.*'text'"):
        Layout("auto", {"txt": "body"})


def test_why_a_label_is_missing() -> None:
    assert "(News, Price) looks like the label" in Layout("auto", {}).no_label({"News": "x", "Price": 1})
    assert Layout("auto", {}).no_label({"text": "x", "label": ""}) == "it has no label"


def test_another_file_need_not_look_like_the_training_file() -> None:
    lenient = Layout("finlora", {"text": "body", "label": "tag"}, strict=False)
    assert lenient.read({"sentence": "Profit rose.", "sentiment": "positive"})[:2] == ("Profit rose.", "positive")
    assert lenient.read({"body": "Profit rose."})[:2] == ("Profit rose.", None)


@given(st.text(), st.text(st.characters(exclude_characters="\n")))
def test_only_the_exact_frame_is_taken_off(text: str, instruction: str) -> None:
    assert strip_frame(f"Instruction: {instruction}\nInput: {text}\nAnswer: ") == text
    assert strip_frame(f"{instruction}\nAnswer: {text}") == f"{instruction}\nAnswer: {text}"
    assert strip_frame(f"Instruction: {instruction}\nInput: {text}\nAnswer: positive").startswith("Instruction")


def test_gold_headlines_as_published() -> None:
    record = {
        "Dates": "1-2-2016",
        "URL": "u",
        "News": "gold slips",
        "Price Direction Up": "0",
        "Price Direction Constant": "0",
    }
    record |= {
        "Price Direction Down": "1",
        "Asset Comparision": "0",
        "Past Information": "1",
        "Future Information": "0",
    }
    reading = Layout("auto", {}).read({**record, "Price Sentiment": "negative"})
    assert not isinstance(reading, str)
    assert (reading.text, reading.label) == ("gold slips", ["down", "price", "past price"])
    assert "no column 'Price Sentiment'" in str(Layout("auto", {}).read(record))
    assert "neither 0 nor 1" in str(Layout("auto", {}).read({**record, "Price Direction Up": "2"}))


PARTIES = ("head", "tail", "text")


def test_two_parties_stand_before_the_text() -> None:
    record = {"head": "ACME", "tail": "Rival", "relation": "owns", "text": "ACME took over Rival."}
    expected = ("ACME → Rival\nACME took over Rival.", "owns", None)
    assert Layout("auto", {}, PARTIES).read(record) == expected
    cells = dict(zip("1234", record.values(), strict=True))
    places = {"head": "1", "tail": "2", "label": "3", "text": "4"}
    assert Layout("auto", places, PARTIES).read(cells) == expected
    assert Layout("auto", places, PARTIES).read({**cells, "2": " "}) == "it names no tail (data.fields: {tail: COLUMN})"
    assert "no column '2'" in str(Layout("auto", places, PARTIES).read({"1": "ACME", "3": "owns", "4": "x"}))
    plain = Layout("auto", places, PARTIES, strict=False).read({"text": "ACME → Rival\nA text."})
    assert not isinstance(plain, str) and plain.text == "ACME → Rival\nA text."


def test_a_question_stands_behind_what_it_is_about() -> None:
    asked = Layout("auto", {}, ("text", "question"))
    found = asked.read({"context": "Sales | 5", "question": "How\nmuch?", "answer": "5"})
    assert not isinstance(found, str) and found[:2] == ("Sales | 5\nHow much?", "5")
    assert asked.read({"text": "Sales | 5", "answer": "5"}) == "it asks no question (data.fields: {question: COLUMN})"
    told = Layout("pixiu", {}, ("text", "question")).read({"query": "Sales | 5\nHow much?", "answer": "5"})
    assert not isinstance(told, str) and told.text == "Sales | 5\nHow much?"
