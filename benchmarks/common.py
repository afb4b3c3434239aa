"""What every benchmark needs: a process of its own per side, the matmul peak, a result file that names its origin."""

from __future__ import annotations

import csv
import json
import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from fingpt_lora import capability, runs
from fingpt_lora.atomic import write_json
from fingpt_lora.console import note
from fingpt_lora.data import BadRow, stream_rows
from fingpt_lora.sections import DataSection
from fingpt_lora.tasks import SentimentTask

ROOT = Path(__file__).parents[1]
Result = TypeVar("Result")


def in_own_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function in a fresh process, so that its peak memory and its caches are its own."""
    # Unlike a Pool, it notices when its process was killed, as for want of memory.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        return executor.submit(function, *arguments).result()


def sentences(phrasebank: str) -> list[tuple[str, str]]:
    """Return text and label of the sentences of a copy of PhraseBank, in the file's order."""
    rows = stream_rows(phrasebank, DataSection(format="phrasebank"), SentimentTask(3), require_label=True)
    return [(row.text, str(row.label)) for row in rows if not isinstance(row, BadRow)]


def write_rows(path: Path, rows: Iterable[tuple[str, str]]) -> Path:
    """Write texts and labels as a table that a recipe can read."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("text", "label"), *rows])
    return path


def matmul_peak(dtype: str = "float32", size: int = 2048) -> float:
    """Return the floating-point operations per second of a square matrix product, the median of ten."""
    import torch

    device = capability.detect().device
    a, b = (torch.randn(size, size, device=device).to(getattr(torch, dtype)) for _ in range(2))
    seconds = []
    for _ in range(13):
        start = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(seconds[3:])


def run_recipe(recipe: str, settings: Sequence[str], folder: Path) -> tuple[dict[str, Any], str]:
    """Run a recipe in a process of its own, so that its peak memory is its own.

    Args:
        recipe: name of a file in ``recipes``.
        settings: overrides, the output folder among them.
        folder: that folder.

    Returns:
        the content of ``metrics.json``, and the commit that trained it: a finished run is not computed again.
    """
    command = [sys.executable, "-m", "fingpt_lora.train", str(ROOT / "recipes" / f"{recipe}.yaml"), "--set", *settings]
    subprocess.run(command, check=True)
    origin = folder / "commit.txt"  # of the code that trained it, not of the one that collects the figures
    if not origin.is_file():
        origin.write_text(commit() + "\n", encoding="utf-8")
    metrics: dict[str, Any] = json.loads((folder / runs.METRICS).read_text(encoding="utf-8"))
    return metrics, origin.read_text(encoding="utf-8").strip()


def write_results(name: str, content: dict[str, Any]) -> Path:
    """Write ``benchmarks/results/<name>.json`` with hardware, versions and commit."""
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    origin = {"hardware": capability.detect().as_dict(), "versions": runs.versions(), "commit": commit()}
    write_json(path, {**content, **origin})
    note(f"Results: {path.relative_to(ROOT)}")
    return path


def commit() -> str:
    """Return the commit that was measured, marked where the tree differs from it in more than results."""
    where: dict[str, Any] = {"cwd": ROOT, "capture_output": True, "text": True, "check": False}
    name = subprocess.run(["git", "rev-parse", "--short", "HEAD"], **where).stdout.strip()
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", ".", ":!benchmarks/results"], **where).returncode
    return (name or "unknown") + ("-dirty" if changed else "")
