"""What a run leaves for people is whole, safe to pass on, and says what the figures say."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard
from rich.console import Console

from fingpt_lora.atomic import write_json
from fingpt_lora.baselines import majority_baseline
from fingpt_lora.metrics import Predictions, classification_metrics, paired_bootstrap
from fingpt_lora.report import ReportContext, findings, summary_table, wording, write_html, write_plots, write_report

LABELS = ("negative", "neutral", "positive")
LABELS_7 = (
    "strong negative",
    "moderately negative",
    "mildly negative",
    "neutral",
    "mildly positive",
    "moderately positive",
    "strong positive",
)
LOG = [
    *({"step": s, "loss": 1 / s, "learning_rate": 1e-3 * (1 - s / 100)} for s in range(2, 101, 2)),
    {"step": 50, "eval_macro_f1": 0.7, "eval_runtime": 1.0},
    {"step": 100, "eval_macro_f1": 0.8},
    {"step": 100, "train_loss": 0.4},
]
EXAMPLE = "<script>alert(1)</script> 净利润大幅下滑 & more"


def predictions(
    rows: int, skill: float, labels: tuple[str, ...] = LABELS, *, scored: bool = True, invalid: float = 0.0
) -> Predictions:
    generator = np.random.default_rng(0)
    gold = generator.integers(len(labels), size=rows)
    logits = generator.normal(size=(rows, len(labels)))
    logits[np.arange(rows), gold] += skill
    logits *= skill if skill > 0 else 1  # the right posterior of shifted Gaussians: a skilled model is calibrated
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    answers: list[str | None] = [labels[i] for i in shares.argmax(axis=1)]
    answers[: round(invalid * rows)] = [None] * round(invalid * rows)
    return Predictions(labels, tuple(labels[i] for i in gold), tuple(answers), shares if scored else None)


def measured(
    rows: int = 400,
    skill: float = 3.0,
    labels: tuple[str, ...] = LABELS,
    *,
    scored: bool = True,
    invalid: float = 0.0,
) -> dict[str, Any]:
    own = predictions(rows, skill, labels, scored=scored, invalid=invalid)
    others = {
        "base_model": predictions(rows, -0.5, labels, scored=scored, invalid=4 * invalid),
        "tfidf_logreg": predictions(rows, 1.0, labels),
        "majority": majority_baseline(list(own.gold), list(own.gold), labels),
    }
    return {
        "test": classification_metrics(own),
        "baselines": {name: classification_metrics(other) for name, other in others.items()},
        "comparison": {name: paired_bootstrap(own, other) for name, other in others.items()},
        "train": {
            "rows_per_second": 14.2,
            "seconds": 512.0,
            "rows": 3634,
            "epochs": 2.0,
            "steps": 456,
            "final_loss": 0.24,
        },
    }


CONTEXT = ReportContext(
    name="phrasebank-r16",
    task="sentiment",
    recipe_yaml=f"data:\n  path: {Path.home()}/secret/news.csv\n",
    base_model="smollm2",
    base_licence="apache-2.0",
    data_licence="cc-by-nc-sa-3.0",
    audit={
        "rows": {
            "train": {"negative": 100, "neutral": 200, "positive": 150},
            "validation": {},
            "test": {"negative": 130, "neutral": 140, "positive": 130},
        },
        "bad_rows": ["news.csv:3: no text"],
        "duplicates": {"train_test_exact": 4, "train_test_normalised": 9, "within_train": 7, "within_test": 1},
        "contradictions": {"train": 3, "test": 0, "policy": "drop"},
        "warnings": [],
        "sources": {f"{Path.home()}/secret/news.csv": "9f86d081884c7d659a2feaa0c55ad015"},
        "something": "new",
    },
    examples={"negative": [EXAMPLE], "neutral": ["董事会会议将于下周三在上海召开。"], "positive": ["Sales rose."]},
    hardware={"name": "AMD EPYC 9R45", "cores": 2, "memory_gib": 15.3, "gpus": 0},
    versions={"torch": "2.13.0"},
    fingerprint="5f3a9c" * 10,
    filled=[("model.dtype", "bfloat16", "this CPU multiplies it in hardware")],
    languages=["en", "zh"],
)
BARE = ReportContext(name="x", task="sentiment", recipe_yaml="", base_model="/models/mine")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a report asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def rendered(table: Any, width: int = 80) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


@pytest.mark.usefixtures("no_network")
def test_a_run_folder_gets_plots_page_and_card_and_nothing_else(tmp_path: Path) -> None:
    paths = write_report(tmp_path, measured(), LOG, CONTEXT)
    names = {path.relative_to(tmp_path).as_posix() for path in paths}
    plots = {f"plots/{name}.png" for name in ("confusion_matrix", "reliability", "coverage", "training")}
    assert names == plots | {"report.html", "README.md"}
    assert {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()} == names
    for name in plots:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_the_same_figures_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_report(tmp_path / name, measured(), LOG, CONTEXT)
    for path in (tmp_path / "one").rglob("*"):
        if path.is_file() and path.name != "README.md":  # the card names the folder
            assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def test_figures_read_back_from_json_give_the_same_report(tmp_path: Path) -> None:
    labels = LABELS_7  # alphabetical order, which JSON files have, is not theirs
    metrics = measured(labels=labels)
    write_json(tmp_path / "metrics.json", metrics)
    read = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    for name, content in (("one", metrics), ("two", read)):
        (tmp_path / name).mkdir()
        write_html(tmp_path / name, content, CONTEXT)
    one, two = ((tmp_path / name / "report.html").read_text(encoding="utf-8") for name in ("one", "two"))
    assert one == two
    assert findings.labels(read) == list(labels)


@pytest.mark.parametrize("labels", [LABELS, LABELS_7])
@pytest.mark.parametrize(("scored", "invalid"), [(True, 0.0), (False, 0.1), (False, 0.25)])
def test_plots_are_drawn_for_what_was_measured(
    tmp_path: Path, labels: tuple[str, ...], scored: bool, invalid: float
) -> None:
    plots = write_plots(tmp_path, measured(60, labels=labels, scored=scored, invalid=invalid), [])
    expected = ["confusion_matrix", "reliability", "coverage"] if scored else ["confusion_matrix"]
    assert [path.stem for path in plots] == expected


@pytest.mark.parametrize(
    "log",
    [
        [{"step": 1, "loss": 0.5}],
        [{"step": 1, "loss": "0.5"}, {"step": 2, "loss": float("nan")}, {"loss": 1.0}, {"step": 3, "loss": None}],
        [{"step": s, "loss": 0.5, "learning_rate": 0.0} for s in range(30)],
        [{"step": 1, "loss": 0.5}, {"step": 1, "eval_accuracy": 0.5}],
    ],
)
def test_the_training_plot_takes_any_log(tmp_path: Path, log: list[dict[str, Any]]) -> None:
    assert [path.stem for path in write_plots(tmp_path, {}, log)] == ["training"]


def test_plots_use_no_global_state_of_matplotlib(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from fingpt_lora.report import write_plots\n"
        f"write_plots(pathlib.Path({str(tmp_path)!r}), {{}}, [{{'step': 1, 'loss': 1.0}}])\n"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    write_report(tmp_path, measured(), LOG, CONTEXT)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 4
    # Whatever a browser would fetch, apart from the embedded images.
    fetched = re.findall(r"(?:src|href|srcset|action)\s*=\s*[\"'](?!data:)|url\(|@import|<script|<link|<iframe", page)
    assert fetched == []


def test_the_page_shows_rows_per_label_as_text_and_where_all_comes_from(tmp_path: Path) -> None:
    write_html(tmp_path, measured(), CONTEXT)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)&lt;/script&gt; 净利润大幅下滑 &amp; more" in page
    for text in (
        "董事会会议将于下周三在上海召开。",
        CONTEXT.fingerprint,
        "this CPU multiplies it in hardware",
        "cc-by-nc-sa-3.0",
        "torch 2.13.0",
        "AMD EPYC 9R45, 2 cores, 15.3 GiB memory",
        "8 min 32 s",
        "not investment advice",
        "McNemar",
    ):
        assert text in page
    assert f"{Path.home()}/secret" not in page


def test_the_page_shows_languages_apart(tmp_path: Path) -> None:
    metrics = measured() | {"test_by_language": {"en": measured(50)["test"], "zh": measured(30)["test"]}}
    write_html(tmp_path, metrics, CONTEXT)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "By language" in page
    assert "English <small>50 rows" in page
    assert "Chinese <small>30 rows" in page


@pytest.mark.usefixtures("no_network")
def test_the_card_has_the_hubs_metadata_and_quotes_no_row(tmp_path: Path) -> None:
    metrics = measured()
    write_report(tmp_path, metrics, LOG, CONTEXT)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    card: Any = ModelCard(text)
    assert card.data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert card.data.library_name == "peft"
    assert card.data.language == ["en", "zh"]
    assert {"finance", "lora", "sentiment"} <= set(card.data.tags)
    assert card.data.model_name == CONTEXT.name
    figures = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert figures["Macro-F1"] == pytest.approx(metrics["test"]["macro_f1"], abs=1e-4)
    assert card.data.eval_results[0].dataset_name == "news.csv"
    for rows in CONTEXT.examples.values():
        assert not any(row in text for row in rows)
    assert f"{Path.home()}/secret" not in text
    assert "not investment" in text
    assert f"fingpt-lora predict {tmp_path.name} " in text
    assert "![Confusion matrix: right labels in rows, answers in columns](plots/confusion_matrix.png)" in text
    table = [line for line in text.splitlines() if line.startswith("| ") and "to 0." in line]
    assert [line.split(" | ")[0] for line in table] == [
        f"| {name}" for key, name in findings.NAMES.items() if key in {"test", *metrics["baselines"]}
    ]
    assert {line.count("|") for line in table} == {7}


@pytest.mark.parametrize(
    ("base", "data", "expected"),
    [
        ("apache-2.0", "cc0-1.0", ("apache-2.0", None)),
        ("llama3.1", "MIT", ("llama3.1", None)),
        ("apache-2.0", "CC BY-NC-SA 3.0", ("other", "base-apache-2.0-data-cc-by-nc-sa-3.0")),
        ("apache-2.0", None, ("other", "base-apache-2.0-data-not-stated")),
        (None, "cc0-1.0", ("other", "base-not-stated-data-cc0-1.0")),
    ],
)
def test_the_card_claims_no_licence_that_data_or_base_may_forbid(
    tmp_path: Path, base: str | None, data: str | None, expected: tuple[str, str | None]
) -> None:
    context = dataclasses.replace(CONTEXT, base_licence=base, data_licence=data)
    write_report(tmp_path, measured(50), LOG, context)
    card: Any = ModelCard((tmp_path / "README.md").read_text(encoding="utf-8"))
    assert (card.data.license, card.data.get("license_name")) == expected


@pytest.mark.parametrize(
    ("base", "hub_id", "name"),
    [
        ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
        ("/home/jane/models/mine", None, "mine"),
        ("./models", None, "models"),
        ("../models", None, "models"),
        ("mine", None, "mine"),
    ],
)
def test_a_local_base_model_is_not_passed_off_as_one_of_the_hub(base: str, hub_id: str | None, name: str) -> None:
    context = dataclasses.replace(CONTEXT, base_model=base)
    assert (context.base_hub_id, context.base_name) == (hub_id, name)


def test_hub_data_sets_are_named_in_the_card(tmp_path: Path) -> None:
    audit = {"sources": {"hub:owner/news[train]": "latest", "hub:owner/news[test]": "latest"}}
    write_report(tmp_path, measured(50), LOG, dataclasses.replace(CONTEXT, audit=audit))
    card: Any = ModelCard((tmp_path / "README.md").read_text(encoding="utf-8"))
    assert card.data.datasets == ["owner/news"]


@pytest.mark.parametrize("scored", [True, False])
def test_little_knowledge_is_enough(tmp_path: Path, scored: bool) -> None:
    metrics = {"test": classification_metrics(predictions(30, 2.0, scored=scored))}
    write_report(tmp_path, metrics, [], BARE)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "not stated" in page
    assert "None" not in page
    assert "This run" in rendered(summary_table(metrics))


def test_all_answers_invalid_is_reported_as_it_is(tmp_path: Path) -> None:
    metrics = {"test": classification_metrics(predictions(30, 2.0, scored=False, invalid=1.0))}
    write_report(tmp_path, metrics, [], BARE)
    assert "100.0\u00a0% of the answers are not a label" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("labels", [LABELS, LABELS_7])
@pytest.mark.parametrize(("scored", "invalid"), [(True, 0.0), (False, 0.0), (False, 0.1), (True, 0.1)])
def test_the_table_fits_eighty_columns(labels: tuple[str, ...], scored: bool, invalid: float) -> None:
    metrics = measured(300, labels=labels, scored=scored, invalid=invalid)
    wide, narrow = (rendered(summary_table(metrics, CONTEXT.audit, "[runs]/x"), width) for width in (200, 80))
    lines = [line.rstrip() for line in narrow.splitlines()]
    assert [line.rstrip() for line in wide.splitlines()] == lines  # nothing was cut or wrapped
    assert max(map(len, lines)) <= 80
    names = ["This run", "Untouched base", "TF-IDF + log. reg.", "Majority label"]
    assert [name for line in lines for name in names if line.startswith(name) or f" {name} " in line] == names
    assert "[runs]/x" in narrow
    assert "13 training rows were removed" in narrow
    assert ("ECE" in narrow) == (scored and not invalid)
    assert ("invalid" in narrow) == bool(invalid)


def test_a_base_with_earlier_adapters_is_not_called_untouched(tmp_path: Path) -> None:
    metrics = measured(300)
    for figures in (metrics["baselines"], metrics["comparison"]):
        figures["earlier_adapters"] = figures.pop("base_model")
    table = rendered(summary_table(metrics, CONTEXT.audit))
    assert max(map(len, table.splitlines())) <= 80 and "Base with the" in table and " earlier adapters " in table
    assert "points accuracy against the base with earlier adapters (" in table
    write_report(tmp_path, metrics, [], CONTEXT)
    page, card = ((tmp_path / name).read_text(encoding="utf-8") for name in ("report.html", "README.md"))
    for text in (page, card):
        assert "Base with the earlier adapters" in text and "points above the base with earlier adapters" in text
    assert not any("ntouched" in text for text in (table, page, card))


def test_cautions_say_what_stands_against_trust() -> None:
    def said(metrics: dict[str, Any], audit: dict[str, Any] | None = None, shortened: int = 0) -> str:
        return "\n".join(findings.cautions(metrics, audit or {}, shortened))

    assert said(measured(2000, 3.0)) == ""
    assert "not clearly better than TF-IDF + logistic regression" in said(measured(2000, 1.0))
    assert "worse than TF-IDF + logistic regression" in said(measured(2000, 0.2))
    assert "Only 60 test rows: accuracy is known to about ±" in said(measured(60))
    assert "Few test rows of: negative (" in said(measured(30))
    assert "up to 10.0\u00a0% errors remain possible" in said(measured(30, 20.0))
    assert "10.0\u00a0% of the answers are not a label" in said(measured(400, invalid=0.1))
    assert "Less than half is found of: " in said(measured(400, -0.5))
    assert "overconfident" in said(measured(400, -0.5))
    assert "40 of the 400 test rows repeat another one" in said(measured(), {"duplicates": {"within_test": 40}})
    assert "5 test texts carry several labels" in said(measured(), {"contradictions": {"test": 5}})
    assert "No training row is labelled 'x'." in said(measured(), {"warnings": ["no training row is labelled 'x'"]})
    assert "400 of 3,634 training articles were shortened" in said(measured(), {}, 400)


def test_differences_name_side_size_and_doubt() -> None:
    metrics = measured(400, 1.0)
    base, words, majority = findings.differences(metrics)
    assert re.fullmatch(r"[\d.]+ points above the untouched base model \(paired interval \+.+ to \+.+\)\.", base)
    assert "0.0 points above TF-IDF + logistic regression, which may be chance" in words
    assert "the majority label" in majority


@pytest.mark.parametrize(
    ("value", "shown"), [(0.12345, "0.123"), (-0.0001, "0.000"), (-0.5, "−0.500"), (None, "–"), (1, "1.000")]
)
def test_numbers_are_written_for_people(value: float | None, shown: str) -> None:
    assert wording.number(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(3.4, "3 s"), (59.4, "59 s"), (60, "1 min 00 s"), (512.3, "8 min 32 s"), (7290, "2 h 01 min")],
)
def test_durations_are_written_for_people(seconds: float, shown: str) -> None:
    assert wording.duration(seconds) == shown


def test_importing_the_report_loads_nothing_heavy() -> None:
    heavy = {"matplotlib", "jinja2", "huggingface_hub", "rich", "sklearn", "scipy", "torch"}
    code = f"import sys, fingpt_lora.report; print({heavy!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_warning_names_the_file_and_not_its_folders() -> None:
    warnings = ["'/home/someone/secret/a.csv' was read as gb18030; 1/2 of the rows at https://x.y/z"]
    said = " ".join(findings.cautions(measured(), {"warnings": warnings}))
    assert "'a.csv' was read as gb18030; 1/2 of the rows" in said and "https://x.y/z" in said and "someone" not in said


def test_shortened_articles_of_no_training_are_not_mentioned() -> None:
    without = {key: value for key, value in measured().items() if key != "train"}
    assert not any("shortened" in sentence for sentence in findings.cautions(without, {}, shortened=5))
