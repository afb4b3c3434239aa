from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingpt_lora.tasks import SentimentTask
from fingpt_lora.tasks.base import Language, language_of

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
