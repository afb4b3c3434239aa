"""Training speed against plain TRL, on the same rows, model, adapter and precision, each side in a process of its own.

    python -m benchmarks.training --phrasebank Sentences_50Agree.txt

Every side trains one epoch over the same rows, in rounds that alternate between the sides. Rows: sentences of your
copy of PhraseBank as they are, and articles of mixed length made by joining one to sixteen of them. Writes
``benchmarks/results/training.json`` and prints the tables that the README shows.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, in_own_process, matmul_peak, sentences, write_results, write_rows
from fingpt_lora import capability
from fingpt_lora.console import note
from fingpt_lora.plan import Plan, make_plan
from fingpt_lora.recipe import load_recipe

BATCH = 16
SIDES = {
    "trl": "TRL, its defaults",
    "trl_tuned": "TRL, tuned: length grouping, eager attention, no checkpointing",
    "padded": "label-only logits",
    "length": "+ length grouping",
    "shared_prefix": "+ shared prefix, without padding",
    "fused": "+ fused LoRA: what a recipe gets",
}


def plan_of(rows: Path, settings: dict[str, Any]) -> Plan:
    """Plan the PhraseBank recipe on the benchmark's rows, one epoch, nothing but training."""
    settings = {
        "data.path": rows,
        "data.format": "csv",
        "data.contradictions": "keep",
        "data.split.test": 0.02,
        "training.num_train_epochs": 1,
        "training.per_device_train_batch_size": BATCH,
        "training.max_length": 2048,
        **settings,
    }
    recipe = load_recipe(ROOT / "recipes" / "phrasebank.yaml", [f"{key}={value}" for key, value in settings.items()])
    return make_plan(recipe)


def measure(side: str, rows: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Train one side and return its figures; runs in a process of its own."""
    import torch

    from fingpt_lora import model as models

    plan = plan_of(rows, {"training.batching": side if side in ("padded", "length") else "shared_prefix", **settings})
    batch = plan.recipe.training["per_device_train_batch_size"]
    torch.set_num_threads(plan.machine.cores)
    peak = matmul_peak(plan.recipe.model.dtype)
    with tempfile.TemporaryDirectory() as folder:
        train = _train_trl if side.startswith("trl") else _train_ours
        seconds = train(plan, side, Path(folder))
    # The first step pays for allocation, and the last batch may be short.
    kept = seconds[1:-1]
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
        "first_step_seconds": seconds[0],
        "steps": len(kept),
        "share_of_matmul_peak": required / step / peak,
        "matmul_peak_gflops": peak / 1e9,
        "peak_memory_gib": capability.peak_memory_gib(),
    }


def _train_ours(plan: Plan, side: str, folder: Path) -> list[float]:
    from peft.tuners.lora import Linear

    from fingpt_lora import model as models
    from fingpt_lora.lora import FusedLinear
    from fingpt_lora.train import training_arguments
    from fingpt_lora.trainer import fit

    base = models.load_base(plan.recipe.model, plan.checkpoint, device=capability.detect().device)
    adapted = models.attach_adapter(base, plan.recipe)
    if side != "fused":
        for module in adapted.modules():
            if type(module) is FusedLinear:
                module.__class__ = Linear
    seconds: list[float] = fit(plan, folder, training_arguments(plan, folder), adapted, None)["step_seconds"]
    return seconds


def _train_trl(plan: Plan, side: str, folder: Path) -> list[float]:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from fingpt_lora import model as models
    from fingpt_lora.callbacks import StepTimer

    tuned = side == "trl_tuned"
    machine = capability.detect()
    section = plan.recipe.model.model_copy(update={"attn_implementation": "eager" if tuned else "sdpa"})
    base = models.load_base(section, plan.checkpoint, device=machine.device)
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
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
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
    tokens = shared + sum(len(row) - shared for row in batch)
    return tokens * (4.0 * linear + 6.0 * adapter)


def row_sets(phrasebank: str, count: int, folder: Path) -> dict[str, Path]:
    """Write the benchmark's rows: sentences as they are, and articles joined from one to sixteen of them."""
    rows = sentences(phrasebank)
    generator = random.Random(0)
    generator.shuffle(rows)
    mixed = []
    for text, label in rows[:count]:
        others = generator.sample(rows, generator.randint(0, 15))
        mixed.append((" ".join([text, *(other for other, _ in others)]), label))
    contents = {"phrasebank": rows[:count], "mixed": mixed}
    return {name: write_rows(folder / f"{name}.csv", content) for name, content in contents.items()}


def table(results: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Return the README's table."""
    lines = [
        "| rows | side | rows/s | tokens/s | times TRL | share of matmul peak | peak memory |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for name, sides in results.items():
        first = next(iter(sides.values()))["rows_per_second"]
        for side, figures in sides.items():
            lines.append(
                f"| {name} | {SIDES[side]} | {figures['rows_per_second']:.2f} | {figures['tokens_per_second']:.0f} "
                f"| {figures['rows_per_second'] / first:.1f} | {figures['share_of_matmul_peak']:.0%} "
                f"| {figures['peak_memory_gib']:.1f} GiB |"
            )
    return "\n".join(lines)


def main() -> None:
    """Measure all sides in alternating rounds, write the results, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phrasebank", required=True, help="Sentences_50Agree.txt")
    parser.add_argument("--rows", type=int, default=160, help="rows per set")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings of the recipe, as ever")
    arguments = parser.parse_args()
    given = dict(setting.split("=", 1) for setting in arguments.set)
    results: dict[str, dict[str, dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, rows in row_sets(arguments.phrasebank, arguments.rows, Path(folder)).items():
            rounds: dict[str, list[dict[str, Any]]] = {side: [] for side in arguments.sides}
            for _ in range(arguments.rounds):
                for side in arguments.sides:
                    rounds[side].append(in_own_process(measure, side, rows, given))
                    note(f"{name}, {SIDES[side]}: {rounds[side][-1]['rows_per_second']:.2f} rows/s")
            results[name] = {
                side: {key: statistics.median(one[key] for one in measured) for key in measured[0]}
                for side, measured in rounds.items()
            }
    settings = {"rows": arguments.rows, "rounds": arguments.rounds, "batch": BATCH, **given}
    write_results("training", {"results": results, "settings": settings})
    sys.stdout.write(table(results) + "\n")


if __name__ == "__main__":
    main()
