"""Adapters of earlier runs under a new one: merged into plain weights, stacked below on quantized ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fingpt_lora.errors import ModelError
from fingpt_lora.runs import RECIPE, open_run
from fingpt_lora.sections import ModelSection

_FILES = ("adapter_config.json", "adapter_model.safetensors")
OWN = "default"  # PEFT's name of the adapter that a run trains
_EARLIER = "earlier_"


def folders(section: ModelSection) -> list[Path]:
    """Return the folders of all adapters below, in order: of a run, first those that it stands on itself.

    Raises:
        ModelError: there is none, or it was trained on another base or by another method.
    """
    found: list[Path] = []
    for path in section.adapters:
        folder = Path(path).expanduser()
        if (folder / RECIPE).is_file():
            run = open_run(folder)
            own = run.recipe.model
            if run.recipe.peft_type != "LORA" or own.head == "classification":
                raise ModelError(f"model.adapters: '{path}' trained no LoRA adapter of a language model.")
            if (own.base, own.revision) != (section.base, section.revision):
                raise ModelError(
                    f"model.adapters: '{path}' was trained on '{own.base}', not on '{section.base}'; its adapter fits "
                    "that base alone."
                )
            found += folders(own)
            folder = run.weights
        if not all((folder / name).is_file() for name in _FILES):
            raise ModelError(
                f"model.adapters: '{path}' is neither a finished run nor a folder with {' and '.join(_FILES)}."
            )
        found.append(folder)
    return found


def identity(section: ModelSection) -> str:
    """Return a digest of the adapters below, weights included; empty of none."""
    digest = hashlib.sha256()
    below = folders(section)
    for folder in below:
        for name in _FILES:
            digest.update((folder / name).read_bytes())
    return digest.hexdigest() if below else ""


def put_under(model: Any, below: Sequence[Path], *, merge: bool) -> Any:
    """Return a base model with earlier adapters, in order: merged into it, or frozen and active beneath the next.

    Raises:
        ModelError: an adapter is missing or does not fit.
    """
    from peft import PeftModel

    for number, folder in enumerate(below):
        name = f"{_EARLIER}{number}"
        try:
            if merge:
                model = PeftModel.from_pretrained(model, folder).merge_and_unload()
            elif isinstance(model, PeftModel):
                model.load_adapter(str(folder), name)
            else:
                model = PeftModel.from_pretrained(model, folder, adapter_name=name)
        except (ValueError, RuntimeError, KeyError, OSError) as error:
            reason = (str(error).strip().splitlines() or ["it fails"])[0]
            raise ModelError(f"model.adapters: '{folder}' does not fit this base model: {reason}") from error
    if below and not merge:
        activate(model)
    model.requires_grad_(False)
    return model.eval()


def several(model: Any) -> bool:
    """Return whether a model carries more than one adapter."""
    return len(getattr(model, "peft_config", ())) > 1


def activate(model: Any, own: str = OWN) -> None:
    """Let a run's own adapter work together with the earlier ones beneath it; it is the only one to be trained.

    What lies beside it, of other runs, does nothing.
    """
    # The Trainer takes the first for the one that it saves and loads.
    model.base_model.set_adapter([*([own] if own in model.peft_config else []), *beneath(model)])
    for name, module in model.named_modules():
        if ".lora_dropout." in name and not name.endswith(f".{own}"):
            module.p = 0.0  # what is below is fixed, also while the next is trained
    for name, parameter in model.named_parameters():
        parameter.requires_grad = f".{own}." in name


def beneath(model: Any) -> list[str]:
    """Return the names of the earlier adapters of a model."""
    return [name for name in model.peft_config if name.startswith(_EARLIER)]
