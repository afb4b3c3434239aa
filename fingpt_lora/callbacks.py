"""What happens beside the training steps: progress, what else a checkpoint holds, time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import ProgressCallback, TrainerCallback


class TrainingProgress(ProgressCallback):  # type: ignore[misc]
    """The Trainer's progress bar, with the loss beside it instead of printed dictionaries."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Show the newest figures in the bar."""
        if state.is_world_process_zero and self.training_bar is not None and logs:
            names = {"loss": "loss", "eval_macro_f1": "validation macro-F1"}
            self._shown = getattr(self, "_shown", {})
            self._shown |= {names[key]: f"{float(value):.3f}" for key, value in logs.items() if key in names}
            self.training_bar.set_postfix(self._shown)


class OnSave(TrainerCallback):  # type: ignore[misc]
    """Puts more into every checkpoint, beside what the Trainer writes."""

    def __init__(self, write: Callable[[Path], None]) -> None:
        """Args: a function that writes into a checkpoint's folder."""
        self._write = write

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write into the checkpoint just saved."""
        if state.is_world_process_zero:
            self._write(Path(args.output_dir) / f"checkpoint-{state.global_step}")


class StepTimer(TrainerCallback):  # type: ignore[misc]
    """Measures the training steps, validation and saving aside: one entry per step in ``seconds`` and ``tokens``."""

    def __init__(self, rows_per_step: int) -> None:
        """Args: rows of one optimizer step over all processes."""
        self.rows_per_step = rows_per_step
        self.seconds: list[float] = []
        self.tokens: list[int] = []
        self._start = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self.tokens.append(0)
        self._start = time.perf_counter()

    def count(self, tokens: int) -> None:
        """Add the tokens that a batch of the running step computes in this process."""
        self.tokens[-1] += tokens

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop the clock."""
        self.seconds.append(time.perf_counter() - self._start)

    @property
    def rows_per_second(self) -> float | None:
        """Training rows per second, or None where no step ran."""
        return self.rows_per_step * len(self.seconds) / sum(self.seconds) if self.seconds else None

    def seconds_per_token(self, since: int) -> float:
        """Return the time that a token took in the steps from number ``since`` on."""
        return sum(self.seconds[since:]) / sum(self.tokens[since : len(self.seconds)])
