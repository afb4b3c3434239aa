"""How training speed changes with prompt length and batch size, beside TRL tuned as well as it can be.

    python -m benchmarks.scaling --phrasebank Sentences_50Agree.txt

Articles are joined from sentences of your copy of PhraseBank and shortened to the length. Writes
``benchmarks/results/scaling.json`` and ``benchmarks/results/scaling.png``.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from benchmarks.common import in_own_process, sentences, write_results, write_rows
from benchmarks.training import measure
from fingpt_lora.console import note

LENGTHS = (64, 256, 1024, 2048)
BATCHES = (1, 4, 16)
STEPS = 2  # the first pays for allocation
COMPARED = {"trl_tuned": "TRL, tuned", "fused": "this project"}


def articles(rows: list[tuple[str, str]], count: int, parts: int) -> list[tuple[str, str]]:
    """Return articles joined from so many sentences each, with the label of the first."""
    generator = random.Random(0)
    drawn = [generator.sample(rows, parts) for _ in range(count)]
    return [(" ".join(text for text, _ in chosen), chosen[0][1]) for chosen in drawn]


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Draw rows per second against length and against batch size, one line per side; what was killed has no point."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    drawn = (("length", LENGTHS, "prompt tokens"), ("batch", BATCHES, "rows per batch"))
    for axis, (varied, ticks, label) in zip(axes, drawn, strict=True):
        for side in COMPARED:
            points = [one for one in results if one["varied"] == varied and one["side"] == side]
            points = [one for one in points if one["rows_per_second"] is not None]
            axis.plot(
                [one[varied] for one in points],
                [one["rows_per_second"] for one in points],
                "o-",
                label=COMPARED[side],
            )
        axis.set(xscale="log", yscale="log", xlabel=label, ylabel="rows per second")
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(COMPARED), frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure every length at four rows and every batch size at 128 tokens, both sides back to back."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phrasebank", required=True, help="Sentences_50Agree.txt")
    arguments = parser.parse_args()
    points = [("length", length, 4) for length in LENGTHS] + [("batch", 128, batch) for batch in BATCHES]
    source = sentences(arguments.phrasebank)
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for varied, length, batch in points:
            # Two per cent of the rows, and at least one of each label, are the recipe's test.
            rows = write_rows(Path(folder) / "rows.csv", articles(source, batch * STEPS + 6, length // 8))
            settings = {"training.max_length": length, "training.per_device_train_batch_size": batch}
            for side in COMPARED:
                point = {"varied": varied, "length": length, "batch": batch, "side": side}
                try:
                    figures = in_own_process(measure, side, rows, settings)
                    told = f"{figures['rows_per_second']:.2f} rows/s"
                except BrokenProcessPool:
                    figures, told = {"rows_per_second": None}, "killed, for want of memory"
                results.append({**point, **figures})
                note(f"{length} tokens x {batch}, {COMPARED[side]}: {told}")
            path = write_results("scaling", {"results": results})
    plot(results, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
