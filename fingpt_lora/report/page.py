"""The report: one HTML file that needs nothing beside itself."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fingpt_lora.atomic import write_text
from fingpt_lora.report import counts, findings, wording
from fingpt_lora.report.context import ReportContext

if TYPE_CHECKING:
    from jinja2 import Environment

PAGE = "report.html"
_CAPTIONS = {
    "confusion_matrix": "Rows are the right labels, columns the answers.",
    "reliability": "Accuracy of the answers against the confidence they were given with; on the diagonal, a "
    "confidence of 80 % is right 8 times in 10.",
    "coverage": "Accuracy when only the most confident share of rows is answered. The band is the 95 % interval.",
    "training": "Loss on the training rows, validation where there was one, and the learning rate.",
}


def environment(*, autoescape: bool) -> Environment:
    """Return the templates of this package."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("fingpt_lora.report"),
        autoescape=autoescape,
        undefined=StrictUndefined,  # a misspelt name is an error, not an empty space in somebody's report
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {
        "number": wording.number,
        "interval": wording.interval,
        "percent": wording.percent,
        "points": wording.points,
    }
    return made


def write_html(folder: Path, metrics: Mapping[str, Any], context: ReportContext, plots: Sequence[Path] = ()) -> Path:
    """Write ``report.html``: figures, plots, data audit, three rows per label, settings, identity.

    Args:
        folder: the run folder, which exists.
        metrics: the content of ``metrics.json``.
        context: everything beside the figures.
        plots: PNG files to embed, as :func:`fingpt_lora.report.write_plots` returns them.

    Returns:
        the file written.
    """
    found = {path.stem: base64.b64encode(path.read_bytes()).decode("ascii") for path in plots}
    text = (
        environment(autoescape=True)
        .get_template("report.html.j2")
        .render(
            **common(metrics, context),
            test=metrics["test"],
            languages=findings.language_results(metrics),
            thresholds=any("threshold" in own for own in metrics["test"].get("per_class", {}).values()),
            facts_stated="grounded_rate" in metrics["test"],
            comparisons=[(findings.NAMES[key], compared) for key, compared in findings.comparisons(metrics)],
            plots=[(name, found[name], caption) for name, caption in _CAPTIONS.items() if name in found],
        )
    )
    write_text(folder / PAGE, text)
    return folder / PAGE


def common(metrics: Mapping[str, Any], context: ReportContext) -> dict[str, Any]:
    """Return what page and card both say, under the names that their templates use."""
    results = findings.results(metrics)
    labels, per_split = counts.split_counts(metrics, context.audit)
    return {
        "run": context,
        "level": findings.level(metrics),
        "headline": findings.headline(metrics),
        "meaning": findings.meaning(metrics),
        "differences": findings.differences(metrics),
        "cautions": findings.cautions(metrics, context.audit, context.shortened),
        "results": results,
        "columns": findings.columns(results),
        "class_labels": findings.labels(metrics),
        "labels": labels,
        "counts": per_split,
        "audit_lines": counts.audit_lines(context.audit, context.shortened),
        "training_lines": counts.training_lines(metrics, context.hardware_line),
    }
