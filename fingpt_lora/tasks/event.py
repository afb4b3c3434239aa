"""Which of the recipe's event types a text reports: several, one or none (SentiFM, SENTiVENT and the like)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from fingpt_lora.tasks.base import Language, named
from fingpt_lora.tasks.yes_no import YesNoTask

_INSTRUCTIONS: dict[Language, str] = {
    "en": "Which of these events does the text report: {choices}? Answer yes or no for each.",
    "zh": "下面的文本报道了哪些事件：{choices}？请逐项回答是或否。",
}


def event_task(types: Sequence[str] | Mapping[str, str], asked_in: Literal["auto", "en", "zh"]) -> YesNoTask:
    """Return the task of a recipe's ``task.types``: names as in the data, or name -> the words to ask with."""
    questions: dict[str, dict[Language, str]] = {
        name: {"en": asked, "zh": asked} for name, asked in named(types).items()
    }
    return YesNoTask("event", questions, _INSTRUCTIONS, {}, asked_in)
