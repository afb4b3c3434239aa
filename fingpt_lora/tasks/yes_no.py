"""Tasks in which any number of labels may apply to a text: each is asked about by itself, and answered yes or no."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from fingpt_lora.tasks.base import Asked, Language


@dataclass(frozen=True)
class YesNoTask(Asked):
    """Implements :class:`fingpt_lora.tasks.base.Task` for labels that do not exclude each other.

    Attributes:
        name: name in recipes.
        questions: label -> what asks for it, per language; as short as may be, since every row pays for it.
        instructions: what stands before the text, per language; ``{choices}`` lists the questions.
        words: further lower-case spellings of labels in data files.
        asked_in: language of the questions, or ``auto`` where each row decides.
    """

    name: str
    questions: Mapping[str, Mapping[Language, str]]
    instructions: Mapping[Language, str]
    words: Mapping[str, str]
    asked_in: Literal["auto", "en", "zh"] = "auto"

    several = True
    fields = ("text",)
    columns = ("events",)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Labels in the order of the questions."""
        return tuple(self.questions)

    @cached_property
    def aliases(self) -> Mapping[str, str]:
        """Lower-case spelling -> label."""
        return {**{label.lower(): label for label in self.questions}, **self.words}

    def instruction(self, language: Language) -> str:
        """Return what stands before the text."""
        choices = ("、" if language == "zh" else ", ").join(by[language] for by in self.questions.values())
        return self.instructions[language].format(choices=choices)

    def answer(self, label: str, language: Language) -> str:
        """Return what asks for a label; yes or no follows."""
        return self.questions[label][language] + ("：" if language == "zh" else ":")
