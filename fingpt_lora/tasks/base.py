"""The shape of a task. A task is plain text and rules; it never sees token ids or weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, Protocol, runtime_checkable

Language = Literal["en", "zh"]
Label = str | tuple[str, ...]  # of a row: one of the labels, or all that apply, in the task's order

# Of tasks that ask about each label by itself.
VERDICTS: dict[Language, tuple[str, str]] = {"en": (" yes", " no"), "zh": ("是", "否")}

_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_LETTER = re.compile(r"[^\W\d_]")


def language_of(text: str) -> Language:
    """Return ``zh`` where at least a fifth of the letters are Han characters, else ``en``.

    A Chinese sentence about "AT&T" has many Latin letters; an English one that names 腾讯 has few Han
    characters. A fifth tells the two apart in both directions.
    """
    letters = len(_LETTER.findall(text))
    return "zh" if letters and len(_HAN.findall(text)) * 5 >= letters else "en"


class Task(Protocol):
    """What is asked of the model about one text, and how its answer is read."""

    @property
    def name(self) -> str:
        """Name in recipes."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Canonical labels, in the order of reports and probabilities."""

    @property
    def several(self) -> bool:
        """Whether any number of labels may apply to a text; each is then asked about by itself, with yes or no."""

    @property
    def aliases(self) -> Mapping[str, str]:
        """Lower-case spelling met in data files -> canonical label."""

    @property
    def languages(self) -> tuple[Language, ...]:
        """Languages in which the task may be asked."""

    def language(self, text: str) -> Language:
        """Return the language in which to ask about ``text``."""

    def instruction(self, language: Language) -> str:
        """Return what stands before the text in the prompt."""

    def answer(self, label: str, language: Language) -> str:
        """Return the exact answer for a canonical label; with ``several``, what stands before yes or no."""


@runtime_checkable
class OneAnswer(Task, Protocol):
    """A task whose answer is one label, written out."""

    def parse(self, answer: str, language: Language) -> str | None:
        """Return the label of an answer, or None where the answer is not exactly one of the answers."""
