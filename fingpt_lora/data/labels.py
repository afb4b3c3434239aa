"""Labels of files -> labels of the task. Numbers are never guessed: data sets number their labels differently."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol

from fingpt_lora.data.rows import NONE
from fingpt_lora.errors import DataError, did_you_mean
from fingpt_lora.tasks.base import Answer, Label, Written

_WHOLE = re.compile(r"[+-]?\d{1,18}(?:\.0*)?")


class Labels(Protocol):
    """Tells what the raw labels of files stand for."""

    labels: tuple[str, ...]
    several: bool  # a row may count under any number of them, or none

    def canonical(self, raw: Any, text: str) -> Label | None:
        """Return the label of a row with this text; None where :meth:`problem` has a reason."""

    def problem(self, raw: Any, text: str) -> str:
        """Return why a raw label cannot be used."""


class WrittenLabels:
    """Reads the answers that a task has written."""

    several = True

    def __init__(self, task: Written, mapped: Mapping[str, str]) -> None:
        """Remember the task.

        Raises:
            DataError: the recipe maps labels, of which there are none.
        """
        if mapped:
            raise DataError(f"data.labels: the task '{task.name}' has written answers, and no labels to map.")
        self.labels, self._task = task.labels, task

    def canonical(self, raw: Any, text: str) -> Answer | None:
        """Return the answer of a row; None where :meth:`problem` has a reason."""
        answer = self._task.gold(raw, text)
        return None if isinstance(answer, str) else answer

    def problem(self, raw: Any, text: str) -> str:
        """Return why a raw answer cannot be used."""
        return str(self._task.gold(raw, text))


class Unlabelled:
    """Takes every text under the one label there is."""

    several = False

    def __init__(self, labels: tuple[str, ...]) -> None:
        """Remember the label."""
        self.labels = labels

    def canonical(self, raw: Any, text: str) -> str:
        """Return the label, whatever the file says."""
        return self.labels[0]

    def problem(self, raw: Any, text: str) -> str:
        """Return nothing: there is none."""
        return ""


class LabelMap:
    """Maps raw labels by the recipe's explicit map, else by the task's own words."""

    def __init__(self, written: Mapping[str, str], words: Mapping[str, str], *, several: bool = False) -> None:
        """Build the map.

        Args:
            written: the recipe's ``data.labels``.
            words: word met in data files -> canonical label of the task; case does not matter.
            several: a row carries any number of labels, as a list or as words between semicolons.

        Raises:
            DataError: ``written`` leads to a label that the task does not have, or says two things about one.
        """
        self.several = several
        self.labels = tuple(dict.fromkeys(words.values()))
        self._words = {_key(word): label for word, label in words.items()}
        self._words |= {_key(label): label for label in self.labels}
        self._written: dict[str, str] = {}
        for raw, word in written.items():
            label = self._words.get(_key(word))
            if label is None:
                raise DataError(f"data.labels: the task has no label '{word}'.{did_you_mean(word, self.labels)}")
            if self._written.setdefault(_key(raw), label) != label:
                raise DataError(f"data.labels: '{raw}' is written twice, with different labels; keep one.")

    def canonical(self, raw: Any, text: str = "") -> Label | None:
        """Return the task's label (or labels, in its order) of a raw one; None where :meth:`problem` has a reason."""
        if not self.several:
            return self._one(raw)
        parts = _parts(raw)
        found = None if parts is None else [self._one(part) for part in parts]
        if found is None or None in found:
            return None
        return tuple(label for label in self.labels if label in found)

    def _one(self, raw: Any) -> str | None:
        key = _key(raw)
        if key in self._written:
            return self._written[key]
        number = getattr(raw, "number", None)  # a class number that its data set names
        if number is not None and str(number) in self._written:
            return self._written[str(number)]
        # A map of some spellings does not unlearn the task's own words.
        return self._words.get(key)

    def problem(self, raw: Any, text: str = "") -> str:
        """Return why a raw label cannot be used."""
        if self.several:
            parts = _parts(raw)
            if parts is None:
                return f"its labels are not a list or text but {raw!r:.40}"
            raw = next(part for part in parts if self._one(part) is None)
        elif isinstance(raw, Mapping) or (isinstance(raw, list) and not any(isinstance(one, str) for one in raw)):
            return "its label is an object or a list of them, as of entities, events or questions; name another task"
        elif isinstance(raw, list):
            return f"it carries a list of labels ({_short(', '.join(map(str, raw)), 60)}), and the task takes one"
        key = _key(raw)
        if not key:
            return "it has no label"
        shown = _short(str(raw), 60)  # a wrong column may hold a whole story
        if self.unmapped_number(raw):
            return f"label {shown} is a number, and data.labels does not say what it means"
        if _WHOLE.fullmatch(key):
            return f"label {shown} is not in data.labels ({', '.join(self._written)})"
        if is_number(raw):
            return f"label {shown} is a score, not a label; write labels into the file"
        hint = did_you_mean(key[:60], [*self._written, *self.labels])
        return f"unknown label '{shown}'.{hint}".rstrip(".")

    def unmapped_number(self, raw: Any) -> bool:
        """Return whether a raw label is a whole number and the recipe maps no number at all."""
        mapped = any(_WHOLE.fullmatch(key) for key in self._written)
        return not mapped and _WHOLE.fullmatch(_key(raw)) is not None

    def numbers_error(self, where: str, examples: Mapping[str, str]) -> DataError:
        """Return the error to raise for numeric labels without a map.

        Args:
            where: the file.
            examples: number as written -> a text that carries it. They show the user what each number means;
                we propose nothing, for what we propose would be pasted.
        """
        numbers = sorted(examples, key=float)[:12]
        shown = "\n".join(f"  {number}: {_short(examples[number])}" for number in numbers)
        blanks = ", ".join(f"{number}: ..." for number in numbers)
        return DataError(
            f"The labels of '{where}' are numbers, and data sets number their labels differently. One text of each:\n"
            f"{shown}\nSay what they mean: data.labels: {{{blanks}}}, each one of {', '.join(self.labels)}."
        )


def _parts(raw: Any) -> list[Any] | None:
    """Return the single labels of a row that may carry several; an empty text, and "none", carry none."""
    if isinstance(raw, (list, tuple)):
        return list(raw)
    if raw is None or not isinstance(raw, str):
        return None
    words = [word.strip() for word in re.split(r"[;|；]", raw)]
    return [word for word in words if word and word.casefold() != NONE]


def is_number(raw: Any) -> bool:
    """Return whether a raw label is a number or the text of one."""
    try:
        return not isinstance(raw, bool) and float(_key(raw)) == float(_key(raw))
    except ValueError:
        return False


def _key(raw: Any) -> str:
    """Return what two spellings of a label share: '0', 0 and 0.0; 'Positive.' and 'positive'; true and 'True'."""
    if raw is None or raw != raw:  # NaN stands for "nothing" in tables
        return ""
    text = str(raw).strip().casefold()
    if _WHOLE.fullmatch(text):
        return str(int(text.partition(".")[0]))
    return text.rstrip(".。").rstrip() if isinstance(raw, str) else text


def _short(text: str, length: int = 80) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 3] + "..."
