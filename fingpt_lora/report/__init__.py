"""What a run leaves for people: plots, one HTML page, a model card, a table. Takes plain data and needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fingpt_lora.report.card import write_merged_card, write_model_card
from fingpt_lora.report.context import ReportContext
from fingpt_lora.report.page import write_html
from fingpt_lora.report.plots import write_plots
from fingpt_lora.report.table import export_table, merge_table, summary_table

__all__ = [
    "ReportContext",
    "export_table",
    "merge_table",
    "summary_table",
    "write_html",
    "write_merged_card",
    "write_model_card",
    "write_plots",
    "write_report",
]

PLOTS = "plots"


def write_report(
    folder: Path, metrics: Mapping[str, Any], log_history: Sequence[Mapping[str, Any]], context: ReportContext
) -> list[Path]:
    """Write ``plots/*.png``, ``report.html`` and ``README.md`` into a run folder, each atomically.

    Args:
        folder: the run folder, which exists.
        metrics: the content of ``metrics.json``.
        log_history: the Trainer's ``state.log_history``.
        context: everything else that the reader should know.

    Returns:
        the files written.
    """
    plots = write_plots(folder / PLOTS, metrics, log_history)
    page = write_html(folder, metrics, context, plots)
    return [*plots, page, write_model_card(folder, metrics, context, plots)]
