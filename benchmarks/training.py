"""Training speed against plain TRL and LLaMA-Factory, on the same rows, model, adapter and precision.

    python -m benchmarks.training --phrasebank Sentences_50Agree.txt [--llamafactory lf/bin/llamafactory-cli]
    python -m benchmarks.training --phrasebank Sentences_50Agree.txt --table ablation

Every side trains one epoch over the same rows in a process of its own, in rounds that alternate between the sides.
Rows: sentences of your copy of PhraseBank as they are, and articles of mixed length made by joining one to sixteen of
them. Writes ``benchmarks/results/training.json`` (or ``ablation.json``) and prints the table that the README shows.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks import llamafactory
from benchmarks.common import ROOT, in_own_process, matmul_peak, sentences, write_results, write_rows
from fingpt_lora import capability
from fingpt_lora.console import note
from fingpt_lora.plan import Plan, make_plan
from fingpt_lora.recipe import load_recipe

BATCH = 16
# Rows per batch: with sixteen articles, TRL without checkpointing did not end on 24 GiB, it seems for want of memory.
SETS = {"phrasebank": BATCH, "mixed": 8}


@dataclass(frozen=True)
class Side:
    """One way to train; the fields below ``engine`` are the techniques of our own step."""

    text: str
    engine: Literal["ours", "trl", "llamafactory"] = "ours"
    batching: Literal["padded", "length", "shared_prefix"] = "padded"
    label_only: bool = True
    fused: bool = False
    compiled: bool = False


SIDES = {
    "trl": Side("TRL, its defaults", "trl"),
    "llamafactory": Side("LLaMA-Factory, its defaults", "llamafactory"),
    "trl_tuned": Side("TRL, tuned: length grouping, the quickest attention, no checkpointing", "trl"),
    "plain": Side("none: padded rows, vocabulary at every position", label_only=False),
    "length_alone": Side("length grouping alone", batching="length", label_only=False),
    "prefix_alone": Side("shared prefix alone", batching="shared_prefix", label_only=False),
    "fused_alone": Side("fused LoRA alone", label_only=False, fused=True),
    "padded": Side("label-only logits"),
    "length": Side("label-only logits, length grouping", batching="length"),
    "shared_prefix": Side("label-only logits, shared prefix", batching="shared_prefix"),
    "fused": Side("+ fused LoRA: what a recipe gets", batching="shared_prefix", fused=True),
    "compiled": Side("+ compiled layers: what a long run gets", batching="shared_prefix", fused=True, compiled=True),
}
TABLES = {
    "training": ("trl", "llamafactory", "trl_tuned", "padded", "length", "shared_prefix", "fused"),
    "ablation": (
        *("plain", "padded", "length_alone", "prefix_alone", "fused_alone"),
        *("length", "shared_prefix", "fused", "compiled"),
    ),
}


def plan_of(rows: Path, settings: dict[str, Any]) -> Plan:
    """Plan the PhraseBank recipe on the benchmark's rows, nothing but training in full batches."""
    settings = {
        "data.path": rows,
        "data.format": "csv",
        "data.contradictions": "keep",
        "data.split.test": 0.02,
        "training.num_train_epochs": 1,
        "training.per_device_train_batch_size": BATCH,
        "training.dataloader_drop_last": True,
        "training.max_length": 2048,
        **settings,
    }
    recipe = load_recipe(ROOT / "recipes" / "phrasebank.yaml", [f"{key}={value}" for key, value in settings.items()])
    return make_plan(recipe)


def measure(name: str, rows: Path, settings: dict[str, Any], executable: str = "") -> dict[str, Any]:
    """Train one side and return its figures; runs in a process of its own.

    Args:
        name: one of ``SIDES``.
        rows: table with text and label.
        settings: of the recipe, beside or over those of the benchmark.
        executable: ``llamafactory-cli`` of its own environment, for that side.
    """
    import torch

    from fingpt_lora import model as models

    side = SIDES[name]
    # The layers are compiled after a few steps, and again for other shapes: the last of some epochs is what is timed.
    epochs = 4 if side.compiled else 1
    chosen = {"batching": side.batching, "torch_compile": side.compiled, "num_train_epochs": epochs}
    plan = plan_of(rows, {**{f"training.{key}": value for key, value in chosen.items()}, **settings})
    batch = plan.recipe.training["per_device_train_batch_size"]
    torch.set_num_threads(plan.machine.cores)
    peak = matmul_peak(plan.recipe.model.dtype)
    with tempfile.TemporaryDirectory() as folder:
        if side.engine == "llamafactory":
            seconds = llamafactory.train(executable, plan, Path(folder))
        elif side.engine == "trl":
            seconds = _train_trl(plan, name == "trl_tuned", Path(folder))
        else:
            seconds = _train_ours(plan, side, Path(folder))
    # The first step pays for allocation.
    kept = seconds[-(len(seconds) // epochs) :] if side.compiled else seconds[1:]
    linear, adapter = _parameters(plan, models)
    ordered = sorted((example.ids for example in plan.train), key=len)
    batches = [ordered[i : i + batch] for i in range(0, len(ordered) - batch + 1, batch)]
    required = statistics.mean(_necessary_flops(one, linear, adapter) for one in batches)
    tokens = statistics.mean(sum(len(row) for row in one) for one in batches)
    step = statistics.mean(kept)
    return {
        "rows_per_second": batch / step,
        "tokens_per_second": tokens / step,
        "step_seconds_median": statistics.median(kept),
        "slowest_step_seconds": max(seconds),
        "steps": len(kept),
        "share_of_matmul_peak": required / step / peak,
        "matmul_peak_gflops": peak / 1e9,
        "peak_memory_gib": capability.peak_memory_gib(children=side.engine == "llamafactory"),
    }


def _train_ours(plan: Plan, side: Side, folder: Path) -> list[float]:
    from peft.tuners.lora import Linear

    from fingpt_lora import model as models
    from fingpt_lora.lora import FusedLinear
    from fingpt_lora.train import training_arguments
    from fingpt_lora.trainer import fit

    base = models.load_base(plan.recipe.model, plan.checkpoint, device=capability.detect().device)
    if not side.label_only:
        _compute_all_logits(base)
    adapted = models.attach_adapter(base, plan.recipe)
    if not side.fused:
        for module in adapted.modules():
            if type(module) is FusedLinear:
                module.__class__ = Linear
    seconds: list[float] = fit(plan, folder, training_arguments(plan, folder), adapted, None)["step_seconds"]
    return seconds


def _compute_all_logits(model: Any) -> None:
    """Let a causal model compute the vocabulary at every position and hand on those that were asked for."""
    asked: list[Any] = []

    def before(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        asked.append(kwargs.pop("logits_to_keep"))
        return args, kwargs

    def after(module: Any, args: Any, output: Any) -> Any:
        output.logits = output.logits[:, asked.pop()]
        return output

    model.register_forward_pre_hook(before, with_kwargs=True)
    model.register_forward_hook(after)


def _train_trl(plan: Plan, tuned: bool, folder: Path) -> list[float]:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from fingpt_lora import model as models
    from fingpt_lora.callbacks import StepTimer

    machine = capability.detect()
    attention = machine.attention(training=True) if tuned else "sdpa"
    section = plan.recipe.model.model_copy(update={"attn_implementation": attention})
    base = models.load_base(section, plan.checkpoint, device=machine.device)
    torch.backends.cuda.enable_cudnn_sdp(not tuned)  # as torch has it; our loader turns it off
    adapter = {key: value for key, value in plan.recipe.adapter.items() if key != "peft_type"}
    settings: dict[str, Any] = {"use_cpu": machine.device == "cpu", "bf16": machine.bf16}
    if tuned:
        settings |= {"gradient_checkpointing": False, "train_sampling_strategy": "group_by_length"}
    batch = plan.recipe.training["per_device_train_batch_size"]
    timer = StepTimer(batch)
    trainer = SFTTrainer(
        model=base,
        args=SFTConfig(
            output_dir=str(folder),
            num_train_epochs=1,
            per_device_train_batch_size=batch,
            max_length=plan.recipe.training["max_length"],  # TRL would cut the answers off longer rows
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            dataloader_drop_last=True,
            dataloader_pin_memory=machine.device == "cuda",
            **settings,
        ),
        train_dataset=Dataset.from_list([{"input_ids": e.ids, "labels": e.labels} for e in plan.train]),
        processing_class=AutoTokenizer.from_pretrained(plan.checkpoint),
        peft_config=LoraConfig(task_type="CAUSAL_LM", **adapter),
        callbacks=[timer],
    )
    trainer.train()
    return timer.seconds


def _parameters(plan: Plan, models: Any) -> tuple[int, int]:
    """Return the weights of the decoder's linear layers and of their adapters."""
    import torch

    base = models.load_base(
        plan.recipe.model.model_copy(update={"quantization": "none"}), plan.checkpoint, device="cpu"
    )
    linear = sum(m.weight.numel() for n, m in base.named_modules() if type(m) is torch.nn.Linear and "lm_head" not in n)
    return linear, models.trainable_parameters(models.attach_adapter(base, plan.recipe))[0]


def _necessary_flops(batch: Sequence[Sequence[int]], linear: int, adapter: int) -> float:
    """Count what no layout can leave out: the shared prefix once, each row's own tokens, no padding.

    A frozen linear layer costs two operations per weight and token forward and two backward (to its input only); an
    adapter two more, for its own gradient. Attention and the vocabulary of the answer's tokens come to less than a
    hundredth at these lengths and are not counted.
    """
    from fingpt_lora.batching import common_prefix

    shared = common_prefix(batch)
    # The last token of a row is only asked for, never run.
    tokens = shared + sum(len(row) - 1 - shared for row in batch)
    return tokens * (4.0 * linear + 6.0 * adapter)


def row_sets(phrasebank: str, count: int, folder: Path) -> dict[str, Path]:
    """Write the benchmark's rows: sentences, and half as many articles joined from one to sixteen of them."""
    rows = sentences(phrasebank)
    generator = random.Random(0)
    generator.shuffle(rows)
    mixed = []
    for text, label in rows[: count // 2]:
        others = generator.sample(rows, generator.randint(0, 15))
        mixed.append((" ".join([text, *(other for other, _ in others)]), label))
    contents = {"phrasebank": rows[:count], "mixed": mixed}
    return {name: write_rows(folder / f"{name}.csv", content) for name, content in contents.items()}


def table(results: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Return the README's table."""
    lines = [
        "| rows | side | rows/s | tokens/s | times the first | share of matmul peak | peak memory |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for name, sides in results.items():
        first = next(iter(sides.values()))["rows_per_second"]
        for side, figures in sides.items():
            lines.append(
                f"| {name} | {SIDES[side].text} | {figures['rows_per_second']:.2f} "
                f"| {figures['tokens_per_second']:.0f} | {figures['rows_per_second'] / first:.1f} "
                f"| {figures['share_of_matmul_peak']:.0%} | {figures['peak_memory_gib']:.1f} GiB |"
            )
    return "\n".join(lines)


def main() -> None:
    """Measure all sides in alternating rounds, write the results, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phrasebank", required=True, help="Sentences_50Agree.txt")
    parser.add_argument("--llamafactory", default="", help="llamafactory-cli of its own environment; left out without")
    parser.add_argument("--table", choices=TABLES, default="training", help="which sides")
    parser.add_argument("--rows", type=int, default=160, help="sentences; half as many articles")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings of the recipe, as ever")
    arguments = parser.parse_args()
    given = dict(setting.split("=", 1) for setting in arguments.set)
    sides = [side for side in TABLES[arguments.table] if side != "llamafactory" or arguments.llamafactory]
    results: dict[str, dict[str, dict[str, Any]]] = {}
    settings = {"rows": arguments.rows, "rounds": arguments.rounds, "batch": SETS, **given}
    with tempfile.TemporaryDirectory() as folder:
        written = row_sets(arguments.phrasebank, arguments.rows, Path(folder))
        for name in arguments.sets:
            rows = written[name]
            own = {"training.per_device_train_batch_size": SETS[name], **given}
            rounds: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
            for _ in range(arguments.rounds):
                for side in sides:
                    rounds[side].append(in_own_process(measure, side, rows, own, arguments.llamafactory))
                    note(f"{name}, {SIDES[side].text}: {rounds[side][-1]['rows_per_second']:.2f} rows/s")
            results[name] = {
                side: {key: statistics.median(one[key] for one in measured) for key in measured[0]}
                for side, measured in rounds.items()
            }
            write_results(arguments.table, {"results": results, "settings": settings})
    sys.stdout.write(table(results) + "\n")


if __name__ == "__main__":
    main()
