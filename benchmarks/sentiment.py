"""Sentiment against three baselines on PhraseBank and TFNS, over three seeds, from your own copies of the data.

    python -m benchmarks.sentiment --phrasebank Sentences_50Agree.txt --tfns sent_train.csv

Each seed is a whole run of ``recipes/phrasebank.yaml`` or ``recipes/tfns.yaml`` (the split stays the recipe's, the
training seed changes). Runs are kept in ``--runs`` and continue where they were stopped. Writes
``benchmarks/results/sentiment.json``, where a data set that is not named keeps its figures, and prints the table that
the README shows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, run_recipe, write_results

FIGURES = ("accuracy", "weighted_f1", "macro_f1", "mcc", "ece")
NAMES = {"phrasebank": "PhraseBank 50Agree", "tfns": "TFNS"}


def train(recipe: str, data: str, seed: int, folder: Path) -> dict[str, Any]:
    """Run one recipe with one seed and return its figures."""
    settings = [f"data.path={data}", f"training.seed={seed}", f"output={folder}"]
    metrics, trained_at = run_recipe(recipe, settings, folder)
    kept = {name: {key: figures.get(key) for key in FIGURES} for name, figures in metrics["baselines"].items()}
    return {
        "seed": seed,
        "rows": metrics["audit"]["rows"],
        "test": {key: metrics["test"][key] for key in FIGURES},
        "intervals": metrics["test"]["intervals"],
        "baselines": kept,
        "train": metrics["train"],
        "split_seed": 42,
        "commit": trained_at,
    }


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Return the README's table: means over the seeds, and the spread of the model's figures."""
    lines = [
        "| data | model | seeds | accuracy | weighted F1 | macro F1 | MCC | training |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    names = {
        "base_model": "base model, untouched",
        "tfidf_logreg": "TF-IDF + logistic regression",
        "majority": "majority class",
    }
    for recipe, outcomes in results.items():
        figures = [outcome["test"] for outcome in outcomes]
        minutes = statistics.mean(outcome["train"]["seconds"] for outcome in outcomes) / 60
        cells = [_cell([f[key] for f in figures]) for key in FIGURES[:4]]
        lines.append(
            f"| {NAMES[recipe]} | **this recipe** | {len(figures)} | {' | '.join(cells)} | {minutes:.0f} min |"
        )
        for key, name in names.items():
            if key in outcomes[0]["baselines"]:
                base = outcomes[0]["baselines"][key]
                lines.append(f"| | {name} | 1 | {' | '.join(f'{base[f]:.3f}' for f in FIGURES[:4])} | |")
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def main() -> None:
    """Measure what was named, write the results, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phrasebank", help="Sentences_50Agree.txt")
    parser.add_argument("--tfns", help="sent_train.csv")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "benchmark")
    arguments = parser.parse_args()
    named = {recipe: getattr(arguments, recipe) for recipe in NAMES if getattr(arguments, recipe)}
    if not named:
        parser.error("name at least one data set: --phrasebank FILE or --tfns FILE")
    results = {
        recipe: [train(recipe, data, seed, arguments.runs / f"{recipe}-{seed}") for seed in arguments.seeds]
        for recipe, data in named.items()
    }
    saved = ROOT / "benchmarks" / "results" / "sentiment.json"
    if saved.is_file():  # a data set that is not named keeps its figures
        results = json.loads(saved.read_text(encoding="utf-8"))["results"] | results
    write_results("sentiment", {"results": results})
    sys.stdout.write(table(results) + "\n")


if __name__ == "__main__":
    main()
