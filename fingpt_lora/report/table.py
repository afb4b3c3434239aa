"""The result in a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fingpt_lora.report import findings, wording
from fingpt_lora.report.card import WEIGHTS

if TYPE_CHECKING:
    from rich.table import Table

_SHORT = {"weighted_f1": "w. F1", "macro_f1": "macro-F1", "accuracy": "accuracy", "mcc": "MCC", "ece": "ECE"}
_SHORT |= {"micro_f1": "micro-F1", "question_f1": "yes/no F1", "trigger_f1": "trigger", "role_f1": "role"}
_SHORT |= {"type_f1": "type", "grounded_rate": "in text", "perplexity": "perplexity", "bits_per_byte": "bits/byte"}
_NAMES = {"base_model": "Untouched base", "tfidf_logreg": "TF-IDF + log. reg.", "shuffled": "TF-IDF, shuffled"}
_NAMES |= {"earlier_adapters": "Base with the\nearlier adapters", "by_heart": "Known from training"}


def summary_table(
    metrics: Mapping[str, Any], audit: Mapping[str, Any] | None = None, caption: str | None = None
) -> Table:
    """Return the evaluation as a rich table that fits 80 columns.

    Args:
        metrics: the content of ``metrics.json``; ``test`` alone is enough.
        audit: ``Audit.as_dict()``.
        caption: first line below the table, e.g. the run folder.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rows = findings.results(metrics)
    columns = findings.columns(rows)
    invalid = any(row.invalid_rate for row in rows)
    if invalid or rows[0].values["ece"] is None:
        columns.pop("ece", None)  # no room for both, or the run was not asked for probabilities
    if "micro_f1" in columns:
        columns = {key: title for key, title in columns.items() if key not in ("weighted_f1", "ece")}
    table = Table(box=box.SIMPLE_HEAD, caption_justify="left", caption_style="", pad_edge=False, padding=(0, 1))
    table.add_column("")
    for key in columns:
        table.add_column(_SHORT[key], justify="right", no_wrap=True)
    if invalid:
        table.add_column("invalid", justify="right", no_wrap=True)
    for row in rows:
        own = row.key == "test"
        cells = [Text(_NAMES.get(row.key, row.name), style="bold" if own else "")]
        for key in columns:
            cell = Text(wording.number(row.values[key]), style="bold" if own else "")
            if key in row.intervals:
                low, high = (wording.number(bound, 2) for bound in row.intervals[key])
                cell.append(f"\n{low}–{high}", style="dim")
            cells.append(cell)
        if invalid:
            cells.append(Text(wording.percent(row.invalid_rate)))
        table.add_row(*cells)
    table.caption = Text("\n".join(_notes(metrics, audit or {}, caption)))
    return table


def _notes(metrics: Mapping[str, Any], audit: Mapping[str, Any], caption: str | None) -> list[str]:
    lines = [caption] if caption else []
    lines.append(f"Below each figure: its {findings.level(metrics)} interval over resampled test rows.")
    duplicates = audit.get("duplicates") or {}
    leaked = sum(duplicates.get(key, 0) for key in ("train_test_exact", "train_test_normalised"))
    if leaked:
        lines.append(f"{leaked:,} training rows were removed because test or validation hold the same text.")
    return lines + findings.short_differences(metrics)


def merge_table(report: Mapping[str, Any]) -> Table:
    """Return a merge report as a rich table."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), caption_justify="left", caption_style="")
    # As wide as eighty columns bear; the card has the largest drift, too.
    for title in ("", "merged into", "same", "ties", "moved", "drift", "accuracy"):
        wide = title in ("", "merged into")
        table.add_column(title, justify="left" if wide else "right", no_wrap=not wide, overflow="fold")
    for task, trained in report["trained"].items():
        again = wording.percent(trained["agreement_with_itself"])
        table.add_row(task, "(asked again)", again, "", "", "", wording.number(trained["accuracy"]))
        for name, found in report["candidates"].items():
            own = found["tasks"][task]
            table.add_row(
                "",
                WEIGHTS[name] + (" (kept)" if name == report["kept"] else ""),
                wording.percent(own["agreement"]),
                wording.percent(own["near_ties"]),
                wording.percent(own["moved"]),
                f"{own['mean_drift']:.4f}",
                wording.number(own["accuracy"]),
                style="bold" if name == report["kept"] else "",
            )
    rows = ", ".join(str(count) for count in report["rows"].values())
    table.caption = (
        f"{rows} held-out rows: answers that are the same, or another at a near tie; probability that moved; mean "
        f"drift of log-probabilities in nats. {report['seconds']:.0f} s."
    )
    return table


def export_table(report: Mapping[str, Any]) -> Table:
    """Return an export report as a rich table."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), caption_justify="left", caption_style="")
    if "files" in report:
        table.add_column("file")
        for name in report["files"]:
            table.add_row(name)
    else:
        for title in ("", "MB", "the same", "near ties", "accuracy", "rows/s"):
            table.add_column(title, justify="right" if title else "left", no_wrap=True)
        size = f"{report['bytes'] / 1e6:.0f}"
        if report["checked"]:
            merged, own = report["rows_per_second_merged"], report["rows_per_second"]
            table.add_row("merged run", "", "", "", wording.number(report["accuracy_merged"]), f"{merged:.1f}")
            shares = [wording.percent(report["agreement"]), wording.percent(report["near_ties"])]
            shares.append(wording.number(report["accuracy"]))
            table.add_row(report["file"], size, *shares, f"{own:.1f}", style="bold")
        else:
            table.add_row(report["file"], size, f"not checked: {report['why']}", "", "", "")
    if report.get("checked"):
        table.caption = f"{report['rows']} held-out rows."
    return table
