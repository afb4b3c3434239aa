"""Every task beside its baselines, on your own copies of public data; one whole run of a recipe each.

    python -m benchmarks.tasks --sentifm train.jsonl --sentivent train.jsonl --sentivent_head train.jsonl
        --sentivent_minilm train.jsonl --headlines gold.csv --phrasebank Sentences_50Agree.txt --finre train.jsonl
        --fin5 FIN5.txt --fewfc train.jsonl --finese train.jsonl --tatqa tatqa_dataset_dev.json
        --text sentivent.jsonl --forecast --stocknet train_dev.jsonl.gz

Only what is named is run. Runs are kept in ``--runs`` and continue where they were stopped; each tells its time, which
means little on a machine that does something else. Writes ``benchmarks/results/tasks.json``, where a data set that is
not named keeps its figures, and prints the table that the README shows.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, in_own_process, run_recipe, write_results
from fingpt_lora.evaluate import figures, predict_split
from fingpt_lora.plan import make_plan
from fingpt_lora.predict import Predictor
from fingpt_lora.recipe import load_recipe

_SENTIVENT = {
    "Product/Service": "product",
    "Macroeconomics": "macroeconomics",
    "SecurityValue": "share price",
    "SalesVolume": "sales volume",
    "CSR/Brand": "brand",
    "FinancialReport": "financial report",
    "Revenue": "revenue",
    "Profit/Loss": "profit or loss",
    "Employment": "employment",
    "Deal": "deal",
    "Rating": "rating",
    "Expense": "expense",
    "Facility": "facility",
    "Legal": "legal",
    "Investment": "investment",
    "Merger/Acquisition": "merger",
    "Dividend": "dividend",
    "Financing": "financing",
}


@dataclass(frozen=True)
class Job:
    """A recipe on a data set, and the figure that its field reports."""

    text: str
    recipe: str
    figure: str
    settings: tuple[str, ...] = ()
    constrained: bool = False  # measured a second time, with answers kept within their grammar


JOBS = {
    "sentifm": Job("SentiFM, 10 event types", "events", "micro_f1"),
    "sentivent": Job("SENTiVENT, 18 event types", "events", "micro_f1", (f"task.types={json.dumps(_SENTIVENT)}",)),
    "sentivent_head": Job(
        "SENTiVENT by a classification head, 3 epochs",
        "events",
        "micro_f1",
        (
            f"task.types={json.dumps(_SENTIVENT)}",
            "model.head=classification",
            "training.num_train_epochs=3",
            "training.per_device_train_batch_size=16",
        ),
    ),
    "sentivent_minilm": Job(
        "SENTiVENT by MiniLM, all weights, 8 epochs",
        "sentiment_bert",
        "micro_f1",
        (
            "task.name=event",
            f"task.types={json.dumps(_SENTIVENT)}",
            "data.split={method: random, test: 0.15, seed: 42}",
            "data.validation_share=0.1",
        ),
    ),
    "headlines": Job("gold headlines, 9 questions, 300 steps", "headlines", "question_f1", ("training.max_steps=300",)),
    "finre": Job(
        "FinRE, 44 relations (Chinese), 150 steps",
        "relations",
        "accuracy",
        ("training.max_steps=150", "data.split.test=0.04"),
    ),
    "phrasebank": Job(
        "PhraseBank 50Agree by MiniLM, all weights",
        "sentiment_bert",
        "weighted_f1",
        ("data.split={method: random, test: 0.25, seed: 42}", "training.num_train_epochs=4"),
    ),
    "fin5": Job("FIN5, entities by span", "entities", "micro_f1"),
    "fewfc": Job(
        "FewFC, roles of events (Chinese), 2,400 training rows",
        "event_extraction",
        "role_f1",
        (
            "data.limit=2400",
            "data.split.test=0.02",
            "evaluation.base_model=false",
            "training.num_train_epochs=1",
            "training.per_device_train_batch_size=4",
        ),
        constrained=True,
    ),
    "finese": Job(
        "FinESE, event type and subject (Chinese), 100 steps",
        "event_subjects",
        "role_f1",
        ("training.max_steps=100", "data.split.test=0.02", "evaluation.base_model=false"),
    ),
    "tatqa": Job(
        "TAT-QA, exact match, 100 steps",
        "questions",
        "accuracy",
        ("training.max_steps=100", "data.split.test=0.08", "evaluation.base_model=false"),
    ),
    "text": Job("SENTiVENT's articles as raw text, 24 steps", "text", "perplexity", ("training.max_steps=24",)),
    "forecast": Job("direction in 5 sessions, 5 shares", "forecast", "accuracy"),
    # The whole file would take hours. The first fold of a walk forward has the first weeks of all shares, and tests on
    # the weeks after. Moves within half a per cent are left out by the data set itself.
    "stocknet": Job(
        "StockNet, next day's direction, the first of 24 folds",
        "forecast",
        "accuracy",
        (
            "task.horizon=1",
            "data.market=null",
            "data.split={method: time, column: date, folds: 24, fold: 1}",
        ),
    ),
}
FIGURES = ("accuracy", "micro_f1", "macro_f1", "weighted_f1", "question_f1", "mcc", "ece", "trigger_f1", "role_f1")
FIGURES += ("type_f1", "invalid_rate", "grounded_rate", "perplexity", "bits_per_byte")
COLUMNS = {"test": "this recipe", "tfidf_logreg": "TF-IDF", "by_heart": "known from training"}
COLUMNS |= {"base_model": "untouched base", "majority": "majority"}
COLUMNS |= {"persistence": "last move goes on", "shuffled": "TF-IDF, shuffled labels"}
NAMES = {"accuracy": "accuracy", "micro_f1": "micro F1", "weighted_f1": "weighted F1", "question_f1": "yes/no F1"}
NAMES |= {"role_f1": "role F1", "perplexity": "perplexity"}


def measure(name: str, data: str | None, folder: Path) -> dict[str, Any]:
    """Run one job and return its figures."""
    job = JOBS[name]
    settings = [*job.settings, *([f"data.path={data}"] if data else []), f"output={folder}"]
    metrics, trained_at = run_recipe(job.recipe, settings, folder)
    found = {"test": metrics["test"], **metrics["baselines"]}
    if job.constrained:
        found["constrained"] = in_own_process(constrained, job.recipe, settings, folder)
    return {
        **{side: {key: figures[key] for key in FIGURES if key in figures} for side, figures in found.items()},
        "interval": metrics["test"]["intervals"][job.figure],
        "rows": metrics["audit"]["totals"],
        "train": metrics["train"],
        "commit": trained_at,
    }


def constrained(recipe: str, settings: list[str], folder: Path) -> dict[str, Any]:
    """Return the figures of a finished run on its test rows, with answers kept within their grammar."""
    plan = make_plan(load_recipe(ROOT / "recipes" / f"{recipe}.yaml", [*settings, "evaluation.mode=constrained"]))
    return figures(predict_split(plan, Predictor.load(folder).model, plan.splits.test, "Constrained answers"))


def articles(sentivent: str, folder: Path) -> str:
    """Write the articles of SENTiVENT, which come as sentences, and return the file."""
    found: dict[str, list[str]] = {}
    for line in Path(sentivent).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found.setdefault(row["document"], []).append(row["text"])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "articles.jsonl"
    path.write_text("".join(json.dumps({"text": " ".join(texts)}) + "\n" for texts in found.values()), encoding="utf-8")
    return str(path)


def table(results: dict[str, dict[str, Any]]) -> str:
    """Return the README's table, with the columns that have something to show."""
    columns = {side: title for side, title in COLUMNS.items() if any(side in result for result in results.values())}
    lines = [
        f"| data | train / test rows | figure | {' | '.join(columns.values())} | training |",
        f"|---|---:|---|{'---:|' * (len(columns) + 1)}",
    ]
    for name, result in results.items():
        job = JOBS[name]
        cells = [f"{result[side][job.figure]:.3f}" if side in result else "" for side in columns]
        low, high = result["interval"]
        cells[0] = f"**{cells[0]}** ({low:.2f} to {high:.2f})"
        rows = f"{result['rows']['train']:,} / {result['rows']['test']:,}"
        minutes = result["train"]["seconds"] / 60
        lines.append(f"| {job.text} | {rows} | {NAMES[job.figure]} | {' | '.join(cells)} | {minutes:.0f} min |")
    return "\n".join(lines)


def main() -> None:
    """Measure what was named, write the results, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, job in JOBS.items():
        if name == "forecast":
            parser.add_argument("--forecast", action="store_true", help=f"{job.text}; its prices come in a package")
        else:
            parser.add_argument(f"--{name}", help=job.text)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "benchmark")
    arguments = parser.parse_args()
    named = {name: getattr(arguments, name) for name in JOBS if getattr(arguments, name)}
    if not named:
        parser.error("name at least one data set")
    saved = ROOT / "benchmarks" / "results" / "tasks.json"
    results = json.loads(saved.read_text(encoding="utf-8"))["results"] if saved.is_file() else {}
    for name, data in named.items():
        if name == "text":
            data = articles(data, arguments.runs)
        results[name] = measure(name, data if isinstance(data, str) else None, arguments.runs / name)
    results = {name: results[name] for name in JOBS if name in results}
    write_results("tasks", {"results": results})
    sys.stdout.write(table(results) + "\n")


if __name__ == "__main__":
    main()
