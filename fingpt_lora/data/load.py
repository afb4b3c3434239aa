"""From a recipe's ``data`` section to clean, labelled splits and an account of what was done."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fingpt_lora.data import audit as audits
from fingpt_lora.data.audit import Audit
from fingpt_lora.data.files import expand, read_records
from fingpt_lora.data.hub import PREFIX, read_hub
from fingpt_lora.data.labels import LabelMap
from fingpt_lora.data.layouts import detect_layout, read_pair
from fingpt_lora.data.rows import BadRow, Record, Row
from fingpt_lora.data.splits import by_column, hold_out
from fingpt_lora.errors import DataError
from fingpt_lora.recipe import DataSection, SplitSection

SAMPLE = Path(__file__).parent / "sample" / "sentiment.jsonl"
SAMPLE_LICENCE = "cc0-1.0"


@dataclass(frozen=True)
class Splits:
    """Training, validation and test rows, and what was done to get them."""

    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    test: tuple[Row, ...]
    audit: Audit


def load_splits(data: DataSection, aliases: Mapping[str, str]) -> Splits:
    """Load, label, split and clean.

    Args:
        data: the recipe's section.
        aliases: lower-case word -> canonical label of the task.

    Raises:
        DataError: one sentence that names file and row, and what to do.
    """
    audit = Audit(licence=SAMPLE_LICENCE if data.path == "sample" else None)
    label_map = LabelMap(data.labels, aliases)
    rows = _read(data.path, data, label_map, audit, data.train_split)
    given = {
        name: _read(path, data, label_map, audit, path) if path else []
        for name, path in (("test", data.test), ("validation", data.validation))
    }
    parts = _split(rows, given, data)
    _clean(parts, data, audit)
    if data.limit:
        parts = {name: part[: data.limit] for name, part in parts.items()}
    _account(parts, audit, label_map)
    return Splits(tuple(parts["train"]), tuple(parts["validation"]), tuple(parts["test"]), audit)


def load_labelled(path: str, data: DataSection, aliases: Mapping[str, str]) -> tuple[list[Row], Audit]:
    """Load one labelled file with a recipe's fields, label map and tolerance.

    Raises:
        DataError: as :func:`load_splits`.
    """
    audit, label_map = Audit(), LabelMap(data.labels, aliases)
    rows = _read(path, data, label_map, audit, path)
    repeated, contradicting = audits.count_repeats(rows)
    audit.duplicates, audit.contradictions = {"within_test": repeated}, {"test": contradicting}
    _account({"test": rows}, audit, label_map)
    return rows, audit


def stream_rows(
    path: str, data: DataSection, aliases: Mapping[str, str], *, require_label: bool = False
) -> Iterator[Row | BadRow]:
    """Yield the rows of a file in order, in bounded memory; what cannot be read comes as a BadRow in its place."""
    label_map = LabelMap(data.labels, aliases)
    for file in expand(path):
        yield from _rows(read_records(file, _format(data, file), data.encoding), data, label_map, require_label)


def _format(data: DataSection, file: Path) -> str:
    # A format written for the training file need not be that of the file at hand, whose name may tell better.
    return data.format


def _read(path: str | Sequence[str], data: DataSection, label_map: LabelMap, audit: Audit, split: str) -> list[Row]:
    records: Iterable[Record | BadRow]
    if path == "sample":
        records = read_records(SAMPLE, "jsonl", "utf-8")
        audit.sources["sample"] = _digest(SAMPLE)
    elif isinstance(data.path, str) and data.path.startswith(PREFIX):
        name = data.path.removeprefix(PREFIX)
        records = read_hub(name, split, config=data.name, revision=data.revision)
        audit.sources[f"{data.path}[{split}]"] = data.revision or "latest"
    else:
        files = expand(path)
        audit.sources |= {str(file): _digest(file) for file in files}
        records = (record for file in files for record in read_records(file, data.format, data.encoding))
    rows: list[Row] = []
    bad: list[BadRow] = []
    for row in _rows(records, data, label_map, require_label=True):
        (rows if isinstance(row, Row) else bad).append(row)  # type: ignore[arg-type]
    shown = path if isinstance(path, str) else ", ".join(path)
    if not rows and not bad:
        raise DataError(f"'{shown}' holds no rows.")
    if len(bad) > data.bad_rows * (len(rows) + len(bad)):
        lines = "\n".join(f"  {item}" for item in bad[:5])
        more = f"\n  ... and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise DataError(
            f"{len(bad)} of {len(rows) + len(bad)} rows of '{shown}' cannot be used; data.bad_rows tolerates a share of "
            f"{data.bad_rows:g}:\n{lines}{more}\nMend them, or raise data.bad_rows."
        )
    audit.bad_rows += bad
    if not rows:
        raise DataError(f"'{shown}' holds no usable rows.")
    return rows


def _rows(
    records: Iterable[Record | BadRow], data: DataSection, label_map: LabelMap, require_label: bool
) -> Iterator[Row | BadRow]:
    for record in records:
        if isinstance(record, BadRow):
            yield record
            continue
        pair = read_pair(record, detect_layout(record.values, data.layout), data.fields)
        yield pair if isinstance(pair, BadRow) else _row(record, pair[0], pair[1], label_map, require_label)


def _row(record: Record, text: object, raw: object, label_map: LabelMap, require_label: bool) -> Row | BadRow:
    if not isinstance(text, str) or not text.strip():
        found = (
            "no text" if text is None or text == "" or isinstance(text, str) else f"the text is a {type(text).__name__}"
        )
        return BadRow(record.origin, record.line, found)
    label = None
    if require_label:
        label, reason = label_map.canonical(raw)
        if label is None:
            return BadRow(record.origin, record.line, str(reason))
    return Row(text.strip(), label, record.origin, record.line, record.values)


def _split(rows: list[Row], given: dict[str, list[Row]], data: DataSection) -> dict[str, list[Row]]:
    column = data.fields.get("split", "split")
    parts: dict[str, list[Row]] = {"train": rows, "validation": given["validation"], "test": given["test"]}
    if not parts["test"]:
        if data.split:
            parts["train"], parts["test"] = hold_out(rows, data.split.test, data.split)
        elif all(column in row.values for row in rows):
            parts = by_column(rows, column) | ({"validation": given["validation"]} if given["validation"] else {})
        else:
            raise DataError(
                "The rows carry no split. Say how to get a test set: data.test: FILE; or data.split: {method: time, "
                "column: date}; or {method: group, column: company}; or {method: random}."
            )
    elif data.split:
        raise DataError("data.test and data.split exclude each other; keep one.")
    if not parts["validation"] and data.validation_share:
        split = data.split or SplitSection(method="random")
        parts["train"], parts["validation"] = hold_out(parts["train"], data.validation_share, split)
    for name in ("train", "test"):
        if not parts[name]:
            raise DataError(f"The {name} split is empty. Check data.path, data.test and data.split.")
    return parts


def _clean(parts: dict[str, list[Row]], data: DataSection, audit: Audit) -> None:
    parts["validation"], from_validation = audits.remove_leaks(parts["validation"], parts["test"])
    held_out = [*parts["validation"], *parts["test"]]
    parts["train"], from_train = audits.remove_leaks(parts["train"], held_out)
    parts["train"], repeated, contradicting = audits.settle_training(parts["train"], data.contradictions)
    within_test, contradicting_test = audits.count_repeats(parts["test"])
    audit.duplicates = {
        "train_test_exact": from_train["exact"],
        "train_test_normalised": from_train["normalised"],
        "validation_test": sum(from_validation.values()),
        "within_train": repeated,
        "within_test": within_test,
    }
    audit.contradictions = {"train": contradicting, "test": contradicting_test, "policy": data.contradictions}
    if not parts["train"]:
        raise DataError("Every training row also stands in the test or validation rows, so none is left to train on.")


def _account(parts: dict[str, list[Row]], audit: Audit, label_map: LabelMap) -> None:
    for name, part in parts.items():
        counts = Counter(row.label for row in part)
        audit.rows[name] = {label: counts[label] for label in label_map.labels}
    for label, count in audit.rows.get("train", {}).items():
        if count == 0:
            audit.warnings.append(f"no training row is labelled '{label}'")
    audit.fingerprint = audits.fingerprint(parts)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
