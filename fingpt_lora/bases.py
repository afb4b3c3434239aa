"""Runs that share a base: it is loaded once, and their adapters lie in it side by side.

Only LoRA adapters can that leave the weights of the base alone; others (PiSSA's start rewrites them, a trained bias
changes them) have a base of their own.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from fingpt_lora import earlier
from fingpt_lora import model as models
from fingpt_lora.predict import checkpoint_of, section_here
from fingpt_lora.runs import Run
from fingpt_lora.sections import Recipe

# Fields of LoraConfig that say where low-rank products are added and how; what none of them does is touch the base.
_ADDED_ONLY = {
    "peft_type", "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "layers_to_transform",
    "layers_pattern", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "lora_bias", "init_lora_weights",
}  # fmt: skip
_STARTS = (True, False, "gaussian", "orthogonal")  # of init_lora_weights: random, or nothing
_UNSET: tuple[Any, ...] = (None, False, "none", [], {})


@dataclass(frozen=True)
class Loaded:
    """A run's weights; ``adapter`` is their name beside others of one base, None where they have the model alone."""

    model: Any
    adapter: str | None

    def use(self) -> None:
        """Let this run's adapter do its work, and no other's."""
        if self.adapter is not None:
            active = [*earlier.beneath(self.model), self.adapter]
            self.model.base_model.set_adapter(active, inference_mode=True)


class Bases:
    """Base models, each loaded when it is first needed, and the adapters in them."""

    def __init__(self) -> None:
        """Begin with none."""
        self._bases: dict[str, Any] = {}  # what one is loaded from -> it, with the adapters put in so far
        self._loaded: dict[Path, Loaded] = {}

    def load(self, run: Run) -> Loaded:
        """Load what a run has trained, on a base that is there already where it is the same.

        Raises:
            ModelError: base or adapter are missing, or do not fit each other.
        """
        weights = run.weights.resolve()  # tasks of a mixture have theirs together
        if weights not in self._loaded:
            self._loaded[weights] = self._load(run)
        return self._loaded[weights]

    def _load(self, run: Run) -> Loaded:
        if not leaves_base_alone(run.recipe):
            section, device = section_here(run)
            trained = models.load_trained(run.weights, run.recipe, section, run.contract, device=device, merge=False)
            return Loaded(trained, None)
        key, base = self._base(run)
        name = f"run_{len(self._loaded)}"
        self._bases[key] = models.load_adapter(base, run.weights, run.recipe, name)
        return Loaded(self._bases[key], name)

    def _base(self, run: Run) -> tuple[str, Any]:
        section, device = section_here(run)
        checkpoint = checkpoint_of(run)
        # What is asked, and by what name the base was found, is not what it is.
        asked = {"base", "revision", "prompt", "system", "knowledge_cutoff"}
        key = json.dumps([str(checkpoint.resolve()), section.model_dump(exclude=asked)], sort_keys=True)
        if key not in self._bases:
            self._bases[key] = models.load_base(section, checkpoint, device=device)
        return key, self._bases[key]

    @contextlib.contextmanager
    def untouched(self, run: Run) -> Iterator[torch.nn.Module]:
        """Give the base that a run was trained on, earlier adapters beneath it included, while the block runs.

        It is the one that is loaded, its adapters switched off, or, beside a run that has changed its own, another.
        """
        _, base = self._base(run)
        if not isinstance(base, PeftModel):
            yield base
        elif beneath := earlier.beneath(base):
            active = list(base.base_model.active_adapters)
            base.base_model.set_adapter(beneath, inference_mode=True)
            try:
                yield base
            finally:
                base.base_model.set_adapter(active, inference_mode=True)
        else:
            with base.disable_adapter():
                yield base


def leaves_base_alone(recipe: Recipe) -> bool:
    """Return whether all that a run has trained are low-rank products beside the weights of its base."""
    written = {key: value for key, value in recipe.adapter.items() if value not in _UNSET}
    plain = recipe.peft_type == "LORA" and recipe.model.head != "classification"
    return plain and written.keys() <= _ADDED_ONLY and written.get("init_lora_weights", True) in _STARTS


def rewrites_base(recipe: Recipe) -> bool:
    """Return whether the weights of the base may be others once a run's adapter is put on it, as PiSSA's start does."""
    return recipe.peft_type != "LORA" or recipe.adapter.get("init_lora_weights", True) not in _STARTS
