"""The model card: Markdown with the hub's metadata, checked by huggingface_hub without asking the hub."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fingpt_lora.atomic import write_text
from fingpt_lora.report.context import ReportContext
from fingpt_lora.report.page import common, environment
from fingpt_lora.runs import TASKS, Run

CARD = "README.md"
# What an adapter was merged into.
WEIGHTS = {"plain": "16-bit base", "dequantized": "dequantized base", "own": "base as the adapter has changed it"}
# Licences that ask nothing of a model trained on the data but to name its source, if that.
_PERMISSIVE = {"cc0-1.0", "mit", "apache-2.0", "bsd-3-clause", "cc-by-3.0", "cc-by-4.0", "odc-by", "unlicense"}
_HUB_METRICS = {
    "accuracy": ("accuracy", "Accuracy"),
    "micro_f1": ("f1", "Micro-F1"),
    "weighted_f1": ("f1", "Weighted F1"),
    "macro_f1": ("f1", "Macro-F1"),
    "perplexity": ("perplexity", "Perplexity"),
    "mcc": ("matthews_correlation", "MCC"),
}


def write_model_card(
    folder: Path, metrics: Mapping[str, Any], context: ReportContext, plots: Sequence[Path] = ()
) -> Path:
    """Write ``README.md``, ready to be published beside the adapter. It quotes no row of the data.

    Args:
        folder: the run folder, which exists.
        metrics: the content of ``metrics.json``.
        context: everything beside the figures.
        plots: plot files inside ``folder`` to link to.

    Returns:
        the file written.
    """
    from huggingface_hub import ModelCard

    body = (
        environment(autoescape=False)
        .get_template("card.md.j2")
        .render(
            **common(metrics, context),
            folder=folder.name if folder.is_absolute() else folder.as_posix(),
            plots={path.stem: path.relative_to(folder).as_posix() for path in plots},
        )
    )
    card = ModelCard(f"---\n{_metadata(metrics, context).to_yaml()}\n---\n\n{body}")
    write_text(folder / CARD, str(card))
    return folder / CARD


def write_merged_card(folder: Path, name: str, members: Mapping[str, Run], figures: Mapping[str, Any]) -> Path:
    """Write ``README.md`` of a merged model, with the proof that it answers as the trained one does.

    Args:
        folder: of the merged model.
        name: that it will have.
        members: the runs that were merged, by the name of their task.
        figures: the content of ``merge_report.json``.

    Returns:
        the file written.
    """
    from huggingface_hub import ModelCard, ModelCardData

    first = next(iter(members.values()))
    known = ReportContext(name=name, task="", recipe_yaml="", base_model=first.recipe.model.base)
    licences = [run.manifest.get("licences") or {} for run in members.values()]
    stated = {
        key: ", ".join(sorted({own.get(key, "not stated") for own in licences})) for key in ("base_model", "data")
    }
    lines = [
        {
            "task": task,
            "rows": figures["rows"][task],
            "what": WEIGHTS[candidate],
            "kept_one": candidate == figures["kept"],
            "first": candidate == next(iter(figures["candidates"])),
            "trained": figures["trained"][task],
            **own,
        }
        for task in members
        for candidate, found in figures["candidates"].items()
        for own in [found["tasks"][task]]
    ]
    quantization = figures["quantization"]
    body = (
        environment(autoescape=False)
        .get_template("merged.md.j2")
        .render(
            name=name,
            base_name=known.base_name,
            tasks=list(dict.fromkeys(run.recipe.task.name for run in members.values())),
            folders=[name] if len(members) == 1 else [f"{name}/{TASKS}/{task}" for task in members],
            lines=lines,
            figures=figures,
            quantization=quantization if isinstance(quantization, str) else "by a configuration of its own",
            licences=stated,
        )
    )
    classifies = first.recipe.model.head == "classification"
    metadata = ModelCardData(
        **_licence(stated["base_model"], stated["data"]),
        base_model=known.base_hub_id,
        library_name="transformers",
        pipeline_tag="text-classification" if classifies else "text-generation",
        tags=["fingpt-lora", "finance", "merge", *dict.fromkeys(run.recipe.task.name for run in members.values())],
        model_name=name,
    )
    card = ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{body}")
    write_text(folder / CARD, str(card))
    return folder / CARD


def _metadata(metrics: Mapping[str, Any], context: ReportContext) -> Any:
    """Return the hub's metadata (https://huggingface.co/docs/hub/model-cards)."""
    from huggingface_hub import EvalResult, ModelCardData

    measured = [
        EvalResult(
            task_type="text-classification",
            task_name=context.task,
            dataset_type=_slug(context.data_name),
            dataset_name=context.data_name,
            dataset_split="test",
            metric_type=kind,
            metric_name=name,
            metric_value=round(metrics["test"][key], 4),
        )
        for key, (kind, name) in _HUB_METRICS.items()
        if metrics["test"].get(key) is not None
    ]
    hub_sets = [source.removeprefix("hub:").split("[")[0] for source in context.sources if source.startswith("hub:")]
    return ModelCardData(
        **_licence(context.base_licence, context.data_licence),
        base_model=context.base_hub_id,
        datasets=list(dict.fromkeys(hub_sets)) or None,
        language=list(context.languages) or None,
        library_name="transformers" if context.method == "NONE" else "peft",
        pipeline_tag="text-classification" if context.classifies else "text-generation",
        tags=["fingpt-lora", "finance", *(["lora"] if context.method == "LORA" else []), context.task],
        model_name=context.name,
        eval_results=measured,
    )


def _licence(base: str | None, data: str | None) -> dict[str, Any]:
    """Return the hub's licence fields: the base model's where the data asks nothing more, else both by name."""
    if base and data and data.lower() in _PERMISSIVE:
        return {"license": base.lower()}
    return {
        "license": "other",
        "license_name": f"base-{_slug(base or 'not stated')}-data-{_slug(data or 'not stated')}",
    }


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "data"
