"""Adapters of earlier runs under a new one: merged into plain weights, stacked below on quantized ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fingpt_lora.errors import ModelError
from fingpt_lora.runs import RECIPE

_FILES = ("adapter_config.json", "adapter_model.safetensors")
OWN = "default"  # PEFT's name of the adapter that a run trains


def adapter_folder(path: str) -> Path:
    """Return the folder of the adapter that a recipe names: a run, or what PEFT has saved.

    Raises:
        ModelError: there is none.
    """
    folder = Path(path).expanduser()
    inner = folder / "adapter" if (folder / RECIPE).is_file() else folder
    if not all((inner / name).is_file() for name in _FILES):
        raise ModelError(
            f"model.adapters: '{path}' is neither a finished run nor a folder with {' and '.join(_FILES)}."
        )
    return inner


def identity(paths: Sequence[str]) -> str:
    """Return a digest of adapters, weights included; empty of none."""
    if not paths:
        return ""
    digest = hashlib.sha256()
    for path in paths:
        for name in _FILES:
            digest.update((adapter_folder(path) / name).read_bytes())
    return digest.hexdigest()


def put_under(model: Any, paths: Sequence[str], *, merge: bool) -> Any:
    """Return a base model with earlier adapters, in order: merged into it, or frozen and active beneath the next.

    Raises:
        ModelError: an adapter is missing or does not fit.
    """
    from peft import PeftModel

    for number, path in enumerate(paths):
        folder, name = adapter_folder(path), f"earlier_{number}"
        try:
            if merge:
                model = PeftModel.from_pretrained(model, folder).merge_and_unload()
            elif isinstance(model, PeftModel):
                model.load_adapter(str(folder), name)
            else:
                model = PeftModel.from_pretrained(model, folder, adapter_name=name)
        except (ValueError, RuntimeError, KeyError, OSError) as error:
            reason = (str(error).strip().splitlines() or ["it fails"])[0]
            raise ModelError(f"model.adapters: '{path}' does not fit this base model: {reason}") from error
    if paths and not merge:
        activate(model)
    model.requires_grad_(False)
    return model.eval()


def several(model: Any) -> bool:
    """Return whether a model carries more than one adapter."""
    return len(getattr(model, "peft_config", ())) > 1


def activate(model: Any) -> None:
    """Let all adapters of a model work together; only the run's own is trained."""
    names = list(model.peft_config)
    # The Trainer takes the first for the one that it saves and loads.
    model.base_model.set_adapter(sorted(names, key=lambda name: name != OWN))
    for name, parameter in model.named_parameters():
        parameter.requires_grad = f".{OWN}." in name
