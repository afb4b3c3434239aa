"""The shape of a task. A task is plain text and rules; it never sees token ids or weights."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

Language = Literal["en", "zh"]


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that a written answer says.

    Attributes:
        kind: the label under which it counts.
        said: what two equal facts have in common.
        part: what kind of thing it is within its label, where figures tell them apart, as trigger and role.
        grounded: whether its words stand in the text; None where it copies none.
    """

    kind: str
    said: tuple[str | int, ...]
    part: str = ""
    grounded: bool | None = field(default=True, compare=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """A written answer: the exact words, and the facts that they state."""

    text: str
    facts: tuple[Fact, ...]
    content: Any = field(default=None, compare=False)  # the same as JSON types, for whoever works on with it

    def __str__(self) -> str:
        """Return the exact words."""
        return self.text


Label = str | tuple[str, ...] | Answer  # of a row: one of the labels, all that apply, or what is to be written

# Of tasks that ask about each label by itself.
VERDICTS: dict[Language, tuple[str, str]] = {"en": (" yes", " no"), "zh": ("是", "否")}

HAN = (("\u3400", "\u4dbf"), ("\u4e00", "\u9fff"), ("\uf900", "\ufaff"))  # first and last character of each range
_HAN = re.compile(f"[{''.join(f'{first}-{last}' for first, last in HAN)}]")
_LETTER = re.compile(r"[^\W\d_]")


def language_of(text: str) -> Language:
    """Return ``zh`` where at least a fifth of the letters are Han characters, else ``en``.

    A Chinese sentence about "AT&T" has many Latin letters; an English one that names 腾讯 has few Han
    characters. A fifth tells the two apart in both directions.
    """
    letters = len(_LETTER.findall(text))
    return "zh" if letters and len(_HAN.findall(text)) * 5 >= letters else "en"


def named(words: Sequence[str] | Mapping[str, str]) -> Mapping[str, str]:
    """Return name -> words to ask with, of what a recipe lists by either."""
    return words if isinstance(words, Mapping) else {word: word for word in words}


def occurrences(words: Iterable[str], text: str) -> dict[str, list[int]]:
    """Return where each of some words stands in a text: whole words, longest first, none within another.

    Words that stand nowhere but within longer ones have no place; words that the text lacks are not in the result.
    """
    taken = [False] * len(text)
    found: dict[str, list[int]] = {}
    for own in sorted(dict.fromkeys(words), key=len, reverse=True):
        before = r"(?<!\w)" if re.match(r"[A-Za-z0-9]", own) else ""
        after = r"(?!\w)" if own[-1].isascii() and own[-1].isalnum() else ""
        places = [match.start() for match in re.finditer(before + re.escape(own) + after, text)]
        free = [place for place in places if not any(taken[place : place + len(own)])]
        for place in free:
            taken[place : place + len(own)] = [True] * len(own)
        if places:
            found[own] = free
    return found


# What str.strip and Python's \s take for white space, which for llguidance's \s has four characters less.
_EDGE = r"[^\s\x1c-\x1f]"


def substring(name: str, text: str, escape: Callable[[str], str] = str, shape: str = f"{_EDGE}(.*{_EDGE})?") -> str:
    """Return the rule of a Lark grammar, in llguidance's dialect, for a piece of a text.

    Args:
        name: of the rule, in capitals.
        text: where the piece stands.
        escape: how a character is written in the answer.
        shape: regular expression of the piece; by default it holds something, and neither begins nor ends with white
            space.
    """
    chunks = {"substring_chunks": [escape(character) for character in text]}
    return f"{name}: %regex {json.dumps(chunks, ensure_ascii=False)} & /{shape}/s\n"


class Asked:
    """What tasks share that are asked in English or in Chinese, or as each row is written."""

    asked_in: Literal["auto", "en", "zh"]
    columns: tuple[str, ...] = ()

    @cached_property
    def languages(self) -> tuple[Language, ...]:
        """The language asked for, or both where each row decides."""
        return ("en", "zh") if self.asked_in == "auto" else (self.asked_in,)

    def language(self, text: str) -> Language:
        """Return the language in which to ask about ``text``."""
        return language_of(text) if self.asked_in == "auto" else self.asked_in


class Task(Protocol):
    """What is asked of the model about one text, and how its answer is read.

    A task whose ``fields`` name a question has it as the last line of its texts; shortening leaves it whole.
    """

    @property
    def name(self) -> str:
        """Name in recipes."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of a row that make up its text."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of data files that hold the answer to this task, before those that all tasks know."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Canonical labels, in the order of reports and probabilities; of a written answer, the kinds of facts."""

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


class Labelled(Task, Protocol):
    """A task whose answers are listed."""

    def answer(self, label: str, language: Language) -> str:
        """Return the exact answer for a canonical label; with ``several``, what stands before yes or no."""


@runtime_checkable
class OneAnswer(Labelled, Protocol):
    """A task whose answer is one label, written out."""

    def parse(self, answer: str, language: Language) -> str | None:
        """Return the label of an answer, or None where the answer is not exactly one of the answers."""


@runtime_checkable
class Written(Task, Protocol):
    """A task whose answer no list holds: it is written, and strictly read."""

    def gold(self, raw: Any, text: str) -> Answer | str:
        """Return the answer of a row as its file states it, or why it cannot be used."""

    def read(self, written: str, text: str) -> Answer | None:
        """Return what an answer to a text says, or None where it is not exactly in the format."""

    def grammar(self, text: str) -> str:
        """Return the Lark grammar, in llguidance's dialect, of all answers to a text that :meth:`read` accepts."""

    def by_heart(self, known: Sequence[Answer]) -> Callable[[str], frozenset[Fact]]:
        """Return what finds in a text what the training answers name: the baseline."""


@runtime_checkable
class InParts(Written, Protocol):
    """A task whose answer a table may hold in parts: a piece of it in each row of a text, in columns of their own."""

    @property
    def parts(self) -> tuple[str, ...]:
        """What columns may hold of the piece that a row tells."""

    def together(self, answers: Sequence[Answer], text: str) -> Answer:
        """Return the answer that states the pieces of several rows of one text."""
