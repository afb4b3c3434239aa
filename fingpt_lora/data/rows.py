"""The smallest things that travel: a record, the row it becomes, and the reason why it could not become one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fingpt_lora.tasks.base import Answer, Label

NONE = "none"  # heading of the rows to which no label applies


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a file, before anyone knows what its columns mean.

    ``line`` is the physical line where the record starts; for JSON lists, Parquet and Arrow it is the row number.
    Both count from 1.
    """

    fields: Mapping[str, Any]
    origin: str
    line: int


@dataclass(frozen=True, slots=True)
class BadRow:
    """A record that cannot be used, with its place and the reason."""

    origin: str
    line: int
    reason: str

    def __str__(self) -> str:
        """Return ``file:line: reason``."""
        return f"{self.origin}:{self.line}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Row:
    """A text with its canonical label or labels (None where none is needed), and where both came from."""

    text: str
    label: Label | None
    origin: str
    line: int
    language: str | None = None  # as the file says; None where it says nothing
    fields: Mapping[str, Any] = field(default_factory=dict)  # the record as it was read
    context: str = ""  # what the model is told before the text, and nobody else


def labels_of(row: Row) -> tuple[str, ...]:
    """Return the labels under which a row counts: its own, or "none" where it carries an empty set of them."""
    if isinstance(row.label, Answer):
        return tuple(dict.fromkeys(fact.kind for fact in row.label.facts)) or (NONE,)
    if isinstance(row.label, tuple):
        return row.label or (NONE,)
    return (str(row.label),)
