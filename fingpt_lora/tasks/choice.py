"""One of a recipe's own answers to a recipe's own question; among them the relation of two named parties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from fingpt_lora.tasks.base import Asked, Language, named

_CHOOSE: dict[Language, str] = {
    "en": "{question} Please choose an answer from {{{choices}}}.",
    "zh": "{question}请从 {{{choices}}} 中选择一个答案。",
}
_RELATION: dict[Language, str] = {
    "en": "How does the first of the two parties stand to the second in this text?",
    "zh": "文中箭头前的一方对后的一方是什么关系？",
}
BETWEEN = " → "  # stands between the two parties, on a line before the text


@dataclass(frozen=True)
class ChoiceTask(Asked):
    """Implements :class:`fingpt_lora.tasks.base.OneAnswer` for a question whose answers are listed.

    Attributes:
        name: name in recipes.
        questions: what is asked, per language.
        answers: label -> the answer, in whatever language is asked.
        asked_in: language of the question, or ``auto`` where each row decides.
        fields: of a row, which make up its text.
    """

    name: str
    questions: Mapping[Language, str]
    answers: Mapping[str, str]
    asked_in: Literal["auto", "en", "zh"] = "auto"

    fields: tuple[str, ...] = ("text",)

    several = False

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Labels in the order of the recipe."""
        return tuple(self.answers)

    @cached_property
    def aliases(self) -> Mapping[str, str]:
        """Lower-case spelling -> label: the label itself, and its answer."""
        return {answer.lower(): label for label, answer in self.answers.items()} | {
            label.lower(): label for label in self.answers
        }

    def instruction(self, language: Language) -> str:
        """Return the question with its choices."""
        return _CHOOSE[language].format(question=self.questions[language], choices="/".join(self.answers.values()))

    def answer(self, label: str, language: Language) -> str:
        """Return the exact answer for a label."""
        return self.answers[label]

    def parse(self, answer: str, language: Language) -> str | None:
        """Return the label whose answer this is, surrounding white space aside; None for anything else."""
        return {text: label for label, text in self.answers.items()}.get(answer.strip())


def choice_task(
    question: str, choices: Sequence[str] | Mapping[str, str], asked_in: Literal["auto", "en", "zh"]
) -> ChoiceTask:
    """Return the task of a recipe's ``task.question`` and ``task.choices``: labels, or label -> answer."""
    return ChoiceTask("choice", {"en": question, "zh": question}, named(choices), asked_in)


def relation_task(relations: Sequence[str] | Mapping[str, str], asked_in: Literal["auto", "en", "zh"]) -> ChoiceTask:
    """Return the task of naming the relation of two parties, which stand before the text as ``head → tail``."""
    return ChoiceTask("relation", _RELATION, named(relations), asked_in, ("head", "tail", "text"))
