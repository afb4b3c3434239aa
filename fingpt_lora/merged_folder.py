"""The folder of a merged model: a transformers checkpoint and a run, or the runs of several tasks, at once."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig, GenerationConfig

from fingpt_lora import report, runs
from fingpt_lora.atomic import write_json
from fingpt_lora.predict import checkpoint_of
from fingpt_lora.runs import Run
from fingpt_lora.sections import MixturePart, MixtureSection, Recipe

REPORT = "merge_report.json"
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt",
)  # fmt: skip


def recipe_of(recipe: Recipe, dtype: str) -> Recipe:
    """Return the recipe by which a merged model is used: no adapter, nothing quantized, the rest as it was trained."""
    model = {"quantization": "none", "adapters": (), "dtype": dtype}
    return recipe.model_copy(
        update={"model": recipe.model.model_copy(update=model), "adapter": {"peft_type": "none"}, "mixture": None}
    )


def write_config(checkpoint: Path, folder: Path, dtype: str) -> None:
    """Write ``config.json``: that of the base, in the type of the merged weights."""
    config = AutoConfig.from_pretrained(checkpoint, local_files_only=True, trust_remote_code=False)
    config.dtype = dtype
    config.save_pretrained(folder)


def complete(folder: Path, output: Path, members: Mapping[str, Run], figures: Mapping[str, Any]) -> None:
    """Put beside merged weights all that is needed to use them.

    Args:
        folder: that holds weights and ``config.json``.
        output: what it will be called.
        members: the runs that were merged, by the name of their task.
        figures: the merge report.
    """
    first = next(iter(members.values()))
    checkpoint = checkpoint_of(first)
    for name in TOKENIZER:
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, folder / name)
    if first.recipe.model.head == "language_model":
        _write_generation(folder, members)
    several = len(members) > 1
    for name, run in members.items():
        own = folder / runs.TASKS / name if several else folder
        place = output / runs.TASKS / name if several else output
        recipe = recipe_of(run.recipe, figures["dtype"]).model_copy(update={"output": str(place)})
        runs.begin(own, recipe, run.contract, _manifest(run, "../.." if several else ""))
        if (run.folder / runs.THRESHOLDS).is_file():
            shutil.copyfile(run.folder / runs.THRESHOLDS, own / runs.THRESHOLDS)
        runs.finish(own)
    if several:
        shared = recipe_of(first.recipe, figures["dtype"])
        parts = {name: MixturePart(recipe=f"{runs.TASKS}/{name}/{runs.RECIPE}") for name in members}
        mixture = Recipe(
            model=shared.model,
            adapter=shared.adapter,
            training=shared.training,
            mixture=MixtureSection(tasks=parts),
            output=str(output),
        )
        runs.begin(folder, mixture, None, _manifest(first, ""))
        runs.finish(folder)
    write_json(folder / REPORT, figures)
    report.write_merged_card(folder, output.name, members, figures)


def _write_generation(folder: Path, members: Mapping[str, Run]) -> None:
    """Greedy, as it was measured, until a stop token of the contract."""
    stops = dict.fromkeys(stop for run in members.values() for stop in run.contract.stop_ids)
    pad = next(iter(members.values())).contract.pad_id
    config = GenerationConfig(do_sample=False, eos_token_id=list(stops), pad_token_id=pad)
    config.save_pretrained(folder)


def _manifest(run: Run, weights: str) -> dict[str, Any]:
    """Return a run's manifest as that of the merged one, which no recipe trains and none continues."""
    kept = {key: value for key, value in run.manifest.items() if key not in ("fingerprint", "state", "weights")}
    own = {"merged": True, "merged_from": run.manifest.get("fingerprint"), "adapters_below": ""}
    return {**kept, **own, **({"weights": weights} if weights else {})}
