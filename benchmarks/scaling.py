"""How training speed changes with prompt length and batch size, beside TRL tuned as well as it can be.

    python -m benchmarks.scaling --phrasebank Sentences_50Agree.txt

Articles are joined from sentences of your copy of PhraseBank and shortened to the length. Writes
``benchmarks/results/scaling.json`` and ``benchmarks/results/scaling.png``.
"""

from __future__ import annotations

import argparse
import csv
import random
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import in_own_process, write_results
from benchmarks.training import SIDES, measure
from fingpt_lora.console import note

LENGTHS = (64, 128, 256, 512, 1024, 2048)
BATCHES = (1, 4, 16, 64)
STEPS = 5
COMPARED = ("trl_tuned", "fused")


def write_rows(phrasebank: str, count: int, sentences: int, path: Path) -> Path:
    """Write articles of many sentences each, long enough for every length."""
    lines = Path(phrasebank).read_text(encoding="latin-1").splitlines()
    rows = [line.rsplit("@", 1) for line in lines if "@" in line]
    generator = random.Random(0)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("text", "label"))
        for _ in range(count):
            chosen = generator.sample(rows, sentences)
            writer.writerow((" ".join(text for text, _ in chosen), chosen[0][1]))
    return path


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Draw rows per second against length and against batch size, one line per side."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, varied, label in zip(axes, ("length", "batch"), ("prompt tokens", "rows per batch"), strict=True):
        for side in COMPARED:
            points = [one for one in results if one["varied"] == varied and one["side"] == side]
            axis.plot(
                [one[varied] for one in points], [one["rows_per_second"] for one in points], "o-", label=SIDES[side]
            )
        axis.set(xscale="log", yscale="log", xlabel=label, ylabel="rows per second")
        axis.set_xticks(
            LENGTHS if varied == "length" else BATCHES, [str(x) for x in (LENGTHS if varied == "length" else BATCHES)]
        )
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure every length at eight rows and every batch size at 128 tokens, both sides back to back."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phrasebank", required=True, help="Sentences_50Agree.txt")
    arguments = parser.parse_args()
    points = [("length", length, 8) for length in LENGTHS] + [("batch", 128, batch) for batch in BATCHES]
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for varied, length, batch in points:
            # Two per cent of the rows, and at least one of each label, are the recipe's test.
            rows = write_rows(arguments.phrasebank, batch * STEPS + 6, length // 8, Path(folder) / "rows.csv")
            settings = {"training.max_length": length, "training.per_device_train_batch_size": batch}
            for side in COMPARED:
                figures = in_own_process(measure, side, rows, settings)
                results.append({"varied": varied, "length": length, "batch": batch, "side": side, **figures})
                note(f"{length} tokens x {batch}, {SIDES[side]}: {figures['rows_per_second']:.2f} rows/s")
    path = write_results("scaling", {"results": results})
    plot(results, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
