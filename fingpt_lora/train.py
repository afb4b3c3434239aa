"""Train and evaluate: ``accelerate launch -m fingpt_lora.train recipes/sentiment.yaml [--set key=value ...]``.

Read downwards: plan, base model, adapter, training, evaluation, run folder. A run that was stopped goes on with
the same command; a run that is done shows its result again.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fingpt_lora import capability, checkpoints, earlier, runs
from fingpt_lora.atomic import write_json
from fingpt_lora.console import is_main, note, quiet, run_safely
from fingpt_lora.errors import RecipeError, RunError
from fingpt_lora.plan import Plan, make_plan
from fingpt_lora.recipe import load_recipe
from fingpt_lora.validation import OWN_TRAINING_FIELDS


def run_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Path:
    """Carry out a recipe and return the run folder.

    Raises:
        FingptLoraError: one sentence on what is wrong and what to do.
    """
    recipe = load_recipe(path, overrides)
    note(f"fingpt-lora: {path} -> {recipe.output}")
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:  # several processes would slow each other down, and disagree
        capability.measure()
    plan = make_plan(recipe, world_size=world_size)
    folder = Path(recipe.output)
    state = runs.state_of(folder, plan.identity)
    if state == "done":
        note("This run is done already; nothing is computed again. Its result:")
        _show(folder)
        return folder
    _announce(plan, state)
    with quiet():
        _carry_out(plan, folder)
    if is_main():
        _show(folder)
    return folder


def _announce(plan: Plan, state: runs.State) -> None:
    for item in plan.filled:
        note(f"  {item.key} = {item.value}  ({item.reason})")
    for name, part in plan.tasks.items():
        own = part.splits
        rows = f"{len(own.train)} train, {len(own.validation)} validation, {len(own.test)} test rows"
        note(f"{name}: {rows}" if name else rows)
        for warning in own.audit.warnings:
            note(f"Note: {warning}.")
        if part.shortened:
            note(f"{part.shortened} articles are shortened to training.max_length={part.contract.max_length} tokens.")
    base = f"base {plan.recipe.model.base} ({plan.recipe.model.quantization})"
    note(f"{len(plan.train)} rows an epoch; {plan.steps} steps; {base}")
    if state == "continue":
        checkpoint = runs.last_checkpoint(Path(plan.recipe.output))
        note(
            f"Continuing from {checkpoint}."
            if checkpoint
            else "Starting again: it was stopped before its first checkpoint."
        )


def _carry_out(plan: Plan, folder: Path) -> None:
    from accelerate import PartialState

    from fingpt_lora import compiling
    from fingpt_lora import model as models
    from fingpt_lora.evaluate import evaluate_base, evaluate_run, write_run
    from fingpt_lora.trainer import fit

    args = training_arguments(plan, folder)
    state = PartialState()
    if state.num_processes != plan.world_size:
        raise RunError(
            f"{plan.world_size} processes were asked for but {state.num_processes} work together. On a CPU start with "
            "--config_file launch/ddp_cpu.yaml; some accelerate settings silently run one process."
        )
    _use_all_cores(plan)
    device = str(state.device)
    resume = runs.last_checkpoint(folder)
    if is_main():
        runs.begin(folder, plan.recipe, None if plan.parts else plan.contract, _manifest(plan))
    state.wait_for_everyone()
    seed = int(plan.recipe.training.get("seed", 42))
    head: dict[str, Any] = {"labels": plan.contract.labels, "pad_id": plan.contract.pad_id, "seed": seed}
    base = models.load_base(plan.recipe.model, plan.checkpoint, device=device, **head)
    # Before the adapter: some initialisations (PiSSA) rewrite the base.
    base_results = {name: evaluate_base(part, base) for name, part in plan.tasks.items()}
    adapted = models.attach_adapter(base, plan.recipe)
    trainable, total = models.trainable_parameters(adapted)
    modules = models.adapted_modules(adapted)
    note(f"Training {trainable:,} of {total:,} parameters{f' in {modules} modules' if modules else ''}.")
    training = fit(plan, folder, args, adapted, resume)
    if is_main():
        models.save_trained(adapted, folder, plan.recipe)
    alone = state.num_processes == 1  # sharded weights stay as they are
    used = models.merged_where_exact(adapted, plan.recipe.model) if alone else adapted
    found = {}
    for name, part in plan.tasks.items():
        with compiling.eagerly(used):
            found[name] = evaluate_run(part, used, base_results[name], training)
        if is_main():
            own = folder / runs.TASKS / name if name else folder
            if name:
                runs.begin(own, part.recipe, part.contract, {**_manifest(part), "weights": "../.."})
            mixed = plan.recipe.mixture.tasks if plan.recipe.mixture else {}
            beside = [other for other, part in mixed.items() if part.train and other != name]
            trained = not name or mixed[name].train
            write_run(part, own, found[name], training, beside=beside, trained=trained)
            if name:
                runs.finish(own)
    if is_main():
        if plan.parts:
            write_json(folder / runs.METRICS, {"tasks": found, "train": found[next(iter(found))]["train"]})
        runs.finish(folder)
        shutil.rmtree(folder / runs.CHECKPOINTS, ignore_errors=True)
    state.wait_for_everyone()
    if state.num_processes > 1:
        state.destroy_process_group()


def training_arguments(plan: Plan, folder: Path) -> Any:
    """Build trl.SFTConfig; what it refuses is the recipe's error.

    Raises:
        RecipeError: a value that SFTConfig refuses.
    """
    from trl import SFTConfig

    values = {key: value for key, value in plan.recipe.training.items() if key not in OWN_TRAINING_FIELDS}
    # transformers 5.23 names it anew and warns about the old name, which SFTConfig sets by itself.
    values["activation_checkpointing"] = values.pop("gradient_checkpointing", False)
    values.pop("torch_compile", None)  # the Trainer would compile the model as one, anew for every layer and shape
    values.setdefault("report_to", "none")
    for name in [values["report_to"]] if isinstance(values["report_to"], str) else values["report_to"]:
        if name not in ("none", "all") and importlib.util.find_spec(name) is None:
            raise RecipeError(f"training.report_to: '{name}' is not installed. Bring it with: pip install {name}")
    try:
        return SFTConfig(
            output_dir=str(folder / runs.CHECKPOINTS),
            gradient_checkpointing=values["activation_checkpointing"],
            remove_unused_columns=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            logging_nan_inf_filter=False,
            **values,
        )
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        raise RecipeError(f"training: trl refuses it: {str(error).splitlines()[0]}") from None


def _use_all_cores(plan: Plan) -> None:
    """Undo accelerate's OMP_NUM_THREADS=1, which it sets where nothing was said."""
    import torch

    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(max(1, plan.machine.cores // local))


def _manifest(plan: Plan) -> dict[str, Any]:
    training = plan.recipe.training
    return {
        "fingerprint": plan.identity,
        "data_fingerprint": plan.splits.audit.fingerprint,
        "prompt_contract": plan.contract.hash,
        "adapters_below": earlier.identity(plan.recipe.model),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "seeds": {
            "training": training.get("seed", 42),
            "split": plan.recipe.data.split and plan.recipe.data.split.seed,
        },
        "world_size": plan.world_size,
        "hardware": plan.machine.as_dict(),
        "versions": runs.versions(),
        "licences": {
            "data": plan.splits.audit.licence or "not stated",
            "base_model": checkpoints.licence_of(plan.recipe.model.base, plan.checkpoint) or "not stated",
        },
        "sources": plan.splits.audit.sources,
    }


def _show(folder: Path) -> None:
    """Print the summary table of a finished run and where everything is."""
    import json

    from rich.console import Console

    from fingpt_lora.report import summary_table

    metrics = json.loads((folder / runs.METRICS).read_text(encoding="utf-8"))
    console = Console(soft_wrap=False)
    for name in metrics.get("tasks", ()):
        console.print(f"[bold]{name}[/bold]   {folder / runs.TASKS / name}", soft_wrap=True)
        own = json.loads((folder / runs.TASKS / name / runs.METRICS).read_text(encoding="utf-8"))
        console.print(summary_table(own, own.get("audit"), caption=f"{own['test']['rows']} test rows"))
    if "tasks" in metrics:
        return
    console.print(summary_table(metrics, metrics.get("audit"), caption=f"{metrics['test']['rows']} test rows"))
    weights = runs.weights_folder(runs.open_run(folder).recipe)
    console.print(f"Run folder: {folder}   (report.html, metrics.json, {weights}/)", markup=False, soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``python -m fingpt_lora.train`` under ``accelerate launch`` or alone."""
    import argparse

    parser = argparse.ArgumentParser(prog="fingpt_lora.train", description="Train and evaluate a recipe.")
    parser.add_argument("recipe", help="a recipe, e.g. recipes/sentiment.yaml")
    parser.add_argument("--set", dest="overrides", metavar="KEY=VALUE", action="append", nargs="+", default=[])
    parsed = parser.parse_args(arguments)
    overrides = [override for group in parsed.overrides for override in group]
    run_safely(lambda: run_recipe(parsed.recipe, overrides))


if __name__ == "__main__":
    main()
