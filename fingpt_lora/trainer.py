"""TRL's SFTTrainer with three things of ours: shared-prefix loss, grouped batches, label scoring as evaluation."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.utils.checkpoint import checkpoint as computed_again
from torch.utils.data import Sampler
from transformers import AutoTokenizer, EarlyStoppingCallback, PrinterCallback, ProgressCallback
from transformers.integrations import TensorBoardCallback
from trl import SFTTrainer

from fingpt_lora import attention, capability, earlier
from fingpt_lora.atomic import write_json
from fingpt_lora.batching import Collator, GroupedSampler, cannot_share, rows_of, supervised_logits
from fingpt_lora.callbacks import OnSave, StepTimer, TrainingProgress
from fingpt_lora.classifier import ClassCollator, class_loss
from fingpt_lora.compiling import CompileWhenItPays, eagerly
from fingpt_lora.console import is_main, note
from fingpt_lora.contract import CONTRACT_FILE
from fingpt_lora.errors import DivergenceError
from fingpt_lora.evaluate import figures, predict_split
from fingpt_lora.plan import Plan

_WATCHED = ("macro_f1", "micro_f1", "accuracy", "nll", "perplexity")  # on the validation rows
# Tokens whose probabilities over the vocabulary are kept for the backward pass; of more they are computed again.
_AT_ONCE = 1024
_SECONDS = "seconds.json"  # of a checkpoint: the training time until it

Validate = Callable[[torch.nn.Module], Mapping[str, float]]


def fit(plan: Plan, folder: Path, args: Any, adapted: Any, resume: Path | None) -> dict[str, Any]:
    """Train the adapter and return what happened; the model holds the best or last weights afterwards.

    Args:
        plan: rows, prompts and settings.
        folder: the run folder.
        args: the ``trl.SFTConfig`` of the run.
        adapted: the base model with its adapter.
        resume: checkpoint to continue from, or None.
    """
    rows = [{"input_ids": e.ids, "labels": e.labels, "branches": list(e.branches)} for e in plan.train]
    classifies = plan.recipe.model.head == "classification"
    batching = plan.batching
    if batching == "shared_prefix" and (reason := cannot_share(adapted, rows, plan.contract.pad_id)):
        note(f"training.batching = length  ({reason})")
        batching = "length"
        _save_memory(plan, args, batching)
    rows_per_batch = args.per_device_train_batch_size * plan.world_size
    sampler = None
    if batching != "padded":
        lengths = [len(example.ids) for example in plan.train]
        sampler = GroupedSampler(lengths, plan.groups, rows_per_batch, args.data_seed or args.seed)

    def validate(model: Any) -> Mapping[str, float]:
        found: dict[str, list[float]] = {}
        for part in plan.tasks.values():
            if part.splits.validation:
                metrics = figures(predict_split(part, model, part.splits.validation), bootstrap=100)
                for key in _WATCHED:
                    found.setdefault(key, []).extend([metrics[key]] if key in metrics else [])
        return {key: statistics.mean(values) for key, values in found.items() if values}

    def describe(batch: Mapping[str, torch.Tensor]) -> list[str]:
        return [plan.encoder.text(row).replace("\n", " ") for row in rows_of(batch)]

    earlier = _seconds_until(resume)

    def beside(checkpoint: Path) -> None:
        # So that a checkpoint can be used by itself, and a continued run knows its whole time.
        if not plan.parts:
            write_json(checkpoint / CONTRACT_FILE, plan.contract.to_json())
        write_json(checkpoint / _SECONDS, earlier + time.perf_counter() - start)

    timer = StepTimer(rows_per_batch * args.gradient_accumulation_steps)
    trainer = LabelTrainer(
        model=adapted,
        callbacks=[timer, OnSave(beside), *_callbacks(plan, folder, args, adapted, timer)],
        args=args,
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list([{"input_ids": [0], "labels": [0]}]) if args.eval_strategy != "no" else None,
        processing_class=AutoTokenizer.from_pretrained(plan.checkpoint),
        data_collator=ClassCollator(plan.contract.pad_id, plan.task.several)
        if classifies
        else Collator(plan.contract.pad_id, share_prefix=batching == "shared_prefix"),
        loss=class_loss if classifies else answer_loss,
        sampler=sampler,
        attention_name=attention.NAME if batching == "shared_prefix" else _padded_attention(plan),
        validate=validate if any(part.splits.validation for part in plan.tasks.values()) else None,
        describe=describe,
        timer=timer,
    )
    for unwanted in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(unwanted)
    trainer.add_callback(TrainingProgress())
    start = time.perf_counter()
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    return {
        "seconds": earlier + time.perf_counter() - start,
        "rows_per_second": timer.rows_per_second,
        "step_seconds": timer.seconds,
        "peak_memory_gib": capability.peak_memory_gib(),
        "batching": batching,
        "rows": len(plan.train),
        "epochs": trainer.state.epoch,
        "steps": trainer.state.global_step,
        "final_loss": next((e["loss"] for e in reversed(trainer.state.log_history) if "loss" in e), None),
        "log_history": trainer.state.log_history,
    }


def _save_memory(plan: Plan, args: Any, batching: str) -> None:
    """Compute activations again where the layout that was planned needed less of them, and nobody decided."""
    item = plan.checkpointing(batching)
    if item.value and item.key in {own.key for own in plan.filled} and not args.activation_checkpointing:
        note(f"{item.key} = True  ({item.reason})")
        args.activation_checkpointing = args.gradient_checkpointing = True


def _seconds_until(checkpoint: Path | None) -> float:
    """Return the training time that went into a checkpoint; 0 where there is none, or it does not tell."""
    try:
        return 0.0 if checkpoint is None else float(json.loads((checkpoint / _SECONDS).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return 0.0


def _padded_attention(plan: Plan) -> str:
    """Return what the recipe names, else what is quickest for padded rows."""
    is_open = any(item.key == "model.attn_implementation" for item in plan.filled)
    return plan.machine.attention(training=True) if is_open else plan.recipe.model.attn_implementation


def _callbacks(plan: Plan, folder: Path, args: Any, adapted: Any, timer: StepTimer) -> list[Any]:
    """Return what the recipe asks for beside the steps; takes TensorBoard out of ``args``."""
    found: list[Any] = []
    training = plan.recipe.training
    wanted = training.get("torch_compile")
    # Measured to pay for plain weights on a CPU only: bitsandbytes' products break the graph.
    if wanted or (wanted is None and plan.machine.device == "cpu" and plan.recipe.model.quantization == "none"):
        found.append(CompileWhenItPays(adapted, timer, bool(wanted), plan.machine.bf16))
    if "tensorboard" in args.report_to:
        from torch.utils.tensorboard import SummaryWriter  # an extra

        # The Trainer would write under its own folder, which goes when the run is done.
        args.report_to = [name for name in args.report_to if name != "tensorboard"]
        found.append(TensorBoardCallback(SummaryWriter(str(folder / "logs")) if is_main() else None))
    if training.get("early_stopping_patience") is not None:
        threshold = float(training.get("early_stopping_threshold", 0.0))
        found.append(EarlyStoppingCallback(training["early_stopping_patience"], threshold))
    return found


class LabelTrainer(SFTTrainer):  # type: ignore[misc]
    """Trains on pre-tokenised rows; only the supervised positions reach the vocabulary.

    Args (beside those of SFTTrainer):
        loss: model, batch -> summed negative log-likelihood and how many answers it is over.
        sampler: order of the training rows, or None for the Trainer's own.
        attention_name: the attention to train by; the model's own serves the validation rows.
        validate: scores the validation rows and returns metrics; runs where the Trainer evaluates.
        describe: batch -> texts of its rows, for the message when the loss diverges.
        timer: counts the tokens of each step; one of the callbacks.
    """

    def __init__(
        self,
        *args: Any,
        loss: Callable[[Any, Any], tuple[torch.Tensor, int]],
        sampler: GroupedSampler | None,
        attention_name: str,
        validate: Validate | None,
        describe: Callable[[Mapping[str, torch.Tensor]], Sequence[str]],
        timer: StepTimer,
        **kwargs: Any,
    ) -> None:
        self._loss, self._sampler, self._validate, self._describe, self._timer = (
            *(loss, sampler, validate),
            *(describe, timer),
        )
        super().__init__(*args, **kwargs)
        self._attention_name, self._own_attention = attention_name, self.model.config._attn_implementation
        # TRL casts the adapter of a quantized base to bfloat16, which rounds small updates away and, without
        # bfloat16 units, slows every product; PEFT's own rule is float32.
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        self._watch = LossWatch()

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        return self._sampler if self._sampler is not None else super()._get_train_sampler(train_dataset)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train by the chosen attention, until the last backward pass."""
        with attention.using(self.model, self._attention_name):
            return super().train(*args, **kwargs)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Return the negative log-likelihood of the answers, normalised as the Trainer asks."""
        self._timer.count(inputs["input_ids"].numel())
        total, answers = self._loss(model, inputs)
        items = answers if num_items_in_batch is None else num_items_in_batch
        loss: torch.Tensor = total / items
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            # The items are those of all processes, and DDP averages gradients over them.
            loss = loss * self.accelerator.num_processes
        problem = self._watch.look(total.item() / answers)
        if problem:
            raise DivergenceError(self._divergence(problem, inputs))
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Score the validation rows by label log-probability and report the task's metrics."""
        if self._validate is None:
            return {}
        start = time.perf_counter()
        with attention.using(self.model, self._own_attention), eagerly(self.model):
            metrics = {f"eval_{key}": float(value) for key, value in self._validate(self.model).items()}
        metrics["eval_runtime"] = time.perf_counter() - start
        self.log(dict(metrics))
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _load_from_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_checkpoint(*args, **kwargs)
        self._activate()

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self._activate()

    def _activate(self) -> None:
        # The Trainer leaves one adapter active, and the others out of the computation.
        if earlier.several(self.model):
            earlier.activate(self.model)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Checkpoints need no card; the run folder gets one when its figures are known."""

    def _divergence(self, problem: str, inputs: Mapping[str, torch.Tensor]) -> str:
        step = self.state.global_step + 1
        texts = list(self._describe(inputs))
        shown = "\n".join(f"    {text[:100]}" for text in texts[:4])
        more = f"\n    ... and {len(texts) - 4} more" if len(texts) > 4 else ""
        rate = self.args.learning_rate
        return (
            f"Training stopped at step {step}: {problem}. Rows of that batch:\n{shown}{more}\n"
            f"  Try training.learning_rate={rate / 5:g} (it was {rate:g}), training.warmup_steps=0.1 or "
            f"training.max_grad_norm=0.3. The last good checkpoint is kept in '{self.args.output_dir}'."
        )


def answer_loss(model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
    """Return the summed negative log-likelihood of the answers' tokens, and their number."""
    logits, targets = supervised_logits(model, batch)
    if len(targets) <= _AT_ONCE:
        return _summed(logits, targets), len(targets)
    parts = zip(torch.split(logits, _AT_ONCE), torch.split(targets, _AT_ONCE), strict=True)
    total = torch.stack([computed_again(_summed, *part, use_reentrant=False) for part in parts]).sum()
    return total, len(targets)


def _summed(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum")


class LossWatch:
    """Notices a loss that is no number, or that has run away from where it had been.

    A loss counts as run away when its moving average (over about 20 steps) exceeds ``factor`` times the best
    moving average so far, and ``floor`` nats: a single hard batch is not enough.
    """

    def __init__(self, factor: float = 4.0, floor: float = 6.0) -> None:
        """Args: allowed growth over the best moving average; loss below which nothing is called divergence."""
        self.factor, self.floor = factor, floor
        self.average: float | None = None
        self.best = math.inf
        self.seen = 0

    def look(self, loss: float) -> str | None:
        """Take one loss and return what is wrong, or None."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        self.average = loss if self.average is None else 0.95 * self.average + 0.05 * loss
        self.seen += 1
        self.best = min(self.best, self.average)
        if self.seen > 20 and self.average > max(self.floor, self.factor * self.best):
            return f"the loss ran away to {self.average:.2f} from {self.best:.2f}"
        return None
