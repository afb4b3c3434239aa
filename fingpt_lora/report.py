"""What a run leaves for people: a table at the end, a model card, and one HTML page that can be forwarded."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fingpt_lora.atomic import write_text
from fingpt_lora.plots import write_plots

NAMES = {
    "base_model": "base model, untouched",
    "tfidf_logreg": "TF-IDF + logistic regression",
    "majority": "majority class",
}
_COLUMNS = {
    "accuracy": "accuracy",
    "weighted_f1": "weighted F1",
    "macro_f1": "macro F1",
    "mcc": "MCC",
    "ece": "ECE",
}


@dataclass(frozen=True)
class ReportContext:
    """What the report says beside the figures."""

    name: str
    task: str
    recipe_yaml: str
    base_model: str
    base_licence: str | None
    data_licence: str | None
    audit: Mapping[str, Any]
    examples: Mapping[str, Sequence[str]]  # label -> up to three training texts
    hardware: Mapping[str, Any]
    versions: Mapping[str, str]
    fingerprint: str
    filled: Sequence[tuple[str, Any, str]]  # (key, value, reason)
    shortened: int
    languages: Sequence[str]


def write_report(
    folder: Path, metrics: Mapping[str, Any], log_history: Sequence[Mapping[str, Any]], context: ReportContext
) -> None:
    """Write ``plots/``, ``README.md`` and ``report.html`` into a run folder."""
    plots = write_plots(folder / "plots", metrics["test"], log_history)
    write_text(folder / "README.md", model_card(metrics, context))
    write_text(folder / "report.html", html_page(metrics, context, plots))


def rows_of(metrics: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return (name, figures) of the model and of the baselines that there are, best known first."""
    baselines = metrics.get("baselines", {})
    return [("this model", metrics["test"])] + [(NAMES[key], baselines[key]) for key in NAMES if key in baselines]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(figures: Mapping[str, Any], key: str) -> str:
    low, high = figures["intervals"].get(key, (None, None))
    return "" if low is None else f"{low:.2f}-{high:.2f}"


def summary_table(metrics: Mapping[str, Any], caption: str | None = None) -> Any:
    """Return a rich table that reads well at 80 columns; the model's intervals stand under its figures."""
    from rich import box
    from rich.table import Table

    test = metrics["test"]
    table = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left", pad_edge=False)
    table.add_column("", no_wrap=True)
    for title in _COLUMNS.values():
        table.add_column(title, justify="right")
    for place, (name, figures) in enumerate(rows_of(metrics)):
        table.add_row(name, *(_figure(figures.get(key)) for key in _COLUMNS), style="bold" if place == 0 else None)
        if place == 0:
            level = f"{test['confidence']:.0%} interval"
            table.add_row(f"  {level}", *(_interval(test, key) for key in _COLUMNS), style="dim")
    if test["invalid_rate"]:
        table.add_row(f"  {test['invalid_rate']:.1%} of the answers were invalid", *[""] * len(_COLUMNS), style="red")
    for language, figures in metrics.get("test_by_language", {}).items():
        table.add_row(f"  rows in {language}: {figures['rows']}", *(_figure(figures.get(key)) for key in _COLUMNS))
    return table


def model_card(metrics: Mapping[str, Any], context: ReportContext) -> str:
    """Return the model card as Markdown with Hugging Face metadata. It quotes no data: licences may forbid that."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    test = metrics["test"]
    results = [
        EvalResult(
            "text-classification",
            context.task,
            "recipe data",
            context.name,
            key,
            test[key],
            metric_name=title,
        )
        for key, title in _COLUMNS.items()
        if test.get(key) is not None
    ]
    data = ModelCardData(
        base_model=None if context.base_model == "smollm2" else context.base_model,
        license=context.base_licence,
        library_name="peft",
        language=list(context.languages),
        tags=["finance", context.task, "lora", "fingpt-lora"],
        model_name=context.name,
        eval_results=results,
    )
    table = ["| | " + " | ".join(_COLUMNS.values()) + " |", "|---|" + "---:|" * len(_COLUMNS)]
    for name, figures in rows_of(metrics):
        cells = [
            f"{_figure(figures.get(k))} {_bracketed(figures, k) if name == 'this model' else ''}" for k in _COLUMNS
        ]
        table.append(f"| {name} | " + " | ".join(cell.strip() for cell in cells) + " |")
    train = metrics.get("train", {})
    content = f"""---
{data.to_yaml()}
---

# {context.name}

An adapter for the base model `{context.base_model}` that answers the task *{context.task}*
({", ".join(context.languages)}), trained with fingpt_lora.

## Use

```
fingpt-lora predict RUN_FOLDER "Net sales rose 12 % to EUR 3.1bn."
```

The wording that the adapter was trained with is in `prompt_contract.json`; asked in other words it is another model.

## Limits

The figures below hold for rows like the test rows and for nothing else. The adapter reads one text at a time and
knows neither prices nor dates. It is no investment advice.

## Evaluation

{test["rows"]} test rows; {test["confidence"]:.0%} bootstrap intervals in brackets; {test["invalid_rate"]:.1%} invalid answers.

{chr(10).join(table)}

## Training

{train.get("rows", "?")} rows, {train.get("epochs", 0) or 0:g} epochs, {train.get("steps", "?")} steps,
{train.get("seconds", 0) or 0:.0f} s on {context.hardware.get("name")} ({context.hardware.get("cores")} cores),
{train.get("rows_per_second", 0) or 0:.1f} rows/s.

```yaml
{context.recipe_yaml.strip()}
```

## Data

{_data_lines(context)}

Versions: {", ".join(f"{name} {number}" for name, number in context.versions.items())}.
Fingerprint of recipe, rows, prompt contract and base: `{context.fingerprint}`.
"""
    return str(ModelCard(content, ignore_metadata_errors=False))


def _bracketed(figures: Mapping[str, Any], key: str) -> str:
    interval = _interval(figures, key)
    return f"[{interval}]" if interval else ""


def _data_lines(context: ReportContext) -> str:
    audit = context.audit
    lines = [
        f"- {name}: " + ", ".join(f"{count} {label}" for label, count in counts.items())
        for name, counts in audit.get("rows", {}).items()
        if sum(counts.values())
    ]
    duplicates = audit.get("duplicates", {})
    removed = duplicates.get("train_test_exact", 0) + duplicates.get("train_test_normalised", 0)
    lines.append(f"- training rows removed because their text is in the held-out rows: {removed}")
    lines.append(f"- repeated training rows dropped: {duplicates.get('within_train', 0)}")
    contradictions = audit.get("contradictions", {})
    lines.append(
        f"- training texts with contradicting labels: {contradictions.get('train', 0)} (policy: "
        f"{contradictions.get('policy', '-')}); test texts with contradicting labels: {contradictions.get('test', 0)}"
    )
    lines.append(
        f"- rows that could not be used: {len(audit.get('bad_rows', []))}; shortened articles: {context.shortened}"
    )
    lines.append(
        f"- licence of the data: {context.data_licence or 'not stated'}; of the base: {context.base_licence or 'not stated'}"
    )
    return "\n".join(lines)


def html_page(metrics: Mapping[str, Any], context: ReportContext, plots: Sequence[Path]) -> str:
    """Return one self-contained page: no script, nothing loaded from elsewhere."""
    from jinja2 import Environment, PackageLoader, select_autoescape

    environment = Environment(loader=PackageLoader("fingpt_lora"), autoescape=select_autoescape(default=True))
    environment.filters["figure"] = _figure
    environment.filters["interval"] = _interval
    images = [(path.stem.replace("_", " "), base64.b64encode(path.read_bytes()).decode()) for path in plots]
    return environment.get_template("report.html.jinja").render(
        metrics=metrics,
        test=metrics["test"],
        rows=rows_of(metrics),
        columns=_COLUMNS,
        names=NAMES,
        context=context,
        data_lines=_data_lines(context).replace("- ", "", 1).split("\n- "),
        images=images,
    )
