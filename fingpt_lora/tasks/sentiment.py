"""Sentiment of a financial text for its holder: three labels, five, or FinGPT v1.1's seven; in English or Chinese."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from fingpt_lora.tasks.base import Asked, Language

# Canonical label -> answer per language. English answers are the canonical labels themselves. The wording of
# three and seven labels is FinGPT's, so that its data and adapters speak the same language.
_ANSWERS: dict[int, dict[str, dict[Language, str]]] = {
    3: {
        "negative": {"en": "negative", "zh": "负面"},
        "neutral": {"en": "neutral", "zh": "中性"},
        "positive": {"en": "positive", "zh": "正面"},
    },
    5: {
        "very negative": {"en": "very negative", "zh": "非常负面"},
        "negative": {"en": "negative", "zh": "负面"},
        "neutral": {"en": "neutral", "zh": "中性"},
        "positive": {"en": "positive", "zh": "正面"},
        "very positive": {"en": "very positive", "zh": "非常正面"},
    },
    7: {
        "strong negative": {"en": "strong negative", "zh": "强烈负面"},
        "moderately negative": {"en": "moderately negative", "zh": "中度负面"},
        "mildly negative": {"en": "mildly negative", "zh": "轻微负面"},
        "neutral": {"en": "neutral", "zh": "中性"},
        "mildly positive": {"en": "mildly positive", "zh": "轻微正面"},
        "moderately positive": {"en": "moderately positive", "zh": "中度正面"},
        "strong positive": {"en": "strong positive", "zh": "强烈正面"},
    },
}

_INSTRUCTION: dict[Language, str] = {
    "en": "What is the sentiment of this news? Please choose an answer from {{{choices}}}.",
    "zh": "这条财经消息的情绪是什么？请从 {{{choices}}} 中选择一个答案。",
}

# Other words for the same labels that data files are known to use; only where their meaning is beyond doubt.
_ALIASES: dict[str, str] = {
    "neg": "negative",
    "neu": "neutral",
    "pos": "positive",
    "bearish": "negative",
    "bullish": "positive",
    "消极": "negative",
    "积极": "positive",
    "利空": "negative",
    "利好": "positive",
}


@dataclass(frozen=True)
class SentimentTask(Asked):
    """Implements :class:`fingpt_lora.tasks.base.Task` for sentiment."""

    label_count: Literal[3, 5, 7]
    asked_in: Literal["auto", "en", "zh"] = "auto"

    name = "sentiment"
    several = False
    fields = ("text",)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Canonical labels from worst to best."""
        return tuple(_ANSWERS[self.label_count])

    @cached_property
    def aliases(self) -> Mapping[str, str]:
        """Lower-case spelling -> canonical label: both languages' answers and well-known other words."""
        own = {answer: label for label, by in _ANSWERS[self.label_count].items() for answer in by.values()}
        return own | {word: label for word, label in _ALIASES.items() if label in self.labels}

    def instruction(self, language: Language) -> str:
        """Return the question with its choices."""
        choices = "/".join(by[language] for by in _ANSWERS[self.label_count].values())
        return _INSTRUCTION[language].format(choices=choices)

    def answer(self, label: str, language: Language) -> str:
        """Return the exact answer for a canonical label."""
        return _ANSWERS[self.label_count][label][language]

    def parse(self, answer: str, language: Language) -> str | None:
        """Return the label whose answer this is, surrounding white space aside; None for anything else."""
        by_answer = {by[language]: label for label, by in _ANSWERS[self.label_count].items()}
        return by_answer.get(answer.strip())
