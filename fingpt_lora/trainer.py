"""TRL's SFTTrainer with three things of ours: shared-prefix loss, grouped batches, label scoring as evaluation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import ProgressCallback, TrainerCallback
from trl import SFTTrainer

from fingpt_lora import attention
from fingpt_lora.batching import GroupedSampler, supervised_logits
from fingpt_lora.errors import DivergenceError

Validate = Callable[[torch.nn.Module], Mapping[str, float]]


class LabelTrainer(SFTTrainer):  # type: ignore[misc]
    """Trains on pre-tokenised rows; only the supervised positions reach the vocabulary.

    Args (beside those of SFTTrainer):
        sampler: order of the training rows, or None for the Trainer's own.
        share_prefix: whether the collator lays a batch out as one sequence with a shared prefix.
        validate: scores the validation rows and returns metrics; runs where the Trainer evaluates.
        describe: batch -> texts of its rows, for the message when the loss diverges.
    """

    def __init__(
        self,
        *args: Any,
        sampler: GroupedSampler | None,
        share_prefix: bool,
        validate: Validate | None,
        describe: Callable[[Mapping[str, torch.Tensor]], Sequence[str]],
        **kwargs: Any,
    ) -> None:
        self._sampler, self._validate, self._describe = sampler, validate, describe
        super().__init__(*args, **kwargs)
        self._share_prefix, self._attention = share_prefix, self.model.config._attn_implementation
        # TRL casts the adapter of a quantized base to bfloat16, which rounds small updates away and, without
        # bfloat16 units, slows every product; PEFT's own rule is float32.
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        self._watch = LossWatch()

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        return self._sampler if self._sampler is not None else super()._get_train_sampler(train_dataset)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train; a shared prefix needs its own attention until the last backward pass."""
        with attention.using(self.model, attention.NAME if self._share_prefix else self._attention):
            return super().train(*args, **kwargs)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Return the negative log-likelihood of the answers, normalised as the Trainer asks."""
        logits, targets = supervised_logits(model, inputs)
        total = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum")
        items = len(targets) if num_items_in_batch is None else num_items_in_batch
        loss: torch.Tensor = total / items
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            # The items are those of all processes, and DDP averages gradients over them.
            loss = loss * self.accelerator.num_processes
        problem = self._watch.look(total.item() / len(targets))
        if problem:
            raise DivergenceError(self._divergence(problem, inputs))
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Score the validation rows by label log-probability and report the task's metrics."""
        if self._validate is None:
            return {}
        start = time.perf_counter()
        with attention.using(self.model, self._attention):
            metrics = {f"eval_{key}": float(value) for key, value in self._validate(self.model).items()}
        metrics["eval_runtime"] = time.perf_counter() - start
        self.log(dict(metrics))
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

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


class TrainingProgress(ProgressCallback):  # type: ignore[misc]
    """The Trainer's progress bar, with the loss beside it instead of printed dictionaries."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Show the newest figures in the bar."""
        if state.is_world_process_zero and self.training_bar is not None and logs:
            names = {"loss": "loss", "eval_macro_f1": "validation macro-F1"}
            self._shown = getattr(self, "_shown", {})
            self._shown |= {names[key]: f"{float(value):.3f}" for key, value in logs.items() if key in names}
            self.training_bar.set_postfix(self._shown)


class SaveContract(TrainerCallback):  # type: ignore[misc]
    """Puts the prompt contract into every checkpoint, so that a checkpoint can be used by itself."""

    def __init__(self, write: Callable[[str], None]) -> None:
        """Args: a function that writes the contract into a folder."""
        self._write = write

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write it beside the adapter of the checkpoint just saved."""
        if state.is_world_process_zero:
            self._write(f"{args.output_dir}/checkpoint-{state.global_step}")


class StepTimer(TrainerCallback):  # type: ignore[misc]
    """Measures the time spent in training steps, validation and saving aside; ``seconds`` has one entry per step."""

    def __init__(self, rows_per_step: int) -> None:
        """Args: rows of one optimizer step over all processes."""
        self.rows_per_step, self.seconds = rows_per_step, list[float]()
        self._start = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop the clock."""
        self.seconds.append(time.perf_counter() - self._start)

    @property
    def rows_per_second(self) -> float | None:
        """Training rows per second, or None where no step ran."""
        return self.rows_per_step * len(self.seconds) / sum(self.seconds) if self.seconds else None
