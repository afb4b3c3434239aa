"""The run folder: what a run leaves behind, how it is recognised, and when it may be continued.

::

    runs/<name>/
        adapter/ or model/     the trained adapter, or the whole model where all weights were (safetensors)
        checkpoints/           what a stopped run continues from; removed when it is done
        prompt_contract.json   the words in which it was trained
        thresholds.json        probability from which a label counts, where several may
        recipe.yaml            the resolved recipe
        manifest.json          fingerprint, seeds, versions, hardware, licences, state
        metrics.json  report.html  README.md  plots/
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from fingpt_lora.atomic import write_json, write_text
from fingpt_lora.contract import CONTRACT_FILE, PromptContract
from fingpt_lora.errors import RecipeError, RunError
from fingpt_lora.recipe import dump_recipe, parse_recipe
from fingpt_lora.sections import Recipe

MANIFEST, RECIPE, METRICS, CHECKPOINTS = "manifest.json", "recipe.yaml", "metrics.json", "checkpoints"
TASKS = "tasks"  # folder of a mixture's run that holds one run folder per task
THRESHOLDS = "thresholds.json"  # label -> probability from which it counts as given, where several may
_PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "bitsandbytes",
    "datasets",
    "accelerate",
    "tokenizers",
    "numpy",
)

# Settings that say how a run is carried out or shown, not what it computes: they may change when it goes on.
_FREE = {
    "training": {
        "report_to", "run_name", "logging_steps", "logging_strategy", "disable_tqdm", "save_total_limit", "save_steps",
        "dataloader_num_workers", "dataloader_pin_memory",
    },
    "evaluation": {"merge_agreement"},
}  # fmt: skip

# Keys that came later: at their defaults, a run of before is still the same run.
_LATER: Mapping[str, Mapping[str, Any]] = {
    "model": {"head": "language_model", "knowledge_cutoff": None},
    "evaluation": {"max_new_tokens": None},
    "task": {"rationale": False, "triggers": True},
}

State = Literal["new", "continue", "done"]


@dataclass(frozen=True)
class Run:
    """A finished run, opened for use."""

    folder: Path
    recipe: Recipe
    contract: PromptContract
    manifest: Mapping[str, Any]

    @property
    def merged(self) -> bool:
        """Whether adapter and base were made one model, a checkpoint that is whole by itself."""
        return bool(self.manifest.get("merged"))

    @property
    def weights(self) -> Path:
        """The folder that holds what was trained: of a task of a mixture, that of the mixture."""
        inside = self.folder / str(self.manifest.get("weights", ""))
        return inside if self.merged else inside / weights_folder(self.recipe)


def weights_folder(recipe: Recipe) -> str:
    """Return the name of the folder that holds what was trained."""
    return "model" if recipe.peft_type == "NONE" else "adapter"


def fingerprint(recipe: Recipe, data_fingerprint: str, contract: PromptContract, base: str) -> str:
    """Hash all that decides what a run computes: recipe, rows, prompt contract, base weights."""
    content = recipe.as_dict()
    # Chosen by the memory there is, for the same result; written out, so that runs of before keep their identity.
    content["training"].setdefault("gradient_checkpointing", False)
    for section, keys in _FREE.items():
        content[section] = {key: value for key, value in content[section].items() if key not in keys}
    content.pop("output")
    content.pop("data")  # what it leads to are the rows; a file may have moved
    content["model"].pop("adapters")  # likewise: their weights are part of the base
    for section, defaults in _LATER.items():
        content[section] = {k: v for k, v in content[section].items() if k not in defaults or v != defaults[k]}
    parts = [content, data_fingerprint, contract.hash, base]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    found = {"python": platform.python_version(), "fingpt-lora": version("fingpt-lora")}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def state_of(folder: Path, identity: str) -> State:
    """Say whether a run folder is new, holds a run of the same identity to continue, or one that is done.

    Raises:
        RunError: the folder belongs to another recipe or other rows, or holds something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return "new"
    manifest = _read_manifest(folder)
    if manifest.get("fingerprint") != identity:
        raise RunError(
            f"'{folder}' holds a run of another recipe, other rows or another base model; it is not overwritten. "
            f"Choose another folder (--set output=...) or remove this one."
        )
    return "done" if manifest.get("state") == "done" else "continue"


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint of an unfinished run, or None."""
    found = [
        (int(match.group(1)), path)
        for path in (folder / CHECKPOINTS).glob("checkpoint-*")
        # The trainer writes its state last; a checkpoint without it was cut off.
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name)) and (path / "trainer_state.json").is_file()
    ]
    return max(found)[1] if found else None


def begin(folder: Path, recipe: Recipe, contract: PromptContract | None, manifest: Mapping[str, Any]) -> None:
    """Write what identifies a run, before its first step. The contracts of a mixture lie in its tasks' folders."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / RECIPE, dump_recipe(recipe))
        if contract is not None:
            write_json(folder / CONTRACT_FILE, contract.to_json())
        write_json(folder / MANIFEST, {**manifest, "state": "training"})
    except OSError as error:
        raise RunError(f"output: the run folder '{folder}' cannot be written: {error.strerror or error}.") from None


def finish(folder: Path) -> None:
    """Mark a run as done."""
    write_json(folder / MANIFEST, {**_read_manifest(folder), "state": "done"})


def open_run(folder: str | Path) -> Run:
    """Open a finished run.

    Raises:
        RunError: the folder is missing, unfinished or damaged.
        PromptError: its prompt contract was changed.
    """
    recipe, manifest = _opened(folder := Path(folder))
    if recipe.mixture is not None:
        names = ", ".join(f"'{folder / TASKS / name}'" for name in recipe.mixture.tasks)
        raise RunError(f"'{folder}' has learned several tasks; name one of them: {names}.")
    return Run(folder, recipe, PromptContract.load(folder), manifest)


def open_runs(folder: str | Path) -> dict[str, Run]:
    """Open a finished run by its folder's name, or every task of a mixture by the task's.

    Raises:
        RunError: as :func:`open_run`.
        PromptError: likewise.
    """
    recipe, manifest = _opened(folder := Path(folder))
    if recipe.mixture is None:
        return {folder.resolve().name: Run(folder, recipe, PromptContract.load(folder), manifest)}
    return {name: open_run(folder / TASKS / name) for name in recipe.mixture.tasks}


def _opened(folder: Path) -> tuple[Recipe, dict[str, Any]]:
    if not folder.is_dir():
        raise RunError(f"There is no run folder '{folder}'. Train one: fingpt-lora train recipes/sentiment.yaml")
    manifest = _read_manifest(folder)
    if manifest.get("state") != "done":
        raise RunError(f"The run in '{folder}' is not finished. Run its training command again; it continues.")
    try:
        recipe = parse_recipe((folder / RECIPE).read_text(encoding="utf-8"), name=str(folder / RECIPE))
    except OSError:
        raise RunError(f"'{folder}' lacks {RECIPE}. Train the run again.") from None
    except RecipeError as error:
        raise RunError(f"The saved recipe does not fit the installed versions: {error}") from None
    return recipe, manifest


def _read_manifest(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise RunError(f"'{folder}' is a file; a run needs a folder.")
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(
            f"'{folder}' is not a run folder (it has no {MANIFEST}). Choose an empty or new folder."
        ) from None
    except (OSError, ValueError) as error:
        raise RunError(f"'{folder / MANIFEST}' cannot be read: {error}. Remove the folder and train again.") from None
    if not isinstance(manifest, dict):
        raise RunError(f"'{folder / MANIFEST}' is not a manifest. Remove the folder and train again.")
    return manifest
