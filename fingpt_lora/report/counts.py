"""What was counted on the way: rows, what was removed of them, what training took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fingpt_lora.data.audit import counted
from fingpt_lora.report.findings import labels
from fingpt_lora.report.wording import duration, number


def audit_lines(audit: Mapping[str, Any], shortened: int = 0) -> list[tuple[str, str]]:
    """Return what was counted on the way to the splits: (what, how many)."""
    lines = [(what, f"{count:,}") for what, count in counted(audit)]
    return [*lines, ("Training articles shortened to fit", f"{shortened:,}")]


def split_counts(metrics: Mapping[str, Any], audit: Mapping[str, Any]) -> tuple[list[str], dict[str, list[int]]]:
    """Return labels and, per split that has rows, the rows of each label and, last, of all of them."""
    rows: Mapping[str, Mapping[str, int]] = audit.get("rows") or {}
    names = [name for name in ("train", "validation", "test") if name in rows]
    names += [name for name in rows if name not in names]
    known = labels(metrics)
    known += [label for name in names for label in rows[name] if label not in known]
    known = list(dict.fromkeys(known))
    counts = {name: [rows[name].get(label, 0) for label in known] for name in names}
    # A row of several labels counts under each, so the sum is more than the rows.
    totals = audit.get("totals") or {}
    return known, {name: [*row, totals.get(name, sum(row))] for name, row in counts.items() if sum(row)}


def training_lines(metrics: Mapping[str, Any], hardware: str) -> list[tuple[str, str]]:
    """Return the facts of the training: (what, value), as far as they are known."""
    train = metrics.get("train") or {}
    lines = [
        ("Rows", f"{train['rows']:,}" if train.get("rows") else None),
        ("Epochs", f"{train['epochs']:g}" if train.get("epochs") else None),
        ("Steps", f"{train['steps']:,}" if train.get("steps") else None),
        ("Time", duration(train["seconds"]) if train.get("seconds") else None),
        ("Speed", f"{train['rows_per_second']:.1f} rows/s" if train.get("rows_per_second") else None),
        ("Peak memory", f"{train['peak_memory_gib']:.1f} GiB" if train.get("peak_memory_gib") else None),
        ("Final loss", number(train["final_loss"]) if train.get("final_loss") is not None else None),
        ("Hardware", hardware),
    ]
    return [(what, value) for what, value in lines if value is not None]
