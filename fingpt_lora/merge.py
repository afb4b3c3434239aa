"""Merge adapters into their base, and prove on held-out rows that the result answers as the trained model does.

A quantized run was trained on weights that the 16-bit base does not have: what it saw is their 4-bit rounding. So both
are tried, the plain 16-bit base and the dequantized one, and the one is kept whose answers are nearer. Into 4 or 8 bits
nothing is ever merged: what an adapter adds is smaller than their steps.
"""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from fingpt_lora import capability, earlier, merged_folder
from fingpt_lora import model as models
from fingpt_lora.atomic import new_folder
from fingpt_lora.bases import Bases, rewrites_base
from fingpt_lora.checkpoints import read_config
from fingpt_lora.combination import METHODS, Combination, check, opened
from fingpt_lora.console import note, quiet
from fingpt_lora.data import Row
from fingpt_lora.errors import MergeError, RunError, did_you_mean
from fingpt_lora.merge_weights import Adapters, Instead, Weights, in_shards, weights_in, write_in_memory, write_shards
from fingpt_lora.predict import Predictor, checkpoint_of, encoder_of
from fingpt_lora.prompts import PromptEncoder
from fingpt_lora.proof import ROWS, Answered, Trained, answers, asked_twice, probe_rows
from fingpt_lora.report import merge_table
from fingpt_lora.report.card import WEIGHTS
from fingpt_lora.runs import Run

Dtype = Literal["bfloat16", "float16", "float32"]

# A model that answers nearly every row alike keeps its answers whatever is lost of it, but not its probabilities.
_MOVED = 0.1


@dataclass(frozen=True)
class _Member:
    """One task of the merged model, and what the trained model says of its probe rows."""

    run: Run
    encoder: PromptEncoder
    rows: Sequence[Row]
    trained: Trained


def merge(
    folders: Sequence[str | Path],
    output: str | Path,
    *,
    combination: Combination | None = None,
    data: str | None = None,
    rows: int = ROWS,
    agreement: float | None = None,
    dtype: Dtype | None = None,
) -> dict[str, Any]:
    """Merge a run, a mixture or several runs of one base, and return what is in ``merge_report.json``.

    Args:
        folders: of the runs.
        output: the merged folder, which must not exist: a transformers checkpoint and a run at once. Of several tasks,
            ``tasks/NAME`` are the runs.
        combination: of several runs; needed there, and only there.
        data: labelled file to prove it on instead of the test rows, of a single task.
        rows: at most, of each task.
        agreement: share of the answers that must be kept; by default each recipe's ``evaluation.merge_agreement``.
        dtype: of the result; by default the base checkpoint's where that has 16 bits, else bfloat16.

    Raises:
        MergeError: the merged model answers otherwise; nothing of it is kept.
        FingptLoraError: a run, its base or the held-out rows are missing, or do not fit each other.
    """
    began, output = time.perf_counter(), Path(output)
    runs = opened(folders)
    check(folders, runs, output, combination, data)
    first = next(iter(runs.values()))
    adapters = list(dict.fromkeys(run.weights for run in runs.values()))
    kind: Dtype = dtype or _sixteen_bits(first)
    bases = Bases()
    members = {name: _member(name, run, bases, data, rows) for name, run in runs.items()}
    needed = {
        name: one.run.recipe.evaluation.merge_agreement if agreement is None else agreement
        for name, one in members.items()
    }
    with quiet():
        sources = _sources(first, bases)
        with new_folder(output) as building:
            seconds: dict[str, float] = {}
            for name, instead in sources.items():
                note(f"Merging into the {WEIGHTS[name]}.")
                started = time.perf_counter()
                _write(first, adapters, combination, instead, building / name, kind, changed=name == "own")
                seconds[name] = time.perf_counter() - started
            sources.clear()
            del bases  # the quantized base makes room for the merged model
            gc.collect()
            found = {}
            for name in seconds:
                found[name] = _proof(first, building / name, kind, members, WEIGHTS[name])
                found[name]["merge_seconds"] = seconds[name]
            kept = _closest(found, needed)
            _check_kept(found[kept], needed, adapters)
            for name in seconds:
                if name != kept:
                    shutil.rmtree(building / name)
            for path in (building / kept).iterdir():
                path.rename(building / path.name)
            (building / kept).rmdir()
            report = {
                "runs": [Path(folder).resolve().name for folder in folders],
                "base": first.recipe.model.base,
                "quantization": first.recipe.model.quantization,
                "dtype": kind,
                "combination": None if combination is None else asdict(combination),
                "kept": kept,
                "agreement_needed": needed,
                "trained": {
                    name: {
                        **_figures(one.trained.first),
                        "agreement_with_itself": one.trained.agreement(one.trained.second.said)[0],
                        "noise": one.trained.noise,
                    }
                    for name, one in members.items()
                },
                "rows": {name: len(one.rows) for name, one in members.items()},
                "rows_from": "the test rows" if data is None else Path(data).name,
                "candidates": found,
                "bytes": sum(path.stat().st_size for path in building.glob("*.safetensors")),
                "seconds": time.perf_counter() - began,
                "peak_memory_gib": capability.peak_memory_gib(),
                "hardware": capability.detect().as_dict(),
            }
            merged_folder.complete(building, output, {name: one.run for name, one in members.items()}, report)
    return report


def merge_here(
    folders: Sequence[Path],
    output: Path | None,
    weights: Sequence[float],
    method: str | None,
    density: float | None,
    **settings: Any,
) -> None:
    """Merge as the command line asks, and show what came of it.

    Raises:
        FingptLoraError: as :func:`merge`.
    """
    if method is not None and method not in METHODS:
        raise RunError(f"--method: there is no '{method}'.{did_you_mean(method, METHODS)}")
    if output is None:
        if len(folders) > 1:
            raise RunError("Of several runs, name the folder of the result: --output DIR.")
        output = folders[0].resolve()
        output = output.with_name(f"{output.name}-merged")
    asked = bool(weights) or method is not None or density is not None or len(folders) > 1
    combination = Combination(tuple(weights), method or "cat", density) if asked else None
    report = merge(folders, output, combination=combination, **settings)
    from rich.console import Console

    console = Console(soft_wrap=False)
    console.print(merge_table(report))
    console.print(f"Merged: {output}   (model.safetensors, {merged_folder.REPORT})", markup=False, soft_wrap=True)


def _sixteen_bits(run: Run) -> Dtype:
    config = read_config(checkpoint_of(run))
    return "float16" if (config.get("dtype") or config.get("torch_dtype")) == "float16" else "bfloat16"


def _member(name: str, run: Run, bases: Bases, data: str | None, rows: int) -> _Member:
    encoder = encoder_of(run)
    chosen = probe_rows(run, encoder, data, rows)
    note(f"{name}: {len(chosen)} held-out rows, first as trained.")
    with quiet():
        loaded = bases.load(run)
        loaded.use()
        trained = asked_twice(Predictor.around(run, encoder, loaded.model), chosen, f"{name} as trained")
    return _Member(run, encoder, chosen, trained)


def _sources(run: Run, bases: Bases) -> dict[str, Instead]:
    """Return by name what each candidate takes in place of the checkpoint's weights."""
    model = bases.load(run).model
    if rewrites_base(run.recipe):
        return {"own": weights_in(model, all_of_them=True)}
    plain: dict[str, Instead] = {"plain": {}}
    if run.recipe.model.quantization == "none":
        return plain
    return {**plain, "dequantized": weights_in(model, all_of_them=False)}


def _write(
    run: Run,
    own: Sequence[Path],
    combination: Combination | None,
    instead: Instead,
    folder: Path,
    dtype: Dtype,
    *,
    changed: bool,
) -> None:
    """Write the merged weights and ``config.json``."""
    folder.mkdir()
    section, checkpoint = run.recipe.model, checkpoint_of(run)
    # What an adapter has changed of an unquantized base holds the earlier ones already.
    below = [] if changed and section.quantization == "none" else earlier.folders(section)
    if section.head == "language_model" and all(map(in_shards, [*below, *own])):
        adapters = Adapters(checkpoint, [*below, *own])
        weights = Weights(checkpoint, instead)
        if adapters.fit(weights):
            if combination is not None:
                adapters.combine(combination.weights, combination.method, combination.density)
            write_shards(weights, adapters, folder, getattr(torch, dtype))
            merged_folder.write_config(checkpoint, folder, dtype)
            return
    if combination is not None:
        raise RunError(
            "The base model's checkpoint names its tensors otherwise than its modules; several adapters cannot be put "
            "together there. Merge one."
        )
    write_in_memory(run, instead, folder, getattr(torch, dtype), changed=changed)


def _proof(run: Run, folder: Path, dtype: Dtype, members: Mapping[str, _Member], what: str) -> dict[str, Any]:
    """Load a candidate and ask it what the trained model was asked."""
    merged = merged_folder.recipe_of(run.recipe, dtype)
    machine = capability.detect()
    section = capability.for_inference(merged, machine).model
    head: dict[str, Any] = {"labels": run.contract.labels, "pad_id": run.contract.pad_id}
    model = models.load_base(section, folder, device=machine.device, **head)
    tasks = {}
    for name, one in members.items():
        said = answers(Predictor.around(one.run, one.encoder, model), one.rows, f"{name}, {what}")
        near = one.trained.compare(said)
        tasks[name] = {**asdict(near), "kept": near.kept, **_figures(said)}
    del model
    gc.collect()
    return {"tasks": tasks}


def _figures(said: Answered) -> dict[str, Any]:
    return {
        "accuracy": None if said.right is None else float(np.mean(said.right)),
        "seconds": said.seconds,
    }


def _closest(found: Mapping[str, Any], needed: Mapping[str, float]) -> str:
    """Return the candidate whose probabilities are nearest, among those that keep the answers where any does."""

    def far(name: str) -> tuple[bool, float]:
        tasks = found[name]["tasks"]
        fails = any(own["kept"] < needed[task] or own["moved"] > _movable(needed[task]) for task, own in tasks.items())
        return fails, float(np.mean([own["mean_drift"] for own in tasks.values()]))

    return min(found, key=far)


def _check_kept(kept: Mapping[str, Any], needed: Mapping[str, float], adapters: Sequence[Path]) -> None:
    why = "The adapters disturb each other" if len(adapters) > 1 else "The merge has lost what was trained"
    for name, own in kept["tasks"].items():
        if not own["kept"] >= needed[name]:
            found = f"keeps {own['kept']:.1%} of the answers, and {needed[name]:.1%} are asked for"
        elif not own["moved"] <= _movable(needed[name]):
            found = (
                f"keeps the answers, but {own['moved']:.1%} of their probability went to others, and "
                f"{_movable(needed[name]):.1%} may"
            )
        else:
            continue
        raise MergeError(
            f"{why}: of '{name}', the merged model {found} (evaluation.merge_agreement, or --agreement). Nothing was "
            "kept; use the run as it is."
        )


def _movable(needed: float) -> float:
    """Return the share of the probability that may move: no less than the share of the answers that may be lost."""
    return max(_MOVED, 1 - needed)
