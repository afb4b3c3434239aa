"""Refuses forecast rows that know their outcome: each rule is a mistake that published forecasters have made.

Rows carry ``decided_at``, ``target_end`` and ``facts`` (each with ``text`` and ``available_at``), all times ISO 8601
with a zone; ``rationale``, where there is one, carries ``rationale_available_at``.
"""

from __future__ import annotations

import itertools
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from fingpt_lora.data.rows import Row
from fingpt_lora.errors import DataError

_MONTHS = {
    name: number
    for number, names in enumerate(
        (
            *(("jan", "january"), ("feb", "february"), ("mar", "march"), ("apr", "april"), ("may",), ("jun", "june")),
            *(("jul", "july"), ("aug", "august"), ("sep", "sept", "september"), ("oct", "october")),
            *(("nov", "november"), ("dec", "december")),
        ),
        start=1,
    )
    for name in names
}
_NAME = "|".join(sorted(_MONTHS, key=len, reverse=True))
DAYS = (
    re.compile(r"\b(?P<y>\d{4})[-/.](?P<m>\d{1,2})[-/.](?P<d>\d{1,2})\b"),
    re.compile(rf"\b(?P<n>{_NAME})\.? (?P<d>\d{{1,2}})(?:st|nd|rd|th)?,? (?P<y>\d{{4}})\b", re.IGNORECASE),
    re.compile(rf"\b(?P<d>\d{{1,2}})(?:st|nd|rd|th)? (?P<n>{_NAME})\.?,? (?P<y>\d{{4}})\b", re.IGNORECASE),
    re.compile(r"(?P<y>\d{4})\s*年\s*(?P<m>\d{1,2})\s*月\s*(?P<d>\d{1,2})\s*日"),
)
# A date to come is no leak ("reports on 3 May 2024"); a move that has happened on it is.
_MOVED = re.compile(
    r"\b(?:rose|fell|gained|lost|climbed|dropped|slid|slipped|jumped|surged|soared|plunged|tumbled|sank|rallied|closed|"
    r"ended|finished|settled|advanced|declined|dipped)\b|上涨|下跌|大涨|大跌|收涨|收跌|收于|涨停|跌停|收盘",
    re.IGNORECASE,
)
_NEXT = re.compile(
    r"\b(?:the )?(?:next|following) (?:trading )?(?:day|session|week)\b|\b(?:a|one) (?:day|session|week) later\b|"
    r"次日|第二天|下一?个?交易日|翌日",
    re.IGNORECASE,
)
_TODAY = re.compile(
    r"\bas of (?:today|now|this writing)\b|\bto date\b|\bto this day\b|截至今日|截至今天|截至目前|迄今", re.IGNORECASE
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+|[。！？\n]")


@dataclass(frozen=True, slots=True)
class Leak:
    """One thing that a row could not have known."""

    row: Row
    field: str
    reason: str

    def __str__(self) -> str:
        """Return ``origin:line: field: reason``."""
        return f"{self.row.origin}:{self.row.line}: {self.field}: {self.reason}"


def leaks_of(row: Row) -> Iterator[Leak]:
    """Yield what a row knows too early."""
    decided, end = _time(row, "decided_at"), _time(row, "target_end")
    if end <= decided:
        yield Leak(row, "target_end", f"the target ends at {end}, not after the decision at {decided}")
    for place, fact in enumerate(row.fields.get("facts", ())):
        field = f"facts[{place}]"
        text, known = str(fact.get("text", "")), fact.get("available_at")
        if known is None:
            today = _TODAY.search(text)
            of_when = f" and speaks '{today[0]}'" if today else ""
            yield Leak(row, f"{field}.available_at", f"the text has no date from which it was known{of_when}")
        elif (moment := _parsed(known)) is None:
            yield Leak(row, f"{field}.available_at", f"'{known}' is not a time with its zone")
        elif moment > decided:
            yield Leak(row, f"{field}.available_at", f"known from {known} only, after the decision at {decided}")
        yield from (Leak(row, f"{field}.text", reason) for reason in _outcomes(text, decided, dated=known is not None))
    # A text without facts has no dates to go by; one with facts is made of them.
    dated = bool(row.fields.get("facts"))
    yield from (Leak(row, "text", reason) for reason in _outcomes(row.text, decided, dated=dated))
    if row.fields.get("rationale"):
        written = _parsed(row.fields.get("rationale_available_at"))
        if written is None or written > decided:
            when = "at no stated time" if written is None else f"at {written}"
            yield Leak(row, "rationale", f"written {when}, so its author may have known the outcome")


def overlaps(train: Sequence[Row], held_out: Sequence[Row]) -> Iterator[Leak]:
    """Yield the training rows whose window, from decision to target, meets that of a held-out row."""
    windows = sorted((_time(row, "decided_at"), _time(row, "target_end")) for row in held_out)
    starts = [start for start, _ in windows]
    latest_ends = list(itertools.accumulate((end for _, end in windows), max))
    for row in train:
        start, end = _time(row, "decided_at"), _time(row, "target_end")
        begun = bisect_left(starts, end)  # held-out windows that begin before this one ends
        if begun and latest_ends[begun - 1] > start:
            yield Leak(
                row, "target_end", "its window meets that of a held-out row; data.split: {method: time} purges it"
            )


def refuse_leaks(parts: Mapping[str, Sequence[Row]]) -> None:
    """Check all rows of all splits.

    Raises:
        DataError: there is a leak; the first five are named by row and field.
    """
    found: list[Leak] = [leak for rows in parts.values() for row in rows for leak in leaks_of(row)]
    held_out = [*parts.get("validation", ()), *parts.get("test", ())]
    found += overlaps(parts.get("train", ()), held_out)
    found += overlaps(parts.get("validation", ()), parts.get("test", ()))
    if found:
        shown = "\n".join(f"  {leak}" for leak in found[:5])
        more = f"\n  ... and {len(found) - 5} more" if len(found) > 5 else ""
        raise DataError(f"The rows know what they are asked:\n{shown}{more}\nRemove or date what is named.")


def _outcomes(text: str, decided: datetime, *, dated: bool) -> Iterator[str]:
    """Yield why a sentence tells of a move that had not happened yet.

    "The next day it fell" is a story about the past where the story has a date, and the outcome where it has none.
    """
    for sentence in _SENTENCE.split(text):
        moved = _MOVED.search(sentence)
        if not moved:
            continue
        later = next((day for day in _dates(sentence) if day > decided.date()), None)
        if later is not None:
            yield f"tells what happened on {later} ('{moved[0]}'), after the decision on {decided.date()}"
        elif not dated and (following := _NEXT.search(sentence)):
            yield f"tells what happened later ('{following[0]}', '{moved[0]}')"


def _dates(text: str) -> Iterator[date]:
    for pattern in DAYS:
        for match in pattern.finditer(text):
            parts: dict[str, Any] = match.groupdict()
            month = _MONTHS[parts["n"].lower()] if parts.get("n") else int(parts["m"])
            try:
                yield date(int(parts["y"]), month, int(parts["d"]))
            except ValueError:
                continue  # 2024-13-40 is a number of something else


def _time(row: Row, field: str) -> datetime:
    moment = _parsed(row.fields.get(field))
    if moment is None:
        raise DataError(
            f"{row.origin}:{row.line}: '{row.fields.get(field)}' in '{field}' is not a time with its zone. Write it as "
            "2024-05-31T16:00:00-04:00; a forecast without it cannot be checked for leaks."
        )
    return moment


def _parsed(value: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return moment if moment.tzinfo else None
