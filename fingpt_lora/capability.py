"""What the machine can do, and the settings that follow from it where the recipe leaves them open.

TRL's own defaults assume a recent GPU: on a laptop they raise, or recompute activations that fit. Each value
filled in here carries its reason, which a run prints once.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fingpt_lora import measured
from fingpt_lora.measured import Measured
from fingpt_lora.memory import activation_bytes, longest_batch, weight_bytes
from fingpt_lora.sections import Recipe

_GIB = 1024**3
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # x86, x86, Arm; believed until the products are measured
_FULL = 0.6  # of the memory: the rest is for gradients, logits, the optimizer and other programs
_WORTH = 1.3  # below this advantage the rounding is not worth it


@dataclass(frozen=True)
class Machine:
    """Hardware that matters for the settings."""

    device: str  # cuda, mps or cpu
    name: str
    cores: int
    memory: int  # bytes of main memory
    bf16: bool  # whether bfloat16 matrix products run in hardware
    gpus: int = 0
    gpu_memory: int = 0  # bytes of one GPU
    measured: Measured | None = None  # of a processor, where it was measured before

    def as_dict(self) -> dict[str, Any]:
        """Return the machine for the manifest."""
        return {
            "device": self.device,
            "name": self.name,
            "cores": self.cores,
            "memory_gib": round(self.memory / _GIB, 1),
            "bf16": self.bf16,
            "gpus": self.gpus,
            "measured": self.measured and {key: round(value, 1) for key, value in asdict(self.measured).items()},
        }

    def attention(self, *, training: bool) -> str:
        """Return the attention implementation of transformers that is the quickest here.

        Args:
            training: for padded rows with a backward pass (a shared prefix has its own); else for scoring.
        """
        if self.measured:
            return self.measured.attention(training=training)
        return "eager" if self.device == "cpu" else "sdpa"


@dataclass(frozen=True)
class Filled:
    """One setting that the recipe left open."""

    key: str
    value: Any
    reason: str


@cache
def detect() -> Machine:
    """Look at this machine. Torch is imported only where a GPU may be there to ask about."""
    import psutil

    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = min(cores, len(os.sched_getaffinity(0)))
    memory = int(psutil.virtual_memory().total)
    apple = platform.system() == "Darwin" and platform.machine() == "arm64"
    if apple or Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists():
        import torch

        if torch.cuda.is_available():
            name, bf16 = (
                torch.cuda.get_device_name(0),
                torch.cuda.is_bf16_supported(including_emulation=False),
            )
            of_gpu = int(torch.cuda.get_device_properties(0).total_memory)
            return Machine("cuda", name, cores, memory, bf16, torch.cuda.device_count(), of_gpu)
        if apple and torch.backends.mps.is_available():
            return Machine("mps", "Apple GPU", cores, memory, False)
    name, flags = _cpu()
    known = measured.recall(name, cores)
    # Without units for it a bfloat16 product is emulated, element by element: far slower than float32.
    bf16 = known.bfloat16 > _WORTH * known.float32 if known else bool(_BF16_FLAGS & flags)
    return Machine("cpu", name, cores, memory, bf16, measured=known)


def measure() -> None:
    """Measure the processor where the work will run on it and that was not done before (a second or two, and torch)."""
    machine = detect()
    if machine.device == "cpu" and machine.measured is None:
        measured.measure(machine.name, machine.cores)
        detect.cache_clear()


def peak_memory_gib(*, children: bool = False) -> float | None:
    """Return this process's largest use so far of the memory that models live in; None where the system cannot say.

    Args:
        children: ask for the largest process that this one has started and seen end, in main memory.
    """
    machine = detect()
    if machine.device == "cuda" and not children:
        import torch

        return float(torch.cuda.max_memory_allocated()) / _GIB
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF).ru_maxrss
    return peak / (_GIB if platform.system() == "Darwin" else 1024**2)  # bytes there, kilobytes on Linux


def _cpu() -> tuple[str, set[str]]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine(), set()
    entries: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        entries.setdefault(key.strip(), value.strip())
    return entries.get("model name", platform.machine()), set(entries.get("flags", entries.get("Features", "")).split())


def fill_in(recipe: Recipe, machine: Machine, *, train_rows: int, world_size: int = 1) -> list[Filled]:
    """Return the settings that the recipe leaves open, each with its reason.

    Args:
        recipe: what the user wrote.
        machine: what it runs on.
        train_rows: rows per epoch.
        world_size: training processes.
    """
    written = {f"training.{key}" for key in recipe.training} | {f"adapter.{key}" for key in recipe.adapter}
    if recipe.model.dtype != "auto":
        written.add("model.dtype")
    if recipe.model.attn_implementation != "auto":
        written.add("model.attn_implementation")
    filled: list[Filled] = []

    def fill(key: str, value: Any, reason: str) -> None:
        if key not in written:
            filled.append(Filled(key, value, reason))

    cpu = machine.device == "cpu"
    if machine.measured:
        ratio = machine.measured.bfloat16 / machine.measured.float32
        reason = f"{machine.name} multiplies bfloat16 at {ratio:.2g} times the speed of float32, measured here"
    elif machine.bf16:
        reason = f"{machine.name} multiplies bfloat16 in hardware"
    else:
        reason = f"{machine.name} has no bfloat16 units; emulating them is far slower"
    fill("model.dtype", "bfloat16" if machine.bf16 else "float32", reason)
    if machine.measured:
        reason = (
            f"for scoring: sdpa takes {machine.measured.sdpa_scoring:.2g} ms, eager "
            f"{machine.measured.eager_scoring:.2g} ms, measured here"
        )
    else:
        reason = "plain products on a CPU" if cpu else "fused attention on the GPU"
    fill("model.attn_implementation", machine.attention(training=False), reason)
    fill("training.use_cpu", cpu, "no GPU was found" if cpu else f"{machine.name} was found")
    if recipe.model.dtype == "float32":
        fill("training.bf16", False, "the model is asked for in float32")
    elif "training.fp16" not in written:
        fill("training.bf16", machine.bf16, "mixed precision only where the hardware has bfloat16")
    fill(
        "training.dataloader_pin_memory",
        machine.device == "cuda",
        "pinned memory only speeds copies to a CUDA GPU",
    )
    fill("training.dataloader_num_workers", 0, "rows are token ids in memory already")
    fill("training.per_device_train_batch_size", 16, "small batches suit LoRA")
    if recipe.peft_type == "NONE":
        fill("training.learning_rate", 2e-5, "all weights are trained")
    else:
        fill("training.learning_rate", 2e-4, "LoRA takes about ten times the rate of full fine-tuning")
    if recipe.peft_type == "LORA":
        fill("adapter.target_modules", "all-linear", "adapters on attention alone learn less at equal size")
    batch = recipe.training.get("per_device_train_batch_size", 16)
    batch *= recipe.training.get("gradient_accumulation_steps", 1) * world_size
    steps = max(1, -(-train_rows // batch))
    if recipe.training.get("eval_strategy", "no") == "no":
        fill("training.save_strategy", "steps", "a stopped run continues from its last checkpoint")
        every = min(500, max(10, steps // 2))
        how_often = "about twice an epoch of" if every == steps // 2 else "an epoch has"
        fill("training.save_steps", every, f"{how_often} {steps} steps")
    else:
        strategy = recipe.training["eval_strategy"]
        fill("training.save_strategy", strategy, "checkpoints where the validation rows are scored")
        if "eval_steps" in recipe.training:
            fill(
                "training.save_steps",
                recipe.training["eval_steps"],
                "checkpoints where the validation rows are scored",
            )
    fill("training.save_total_limit", 2, "each checkpoint holds the adapter and its optimizer state")
    if "early_stopping_patience" in recipe.training:
        fill("training.load_best_model_at_end", True, "early stopping keeps the best checkpoint")
    if recipe.training.get("load_best_model_at_end") or "early_stopping_patience" in recipe.training:
        watched = "perplexity" if recipe.task.name == "text" else "macro_f1"
        fill("training.metric_for_best_model", watched, "the task's metric, on the validation rows")
        fill("training.greater_is_better", watched == "macro_f1", f"{watched} is what the report leads with")
    fill("training.logging_steps", max(1, min(10, steps // 10)), f"an epoch has {steps} steps")
    return filled


def checkpointing(
    recipe: Recipe,
    machine: Machine,
    lengths: Sequence[int],
    *,
    config: Mapping[str, Any],
    base_bytes: int,
    padded: bool,
    world_size: int = 1,
) -> Filled:
    """Return whether the activations of a batch are kept for the backward pass, or computed again to save memory.

    Args:
        recipe: with all that :func:`fill_in` filled in.
        machine: what it runs on.
        lengths: tokens of each training row.
        config: the base model's ``config.json``.
        base_bytes: size of the base checkpoint's weights.
        padded: whether a batch is filled up to its longest row.
        world_size: training processes, which share the memory of a CPU.
    """
    key, rows = "training.gradient_checkpointing", recipe.training["per_device_train_batch_size"]
    tokens = longest_batch(lengths, rows, padded=padded)
    kept = activation_bytes(config, tokens, number_bytes=4 if recipe.model.dtype == "float32" else 2)
    if kept is None:
        big = base_bytes > 2 * _GIB
        fits = "may not fit" if big else "fit"
        return Filled(key, big, f"the base has {base_bytes / _GIB:.1f} GiB of weights; its activations {fits}")
    weights = weight_bytes(base_bytes, recipe.model.quantization, full=recipe.peft_type == "NONE")
    room = machine.gpu_memory or machine.memory // world_size
    reason = (
        f"weights of about {weights / _GIB:.1f} GiB and activations of {kept / _GIB:.1f} GiB, of the {tokens:,} tokens "
        f"of the longest {rows} rows, {{}} {room / _GIB:.0f} GiB"
    )
    full = weights + kept > _FULL * room
    return Filled(key, full, reason.format("may not fit into" if full else "fit into"))


def resolve(recipe: Recipe, filled: list[Filled]) -> Recipe:
    """Return the recipe with the filled-in values written into it."""
    sections: dict[str, dict[str, Any]] = {
        "model": {},
        "adapter": dict(recipe.adapter),
        "training": dict(recipe.training),
        "evaluation": {},
    }
    for item in filled:
        section, key = item.key.split(".", 1)
        sections[section][key] = item.value
    return recipe.model_copy(
        update={
            "model": recipe.model.model_copy(update=sections["model"]),
            "adapter": sections["adapter"],
            "training": sections["training"],
            "evaluation": recipe.evaluation.model_copy(update=sections["evaluation"]),
        }
    )


def for_inference(recipe: Recipe, machine: Machine) -> Recipe:
    """Return a run's recipe with precision and attention chosen for the machine of use, not that of training.

    What was trained in float32 stays so: its answers are then those that the report was made of.
    """
    chosen = {"attn_implementation": "auto", "dtype": "float32" if recipe.model.dtype == "float32" else "auto"}
    open_model = recipe.model.model_copy(update=chosen)
    filled = fill_in(recipe.model_copy(update={"model": open_model}), machine, train_rows=1)
    return resolve(recipe, [item for item in filled if item.key.startswith("model.")])
