"""Which rows are for training and which for the test: named in the file, by group, by time, or at random."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, date, datetime

from fingpt_lora.data.files import SPLIT_NAMES
from fingpt_lora.data.rows import Row, labels_of
from fingpt_lora.errors import DataError, did_you_mean
from fingpt_lora.sections import SplitSection

Parts = tuple[list[Row], list[Row]]  # (kept, held out), both in the order of the rows


def named_split(row: Row, column: str) -> str | None:
    """Return ``train``, ``validation`` or ``test`` where a row's column names one, else None."""
    return SPLIT_NAMES.get(str(row.fields.get(column, "")).strip().lower())


def by_column(rows: Sequence[Row], column: str) -> dict[str, list[Row]]:
    """Split by a column that names each row's split.

    Raises:
        DataError: a row names none.
    """
    parts: dict[str, list[Row]] = {"train": [], "validation": [], "test": []}
    for row in rows:
        name = named_split(row, column)
        if name is None:
            raise DataError(
                f"{row.origin}:{row.line}: {row.fields.get(column)!r} in column '{column}' names no split "
                "(train, validation, test). Mend it, or say how to split: data.split: {method: random}."
            )
        parts[name].append(row)
    return parts


def hold_out(rows: Sequence[Row], share: float, split: SplitSection) -> Parts:
    """Hold out a share of the rows by the split's method: the same rows and seed always give the same parts.

    Raises:
        DataError: a column is missing, a date unreadable, or nothing is left on one side.
    """
    if share <= 0:
        return list(rows), []
    choose = {"random": _random, "group": _group, "time": _time}[split.method]
    held = choose(rows, share, split)
    parts = (
        [row for place, row in enumerate(rows) if place not in held],
        [row for place, row in enumerate(rows) if place in held],
    )
    if not all(parts):
        reason = {
            "random": "there are too few rows",
            "group": f"column '{split.column}' has too few different values",
            "time": f"too many rows share one day in column '{split.column}'",
        }[split.method]
        raise DataError(
            f"data.split: holding out {share:.0%} of {len(rows)} rows by {split.method} leaves {len(parts[0])} and "
            f"{len(parts[1])}: {reason}. Change the share or the method."
        )
    return parts


def walk_forward(rows: Sequence[Row], split: SplitSection) -> Parts:
    """Return (everything before, the fold's own days): the days are cut into ``folds`` + 1 parts of equal number.

    What comes after the fold is left out, as it had not happened yet.

    Raises:
        DataError: there are fewer days than parts.
    """
    assert split.folds is not None and split.fold is not None
    days = [_day(row, split.column) for row in rows]
    different = sorted(set(days))
    if len(different) <= split.folds:
        raise DataError(
            f"data.split: {len(different)} days cannot be cut into {split.folds + 1} parts. Ask for fewer folds."
        )
    bounds = [different[len(different) * part // (split.folds + 1)] for part in range(1, split.folds + 1)]
    start, stop = bounds[split.fold - 1], (*bounds, date.max)[split.fold]
    before = [row for row, day in zip(rows, days, strict=True) if day < start]
    return before, [row for row, day in zip(rows, days, strict=True) if start <= day < stop]


def _random(rows: Sequence[Row], share: float, split: SplitSection) -> set[int]:
    """Draw within each label, so that both sides have the labels in the same proportion.

    The total is exact; the labels with the largest remainders take the rows that rounding down leaves over.
    """
    by_label: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        by_label[str(row.label if isinstance(row.label, str) else labels_of(row))].append(place)
    exact = {label: len(places) * share for label, places in by_label.items()}
    take = {label: int(number) for label, number in exact.items()}
    left = min(max(1, round(len(rows) * share)), len(rows)) - sum(take.values())
    for label in sorted(exact, key=lambda name: (take[name] - exact[name], name))[: max(0, left)]:
        take[label] += 1
    held: set[int] = set()
    for label, places in sorted(by_label.items()):
        random.Random(f"{split.seed}:{label}").shuffle(places)
        held.update(places[: take[label]])
    return held


def _group(rows: Sequence[Row], share: float, split: SplitSection) -> set[int]:
    """Draw whole groups: two rows about one company never stand on both sides."""
    names = [str(_value(row, split.column)).strip() for row in rows]
    groups = sorted(set(names))
    random.Random(split.seed).shuffle(groups)
    chosen = set(groups[: max(1, round(len(groups) * share))])
    return {place for place, name in enumerate(names) if name in chosen}


def _time(rows: Sequence[Row], share: float, split: SplitSection) -> set[int]:
    """Hold out the newest rows. All rows of the boundary's day go with them: one day's news repeats itself."""
    days = [_day(row, split.column) for row in rows]
    boundary = sorted(days)[len(rows) - max(1, round(len(rows) * share))]
    return {place for place, day in enumerate(days) if day >= boundary}


def _value(row: Row, column: str | None) -> object:
    value = row.fields.get(str(column))
    if column not in row.fields:
        hint = did_you_mean(str(column), map(str, row.fields))
        raise DataError(f"data.split.column: {row.origin}:{row.line} has no column '{column}'.{hint}")
    if value is None or not str(value).strip():
        raise DataError(f"{row.origin}:{row.line}: nothing in column '{column}', by which data.split goes.")
    return value


def _day(row: Row, column: str | None) -> date:
    value = _value(row, column)
    try:
        moment = value if isinstance(value, date) else datetime.fromisoformat(str(value).strip())
    except ValueError:
        raise DataError(
            f"{row.origin}:{row.line}: '{value}' in column '{column}' is not a date. Write dates as ISO 8601 "
            "(2024-05-31, 20240531, 2024-05-31T16:00:00Z)."
        ) from None
    if not isinstance(moment, datetime):
        return moment
    return (moment.astimezone(UTC) if moment.tzinfo else moment).date()
