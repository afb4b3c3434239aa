from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingpt_lora.data.labels import LabelMap
from fingpt_lora.tasks import ForecastTask, SentimentTask
from fingpt_lora.tasks.base import Language, language_of
from fingpt_lora.tasks.choice import ChoiceTask, choice_task, relation_task
from fingpt_lora.tasks.event import event_task
from fingpt_lora.tasks.headline import from_gold_columns, headline_task
from fingpt_lora.tasks.yes_no import YesNoTask

SIZES: list[Literal[3, 5, 7]] = [3, 5, 7]
LANGUAGES: list[Language] = ["en", "zh"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("language", LANGUAGES)
def test_answer_then_parse_is_the_identity(size: Literal[3, 5, 7], language: Language) -> None:
    task = SentimentTask(size)
    assert len(task.labels) == size
    assert [task.parse(task.answer(label, language), language) for label in task.labels] == list(task.labels)
    assert all(task.answer(label, language) in task.instruction(language) for label in task.labels)


@pytest.mark.parametrize(
    "near_miss",
    ["Positive", "positive.", "very positive", "positively", "not positive", "", "positive negative", "正面", "pos", "The sentiment is positive"],
)  # fmt: skip
def test_no_near_miss_is_an_answer(near_miss: str) -> None:
    assert SentimentTask(3).parse(near_miss, "en") is None


@given(st.text(max_size=30))
def test_only_the_answers_parse(text: str) -> None:
    task = SentimentTask(3)
    assert (task.parse(text, "en") is not None) == (text.strip() in task.labels)


def test_the_wording_is_fingpts() -> None:
    assert SentimentTask(3).instruction("en") == (
        "What is the sentiment of this news? Please choose an answer from {negative/neutral/positive}."
    )
    assert SentimentTask(7).labels[0] == "strong negative"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Tencent (腾讯) reported a profit of RMB 3bn for the quarter", "en"),
        ("AT&T与Verizon第三季度利润均下降", "zh"),
        ("净利润同比增长 12.5%", "zh"),
        ("EPS 0.42 vs 0.51", "en"),
        ("12345", "en"),
        ("", "en"),
    ],
)
def test_the_script_decides_the_language(text: str, language: str) -> None:
    assert language_of(text) == language


def test_a_named_language_overrides_the_script() -> None:
    assert SentimentTask(3, "zh").language("profit rose") == "zh"
    assert SentimentTask(3, "zh").languages == ("zh",)


FORECASTS = [ForecastTask(target, 5, flat) for target in ("direction", "bins") for flat in (0.0, 0.001)]  # type: ignore[arg-type]


@pytest.mark.parametrize("task", FORECASTS, ids=str)
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_forecast_is_parsed_as_it_is_answered(task: ForecastTask, language: Language) -> None:
    assert [task.parse(task.answer(label, language), language) for label in task.labels] == list(task.labels)
    assert all(task.answer(label, language) in task.instruction(language) for label in task.labels)
    assert "5" in task.instruction(language)


@pytest.mark.parametrize(
    "near_miss", ["upcoming", "Up", "up by 2%", "U", "U6", "U5++", "u1", "D5 +", "", "up/down", "涨跌"]
)
def test_no_near_miss_is_a_forecast(near_miss: str) -> None:
    assert all(task.parse(near_miss, "en") is None for task in FORECASTS)


@pytest.mark.parametrize(
    ("move", "bin_", "direction"),
    [(0.0, "flat", "down"), (0.0001, "U1", "up"), (0.01, "U1", "up"), (1.01 / 1 - 1, "U1", "up"), (0.0101, "U2", "up"),
     (0.05, "U5", "up"), (0.051, "U5+", "up"), (-0.03, "D3", "down"), (-0.2, "D5+", "down")],
)  # fmt: skip
def test_a_move_has_one_bin_and_one_direction(move: float, bin_: str, direction: str) -> None:
    assert ForecastTask("bins").label_of(move) == bin_
    assert ForecastTask("direction").label_of(move) == direction


@given(st.floats(-0.99, 9), st.floats(0, 0.2))
def test_every_move_has_a_label_of_the_task(move: float, flat: float) -> None:
    for target in ("direction", "bins"):
        task = ForecastTask(target, flat_below=flat)  # type: ignore[arg-type]
        label = task.label_of(move)
        assert label in task.labels
        assert label == "flat" or (label[0] in "Uu") == (move > 0)
        assert abs(move) > flat or label == "flat" or not flat


def test_a_move_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="no number"):
        ForecastTask().label_of(float("nan"))


YES_NO = [
    event_task(["Profit", "Share Repurchase"], "auto"),
    event_task({"Profit": "profit", "ShareRepurchase": "buyback"}, "auto"),
    headline_task("auto"),
]


@pytest.mark.parametrize("task", YES_NO, ids=lambda task: task.name)
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_label_is_asked_for_in_its_own_words(task: YesNoTask, language: Language) -> None:
    questions = [task.answer(label, language) for label in task.labels]
    assert len(set(questions)) == len(task.labels) > 1
    assert all(question[:-1] in task.instruction(language) for question in questions)
    assert task.several and LabelMap({}, task.aliases, several=True).labels == task.labels  # in one order
    assert {task.language("profit rose"), task.language("利润上升")} == {"en", "zh"}


@pytest.mark.parametrize(
    ("flags", "sentiment", "labels"),
    [
        ("001010", "negative", ["down", "price", "past price"]),
        ("000101", "none", ["future event", "comparison"]),
        ("000010", "neutral", ["price", "past price"]),
        ("000000", "none", []),
    ],
)
def test_the_columns_of_gold_headlines_are_read_for_what_they_say(
    flags: str, sentiment: str, labels: list[str]
) -> None:
    columns = ["Price Direction Up", "Price Direction Constant", "Price Direction Down"]
    columns += ["Asset Comparision", "Past Information", "Future Information"]
    row = {**dict(zip(columns, flags, strict=True)), "Price Sentiment": sentiment}
    assert from_gold_columns(row) == labels
    with pytest.raises(ValueError, match="neither 0 nor 1"):
        from_gold_columns({**row, "Price Direction Up": "yes"})


CHOICES = [
    choice_task("Is it about a bank?", ["yes", "no", "not said"], "auto"),
    choice_task("Topic?", {"m&a": "mergers", "esg": "sustainability"}, "auto"),
    relation_task(["unknown", "持股", "被持股"], "auto"),
]


@pytest.mark.parametrize("task", CHOICES, ids=lambda task: task.questions["en"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_choice_is_parsed_as_it_is_answered(task: ChoiceTask, language: Language) -> None:
    answers = [task.answer(label, language) for label in task.labels]
    assert [task.parse(answer, language) for answer in answers] == list(task.labels)
    assert all(answer in task.instruction(language) for answer in answers)
    assert not any(task.parse(f"{answer}.", language) or task.parse(answer[:-1], language) for answer in answers)
    assert {task.aliases[answer.lower()] for answer in answers} == set(task.labels)
