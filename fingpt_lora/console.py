"""What a person sees: notes on standard error, results on standard output, no library chatter between."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator

from fingpt_lora.errors import FingptLoraError


def is_main() -> bool:
    """Whether this process is rank 0, the one that speaks and writes."""
    return int(os.environ.get("RANK", "0")) == 0


def note(message: str) -> None:
    """Print one line for the person, from rank 0 only."""
    if is_main():
        from rich.console import Console

        Console(stderr=True, soft_wrap=True, highlight=False).print(message, style="dim", markup=False)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep other libraries' warnings and log lines below errors while the block runs.

    They are written for programmers of those libraries; what a user must know, this package says in its own
    words. Our own warnings are errors in the tests.
    """
    names = (
        "transformers",
        "trl",
        "peft",
        "accelerate",
        "datasets",
        "bitsandbytes",
        "huggingface_hub",
        "torch",
    )
    before = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", module=r"fingpt_lora(\.|$)")
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in before.items():
                logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def progress_bar(what: str | None, total: int) -> Iterator[Callable[[int], None] | None]:
    """Show a bar on standard error while the block runs, from rank 0 only, and yield what moves it by some rows.

    Args:
        what: shown beside it; without, there is no bar, and None is yielded.
        total: rows.
    """
    if what is None or not is_main():
        yield None
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, desc=what, unit="row", leave=False, dynamic_ncols=True) as bar:
        update: Callable[[int], None] = bar.update
        yield update


def run_safely(action: Callable[[], object]) -> None:
    """Call ``action`` and turn this package's errors into one sentence on standard error and an exit code."""
    try:
        action()
    except FingptLoraError as error:
        from rich.console import Console

        Console(stderr=True, soft_wrap=True, highlight=False).print(f"error: {error}", style="red", markup=False)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(0)  # the reader of our output had enough
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped. The same command continues where the last checkpoint was.\n")
        sys.exit(130)
