"""From a recipe's ``data`` section to clean, labelled splits and an account of what was done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from fingpt_lora.data.audit import Audit, Keys, count_repeats, remove_leaks, settle
from fingpt_lora.data.hub import PREFIX
from fingpt_lora.data.intake import Intake, make_row
from fingpt_lora.data.labels import LabelMap, Labels, Unlabelled, WrittenLabels
from fingpt_lora.data.layouts import Layout
from fingpt_lora.data.leaks import refuse_leaks
from fingpt_lora.data.paths import format_of
from fingpt_lora.data.point_in_time import purge
from fingpt_lora.data.rows import BadRow, Record, Row
from fingpt_lora.data.sources import SAMPLE, Source, open_sources
from fingpt_lora.data.splits import by_column, hold_out, named_split, walk_forward
from fingpt_lora.errors import DataError
from fingpt_lora.sections import DataSection, SplitSection
from fingpt_lora.tasks.base import Answer, InParts, Task, Written
from fingpt_lora.tasks.text import TextTask

_HOW_TO_SPLIT = (
    "Say how to get a test set: data.test: FILE; or data.split: {method: random} (or {method: time, column: date}, "
    "{method: group, column: company}); or a column 'split' with train and test in it."
)


@dataclass(frozen=True)
class Splits:
    """Training, validation and test rows, and what was done to get them."""

    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    test: tuple[Row, ...]
    audit: Audit


Build = Callable[[list[Path]], list[Row]]


def load_splits(
    data: DataSection,
    task: Task,
    *,
    base_dir: Path | None = None,
    build: Build | None = None,
) -> Splits:
    """Load, label, split and clean.

    Args:
        data: the recipe's section.
        task: what the rows are for: the fields that they need, and their labels.
        base_dir: where relative paths start; the current directory where it is None.
        build: makes labelled rows from the files, where these hold something else: prices.

    Raises:
        DataError: one sentence that names file and row, and what to do; forecast rows know their outcome.
    """
    _check_together(data)
    intake = Intake(data, _labels(data, task), _layout(data, task))
    held_out = {
        key: _held_out(path, data, f"data.{key}", base_dir, isinstance(task, TextTask)) if path else []
        for key, path in (("test", data.test), ("validation", data.validation))
    }
    prose = isinstance(task, TextTask)
    own = open_sources(data.path, data, hub_split=data.train_split, base_dir=base_dir, prose=prose)
    rows = intake.take(own, build) if build else intake.read(intake.without(own, held_out), "data.path")
    rows = _together(rows, data, task)
    given = {
        key: _together(intake.read(sources, f"data.{key}"), data, task) if sources else []
        for key, sources in held_out.items()
    }
    parts = _split(rows, given, data, intake)
    duplicates, contradictions = _clean(parts, data)
    if any("decided_at" in row.fields for row in rows):
        _keep_time(parts, data, intake)
    if data.limit:
        parts = {name: _spread(part, data.limit) for name, part in parts.items()}
    audit = intake.audit(parts, duplicates, contradictions)
    return Splits(tuple(parts["train"]), tuple(parts["validation"]), tuple(parts["test"]), audit)


def load_labelled(path: str, data: DataSection, task: Task, *, base_dir: Path | None = None) -> tuple[list[Row], Audit]:
    """Load all rows of a file as a test split, with a recipe's fields, label map and tolerance.

    The file need not look like the recipe's own: its name and columns go first. Of ``sample``, only the test
    rows are returned, since the others are training rows.

    Raises:
        DataError: as :func:`load_splits`.
    """
    intake = Intake(data, _labels(data, task), _layout(data, task, strict=False))
    prose = isinstance(task, TextTask)
    sources = open_sources(path, data, key=path, hub_split="test", base_dir=base_dir, own=False, prose=prose)
    rows = _together(intake.read(sources, path), data, task)
    if path == SAMPLE:
        rows = by_column(rows, "split")["test"]
    repeats, contradicting = count_repeats(rows, Keys())
    return rows, intake.audit({"test": rows}, {"within_test": repeats}, {"test": contradicting})


def stream_rows(
    path: str,
    data: DataSection,
    task: Task,
    *,
    require_label: bool = False,
    base_dir: Path | None = None,
) -> Iterator[Row | BadRow]:
    """Yield the rows of a file in order; what cannot be used comes as a BadRow in its place, so nothing is lost.

    Memory does not grow with the file, except that of a ``.json`` document. Without ``require_label`` a row
    carries its label where the file has one that can be mapped, else None.

    Raises:
        DataError: the file as a whole cannot be read.
    """
    layout, labels = _layout(data, task, strict=False), _labels(data, task)
    for source in open_sources(path, data, key=path, hub_split="test", base_dir=base_dir, own=False):
        for record in source.records():
            row, _ = make_row(record, layout, labels, require_label)
            yield row


def rows_in_memory(
    records: Iterable[Mapping[str, Any]], data: DataSection, task: Task, column: str
) -> list[Row | BadRow]:
    """Return the rows of records in memory, without labels; what cannot be used comes as a BadRow in its place.

    Args:
        records: each with the text under ``column``, and beside it what else the task or ``data.context`` reads.
        data: the run's; its ``fields`` name the other columns.
        task: says which fields make up a text.
        column: name of the texts.
    """
    named = data.model_copy(update={"layout": "columns", "fields": {**data.fields, "text": column}})
    layout = _layout(named, task, strict=False)
    labels = Unlabelled(task.labels)
    numbered = (Record(record, "row", number) for number, record in enumerate(records, start=1))
    return [make_row(record, layout, labels, require_label=False)[0] for record in numbered]


def _layout(data: DataSection, task: Task, *, strict: bool = True) -> Layout:
    parts = task.parts if isinstance(task, InParts) else ()
    return Layout(data.layout, data.fields, task.fields, answers=task.columns, parts=parts, strict=strict)


def _together(rows: list[Row], data: DataSection, task: Task) -> list[Row]:
    """Join the rows of each text where every row tells a piece of its answer."""
    if not isinstance(task, InParts) or not set(task.parts) & data.fields.keys():
        return rows
    by_text: dict[str, list[Row]] = {}
    for row in rows:
        by_text.setdefault(row.text, []).append(row)
    return [
        replace(own[0], label=task.together([row.label for row in own if isinstance(row.label, Answer)], text))
        for text, own in by_text.items()
    ]


def _labels(data: DataSection, task: Task) -> Labels:
    if isinstance(task, TextTask):
        return Unlabelled(task.labels)
    if isinstance(task, Written):
        return WrittenLabels(task, data.labels)
    words = {**{label: label for label in task.labels}, **task.aliases}
    return LabelMap(data.labels, words, several=task.several)


def _check_together(data: DataSection) -> None:
    if data.test and data.split and not data.validation_share:
        raise DataError("data.test and data.split both say where the test rows come from; keep one.")
    if data.market and (data.split is None or data.split.method != "time"):
        raise DataError("data.market: forecasts are split by time only: data.split: {method: time, column: date}.")
    if data.validation and data.validation_share:
        raise DataError("data.validation and data.validation_share both say what to validate on; keep one.")


def _held_out(path: str, data: DataSection, key: str, base_dir: Path | None, prose: bool) -> list[Source]:
    """Open test or validation rows: paths; or the name of a split, where the training rows are a hub data set's."""
    # A split is a bare word: a folder that happens to be called "test" must not take its place.
    is_file = "/" in path or format_of(Path(path)) is not None or path == SAMPLE or path.startswith(PREFIX)
    own = data.path if isinstance(data.path, str) and data.path.startswith(PREFIX) else None
    if own and not is_file:
        return open_sources(own, data, key=key, hub_split=path, base_dir=base_dir)
    return open_sources(path, data, key=key, hub_split=key.removeprefix("data."), base_dir=base_dir, prose=prose)


def _split(rows: list[Row], given: dict[str, list[Row]], data: DataSection, intake: Intake) -> dict[str, list[Row]]:
    parts: dict[str, list[Row]] = {"train": rows, "validation": [], "test": []}
    column = data.fields.get("split", "split")
    named = [named_split(row, column) for row in rows]
    # An unmapped column may mean something else by "split": a share split has no train and test.
    carried = "split" in data.fields or any(named)
    if data.split and not data.test:
        if len(set(named) - {None}) > 1:
            intake.warnings.append(f"the rows name their own split in column '{column}'; data.split overrides it")
        if data.split.folds:
            parts["train"], parts["test"] = walk_forward(rows, data.split)
        else:
            parts["train"], parts["test"] = hold_out(rows, data.split.test, data.split)
    elif carried:
        parts = by_column(rows, column)
        for name, part in given.items():
            if part and parts[name]:
                intake.warnings.append(
                    f"{len(parts[name])} rows of data.path are marked {name}; data.{name} replaces them"
                )
    elif not data.test:
        raise DataError(f"The rows carry no split. {_HOW_TO_SPLIT}")
    parts |= {name: part for name, part in given.items() if part}
    if data.validation_share and parts["validation"]:
        intake.warnings.append("the rows bring their own validation rows; data.validation_share is not used")
    elif data.validation_share:
        split = data.split or SplitSection(method="random")
        parts["train"], parts["validation"] = hold_out(parts["train"], data.validation_share, split)
    if not parts["test"]:
        raise DataError(f"No row is for the test. {_HOW_TO_SPLIT}")
    if not parts["train"]:
        raise DataError("No row is for training: each of them is marked test or validation.")
    return parts


def _spread(rows: list[Row], limit: int) -> list[Row]:
    """Return this many rows at even distances: a file may be in the order of its labels, or of time."""
    return rows if len(rows) <= limit else [rows[i * len(rows) // limit] for i in range(limit)]


def _keep_time(parts: dict[str, list[Row]], data: DataSection, intake: Intake) -> None:
    """Purge what is trained on of windows that reach into what is held out, then refuse rows that know too early."""
    embargo = timedelta(days=data.market.embargo_days if data.market else 0)
    before = len(parts["train"]) + len(parts["validation"])
    parts["validation"] = purge(parts["validation"], parts["test"], embargo)
    parts["train"] = purge(parts["train"], [*parts["validation"], *parts["test"]], embargo)
    purged = before - len(parts["train"]) - len(parts["validation"])
    if purged:
        intake.warnings.append(f"{purged} rows whose outcome reaches into a later split were purged")
    if not parts["train"]:
        raise DataError(
            "Every training row's outcome reaches into the test rows. Split by time: data.split: {method: time}."
        )
    refuse_leaks(parts)


def _clean(parts: dict[str, list[Row]], data: DataSection) -> tuple[dict[str, int], dict[str, int | str]]:
    """Remove from training what is held out, and from validation what is in the test; settle the training rows."""
    keys = Keys()
    had_validation = bool(parts["validation"])
    parts["validation"], from_validation = remove_leaks(parts["validation"], parts["test"], keys)
    parts["train"], from_train = remove_leaks(parts["train"], [*parts["validation"], *parts["test"]], keys)
    if not parts["train"] or (had_validation and not parts["validation"]):
        name, others = ("training", "test or validation") if not parts["train"] else ("validation", "test")
        raise DataError(
            f"Every {name} row also stands in the {others} rows, so none is left. Check data.path and data.test."
        )
    settled = settle(parts["train"], data.contradictions, keys)
    if not settled.rows:
        raise DataError("Every training text carries several labels, so none is left. See data.contradictions.")
    parts["train"] = settled.rows
    within_test, contradicting_test = count_repeats(parts["test"], keys)
    duplicates = {
        "train_test_exact": from_train["exact"],
        "train_test_normalised": from_train["normalised"],
        "validation_test": sum(from_validation.values()),
        "within_train": settled.repeated,
        "within_test": within_test,
    }
    return duplicates, {
        "train": settled.contradicting,
        "train_removed": settled.removed,
        "test": contradicting_test,
        "policy": data.contradictions,
    }
