"""What the columns of a record mean: plain columns, FinGPT, Alpaca, FinLoRA, PIXIU or chat messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fingpt_lora.data.known_layouts import LABEL, READERS, detect, fits, has, listed, named, strip_frame
from fingpt_lora.data.point_in_time import from_stocknet
from fingpt_lora.errors import DataError, did_you_mean
from fingpt_lora.tasks.choice import BETWEEN
from fingpt_lora.tasks.question import ask

OUR_FIELDS = ("text", "label", "language", "split", "head", "tail", "question")

_LANGUAGE = ("language", "lang")
_QUESTION = ("question", "问题")


class Reading(NamedTuple):
    """What was found in a record, as it stands there; None where there is nothing."""

    text: Any
    label: Any
    language: Any


class Layout:
    """Reads records by the recipe's ``data.layout`` and ``data.fields``."""

    def __init__(
        self,
        layout: str,
        fields: Mapping[str, str],
        needed: Sequence[str] = ("text",),
        *,
        answers: Sequence[str] = (),
        parts: Sequence[str] = (),
        strict: bool = True,
    ) -> None:
        """Remember the recipe's words.

        Args:
            layout: ``auto``, ``columns`` or one of the named layouts.
            fields: our field -> column; what is named here goes before what the layout says.
            needed: our fields of which the task makes its text.
            answers: columns that hold the label of this task, before others that may do so.
            parts: what ``fields`` may name beside our fields: the parts of one label, each with a column.
            strict: without it, a column or layout that a record lacks gives way to a guess. A file for
                ``predict`` need not look like the training file.

        Raises:
            DataError: ``fields`` maps something that is no field of ours.
        """
        known = (*OUR_FIELDS, *parts)
        for field in fields:
            if field not in known:
                raise DataError(f"data.fields: '{field}' is no field of a row.{did_you_mean(field, known)}")
        self._layout, self._fields, self._needed, self._strict = layout, fields, needed, strict
        self._answers, self._parts = answers, [part for part in parts if part in fields]

    def prepare(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the record as its rows are to carry it: StockNet's gets its text, and the times of what it tells."""
        layout = detect(values) if self._layout == "auto" else self._layout
        try:
            return from_stocknet(values) if layout == "stocknet" else values
        except (KeyError, ValueError, TypeError):
            return values  # read() will say what is missing

    def read(self, values: Mapping[str, Any]) -> Reading | str:
        """Return what a record says, or the reason why it cannot be read."""
        layout = self._layout
        if layout == "auto" or (not self._strict and not fits(layout, values)):
            layout = detect(values)
        text, label = self._mapped("text", values), self._mapped("label", values)
        for problem in (text.problem, label.problem):
            if problem:
                return problem
        parts = {part: self._mapped(part, values) for part in self._parts}
        for problem in (part.problem for part in parts.values()):
            if problem:
                return problem
        if any(part.found for part in parts.values()):
            label = _Found({name: part.value for name, part in parts.items()}, True)
        own = next((name for name in self._answers if name in values), None)
        if own is not None and not label.found:
            label = _Found(values[own], True)
        if not (text.found and label.found):
            pair = READERS[layout](values)
            if isinstance(pair, str) and not text.found:
                return pair
            found = (None, None) if isinstance(pair, str) else pair
            text = text if text.found else _Found(found[0], True)
            label = label if label.found else _Found(found[1], True)
        parties = self._parties(values)
        if isinstance(parties, str):
            return parties
        if parties and isinstance(text.value, str):
            text = _Found(f"{BETWEEN.join(parties)}\n{text.value}", True)
        if "rationale" in self._needed and label.value is not None:
            label = _Found({"label": label.value, "rationale": values.get("rationale")}, True)
        if "question" in self._needed:
            asked = self._mapped("question", values)
            question = asked.value if asked.found else named(values, _QUESTION)
            if question is None and layout in ("fingpt", "alpaca") and values.get("input"):
                question = values.get("instruction")  # which is the question itself
            problem = asked.problem or _no_question(question, layout)
            if problem and self._strict:
                return problem
            if isinstance(question, str) and isinstance(text.value, str):
                text = _Found(ask(text.value, question), True)
        language = self._mapped("language", values)
        spoken = language.value if language.found else named(values, _LANGUAGE)
        return Reading(strip_frame(text.value), label.value, spoken)

    def _parties(self, values: Mapping[str, Any]) -> tuple[str, str] | str | None:
        """Return the two parties whose relation is asked for, why they are missing, or None where none are."""
        if "head" not in self._needed:
            return None
        found = []
        for field in ("head", "tail"):
            party = self._mapped(field, values)
            if party.problem:
                return party.problem
            value = party.value if party.found else values.get(field)
            if not isinstance(value, str) or not value.strip():
                # A plain text, as predict takes it, may carry its parties already.
                return f"it names no {field} (data.fields: {{{field}: COLUMN}})" if self._strict else None
            found.append(value.strip())
        return found[0], found[1]

    def no_label(self, values: Mapping[str, Any]) -> str:
        """Return why a record that was read without a label has none."""
        layout = detect(values) if self._layout == "auto" else self._layout
        if layout == "columns" and "label" not in self._fields and not has(values, LABEL):
            return (
                f"none of its columns ({listed(values)}) looks like the label; name it: data.fields: {{label: COLUMN}}"
            )
        return "it has no label"

    def _mapped(self, field: str, values: Mapping[str, Any]) -> _Found:
        column = self._fields.get(field)
        if column is None:
            return _Found(None, False)
        if column in values:
            return _Found(values[column], True)
        problem = f"no column '{column}' (data.fields.{field}).{did_you_mean(column, map(str, values))}"
        return _Found(None, False, problem if self._strict else None)


def _no_question(question: Any, layout: str) -> str | None:
    # The texts of other layouts hold their question already.
    if layout != "columns" or (isinstance(question, str) and question.strip()):
        return None
    return "it asks no question (data.fields: {question: COLUMN})"


class _Found(NamedTuple):
    value: Any
    found: bool
    problem: str | None = None
