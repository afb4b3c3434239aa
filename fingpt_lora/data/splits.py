"""Which rows are for training and which for the test: given, by group, by time, or at random within each label."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime

from fingpt_lora.data.rows import Row
from fingpt_lora.errors import DataError
from fingpt_lora.recipe import SplitSection

_NAMES = {
    "train": "train",
    "test": "test",
    "validation": "validation",
    "valid": "validation",
    "dev": "validation",
}

Parts = tuple[list[Row], list[Row]]  # (kept, held out)


def by_column(rows: Sequence[Row], column: str) -> dict[str, list[Row]]:
    """Split by a column that names each row's split.

    Raises:
        DataError: a row names a split that is none.
    """
    parts: dict[str, list[Row]] = {"train": [], "validation": [], "test": []}
    for row in rows:
        name = str(row.values.get(column, "")).strip().lower()
        if name not in _NAMES:
            raise DataError(
                f"{row.origin}:{row.line}: '{name}' in column '{column}' is no split (train, validation, test)."
            )
        parts[_NAMES[name]].append(row)
    return parts


def hold_out(rows: Sequence[Row], share: float, split: SplitSection) -> Parts:
    """Hold out a share of the rows by the split's method.

    Raises:
        DataError: a column is missing, a date unreadable, or nothing is left on one side.
    """
    if share <= 0:
        return list(rows), []
    method: Callable[[Sequence[Row], float, SplitSection], Parts]
    method = {"random": _random, "group": _group, "time": _time}[split.method]
    kept, held = method(rows, share, split)
    if not kept or not held:
        raise DataError(
            f"data.split: holding out {share:.0%} by {split.method} leaves {len(kept)} and {len(held)} rows. "
            "Change the share or the method."
        )
    return kept, held


def _random(rows: Sequence[Row], share: float, split: SplitSection) -> Parts:
    """Draw within each label, so that both sides have the labels in the same proportion.

    The size is exact overall; the labels with the largest fractions take the rows that rounding leaves.
    """
    by_label: dict[str | None, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        by_label[row.label].append(index)
    wanted = {label: len(indices) * share for label, indices in by_label.items()}
    take = {label: int(number) for label, number in wanted.items()}
    missing = round(len(rows) * share) - sum(take.values())
    for label in sorted(wanted, key=lambda name: (take[name] - wanted[name], str(name)))[: max(0, missing)]:
        take[label] += 1
    held = set()
    for label in sorted(by_label, key=str):
        order = list(by_label[label])
        random.Random(f"{split.seed}:{label}").shuffle(order)
        held.update(order[: take[label]])
    return _parts(rows, lambda index: index in held)


def _group(rows: Sequence[Row], share: float, split: SplitSection) -> Parts:
    names = [str(_value(row, split.column)) for row in rows]
    groups = sorted(set(names))
    random.Random(split.seed).shuffle(groups)
    held = set(groups[: max(1, round(len(groups) * share))])
    return _parts(rows, lambda index: names[index] in held)


def _time(rows: Sequence[Row], share: float, split: SplitSection) -> Parts:
    """The newest rows are held out; rows of the first held-out moment go there together."""
    moments = [_moment(row, split.column) for row in rows]
    boundary = sorted(moments)[len(rows) - max(1, round(len(rows) * share))]
    return _parts(rows, lambda index: moments[index] >= boundary)


def _parts(rows: Sequence[Row], held: Callable[[int], bool]) -> Parts:
    return (
        [row for index, row in enumerate(rows) if not held(index)],
        [row for index, row in enumerate(rows) if held(index)],
    )


def _value(row: Row, column: str | None) -> object:
    if column is None or column not in row.values or row.values[column] in (None, ""):
        raise DataError(f"{row.origin}:{row.line}: no value in column '{column}', by which data.split splits.")
    return row.values[column]


def _moment(row: Row, column: str | None) -> datetime:
    value = _value(row, column)
    if isinstance(value, datetime):
        moment = value
    elif isinstance(value, date):
        moment = datetime(value.year, value.month, value.day)
    else:
        try:
            moment = datetime.fromisoformat(str(value).strip())
        except ValueError:
            raise DataError(
                f"{row.origin}:{row.line}: '{value}' in column '{column}' is not a date (ISO 8601, e.g. 2024-05-31)."
            ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
