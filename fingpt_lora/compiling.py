"""Compiles the decoder layers of a model in training, where the run is long enough to earn the compilation back.

One layer is compiled and serves all: they run the same code on other weights. Compiling takes a minute or two on a
CPU, less from the on-disk cache; it saves the passes over memory of norms, rotary embedding, activation and sums.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import statistics
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.modeling_layers import GradientCheckpointingLayer

from fingpt_lora.callbacks import StepTimer
from fingpt_lora.checkpoints import cache_folder
from fingpt_lora.console import note

_LOOK = 5  # steps that are timed before the decision, and again after it
_COST = 100.0  # seconds of a compilation without cache (measured: 93 s on two cores; 35 s from the cache)
# Share of a step that it saves. Matrix products are not among it, and where bfloat16 units make them quick, the rest
# weighs more (measured: 0.11 and 0.28 on two cores without and with AVX512-BF16).
_GAIN, _GAIN_BF16 = 0.1, 0.25


def decoder_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the layers of a transformers model that repeat."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def eagerly(model: torch.nn.Module) -> contextlib.AbstractContextManager[Any]:
    """Run a model without its compiled layers for a while: scoring calls them otherwise, and once."""
    if all(layer._compiled_call_impl is None for layer in decoder_layers(model)):
        return contextlib.nullcontext()
    stance: contextlib.AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


class CompileWhenItPays(TrainerCallback):  # type: ignore[misc]
    """Decides after a few steps by their time and the number of steps to come, and takes back what did not help."""

    def __init__(self, model: torch.nn.Module, timer: StepTimer, wanted: bool, bf16: bool) -> None:
        """Args: model in training, its timer, whether to compile in any case, whether there are bfloat16 units."""
        self.layers = decoder_layers(model)
        self.timer, self.wanted = timer, wanted
        self.gain = _GAIN_BF16 if bf16 else _GAIN
        self._compiled_at: int | None = None
        self._before = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Time the first steps, decide, time again."""
        done = len(self.timer.seconds)
        if self._compiled_at is None and done == _LOOK:
            self._before = self.timer.seconds_per_token(1)
            left = statistics.median(self.timer.seconds[1:]) * (state.max_steps - state.global_step)
            if self.wanted or (_can_compile() and left * self.gain > 1.5 * _COST):
                self._compile()
                self._compiled_at = done
                note(
                    f"training.torch_compile = True  (about {left / 60:.0f} minutes of training are left; compiling "
                    "takes one or two, within the next step)"
                )
        elif self._compiled_at is not None and done == self._compiled_at + _LOOK and not self.wanted:
            after = self.timer.seconds_per_token(self._compiled_at + 1)
            if after > self._before:
                for layer in self.layers:
                    layer._compiled_call_impl = None
                note(f"training.torch_compile = False  (it is slower here: {after / self._before:.2f} times as long)")

    def _compile(self) -> None:
        # The default is below /tmp, which a restart of the machine empties.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))
        # A compiler that fails must not end the run, nor fill the screen: the steps after it tell what it was worth.
        torch._dynamo.config.suppress_errors = True
        torch._logging.set_logs(all=logging.CRITICAL)  # type: ignore[attr-defined]
        for layer in self.layers:
            layer.compile(dynamic=True)


def _can_compile() -> bool:
    compiler = os.environ.get("CXX") or "g++"
    return any(shutil.which(name) for name in (compiler, "clang++", "cl"))
