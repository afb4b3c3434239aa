"""The console command as a person uses it: real processes, real time, real messages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    code = "from fingpt_lora.cli import main; main()"
    environment = {**os.environ, "COLUMNS": "100", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def trained(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "small"
    settings = [
        f"model.base={small_base}", "model.quantization=none", "data.limit=8", "training.max_steps=1", "adapter.layers_to_transform=null",
        "evaluation.bootstrap=100", "evaluation.base_model=false", f"output={folder}",
    ]  # fmt: skip
    result = run("train", "recipes/sentiment.yaml", *(part for s in settings for part in ("--set", s)))
    assert result.returncode == 0, result.stderr
    return folder


def fastest(*arguments: str) -> float:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        assert run(*arguments).returncode == 0
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def test_help_answers_at_once() -> None:
    assert fastest("--help") < 1.0


def test_check_answers_soon_and_loads_no_torch(checkpoint: Path) -> None:
    assert fastest("check", "recipes/sentiment.yaml") < 2.5  # about a second where the machine has nothing else to do
    code = (
        "import sys; from fingpt_lora.cli import app; app(['check', 'recipes/sentiment.yaml'], standalone_mode=False);"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


def test_check_shows_what_would_happen(checkpoint: Path) -> None:
    result = run(
        "check", "recipes/sentiment.yaml", "--set", "data.limit=50", "adapter.r=8", "--set", "output=/nonexistent/x"
    )
    for words in (
        "learning_rate",
        "no GPU was found",
        "negative",
        "<|im_start|>assistant",
        "median",
        "steps",
        "anew",
        "  r: 8\n",
    ):
        assert words in result.stdout, words
    assert result.stderr == ""


def test_check_says_in_words_what_was_removed(checkpoint: Path, tmp_path: Path) -> None:
    texts = [f"Profit rose in week {week}." for week in range(8)]
    rows = [(text, "positive", "train") for text in (*texts, texts[0], texts[1].upper())]
    rows += [(texts[1], "positive", "test"), (texts[2], "positive", "train"), (texts[2], "negative", "train")]
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(["text,label,split", *map(",".join, rows)]), encoding="utf-8")
    shown = run("check", "recipes/sentiment.yaml", "--set", f"data.path={path}").stdout
    for words in (
        "1  Rows removed from training: the same text is held out for test or validation",
        "1  Rows removed from training: the same but for case",
        "2  Repeated rows removed from training",
        "1  Training texts under several labels (policy: drop)",
        "2  Rows of such texts removed from training",
    ):
        assert words in shown, words
    assert "Test texts under several labels" not in shown  # there are none
    assert "shortened  0 of 6 training rows" in shown


def test_texts_become_a_table(trained: Path) -> None:
    result = run("predict", str(trained), "Profit fell [sharply].", "净利润增长。")
    assert result.returncode == 0, result.stderr
    assert "Profit fell [sharply]." in result.stdout and "净利润增长。" in result.stdout
    assert any(label in result.stdout for label in ("negative", "neutral", "positive"))
    assert "Warning" not in result.stderr and "Traceback" not in result.stderr


def test_a_file_becomes_json_lines_or_csv(trained: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("text,other\nProfit fell.,1\n,2\nProfit rose.,3\n", encoding="utf-8")
    result = run("predict", str(trained), str(rows))
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["text"] for line in lines] == ["Profit fell.", None, "Profit rose."]
    assert sum(lines[0]["probabilities"].values()) == pytest.approx(1)
    output = tmp_path / "out.csv"
    assert run("predict", str(trained), str(rows), "--format", "csv", "--output", str(output)).returncode == 0
    header, *body = output.read_text(encoding="utf-8").splitlines()
    assert header == "row,text,label,probability_negative,probability_neutral,probability_positive,error"
    assert len(body) == 3


def test_evaluate_scores_a_labelled_file(trained: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "Profit fell.", "label": "negative"}\n' * 4, encoding="utf-8")
    figures = tmp_path / "figures.json"
    result = run("evaluate", str(trained), "--data", str(rows), "--output", str(figures))
    assert result.returncode == 0, result.stderr
    assert "accuracy" in result.stdout and json.loads(figures.read_text())["rows"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "nowhere.yaml"], "There is no recipe at 'nowhere.yaml'."),
        (["check", "recipes/sentiment.yaml", "--set", "model.bas=x"], "Did you mean 'base'?"),
        (["check", "recipes/sentiment.yaml", "--set", "data.path=nowhere.csv"], "nowhere.csv"),
        (["train", "recipes/sentiment.yaml", "--set", "model.base=./no-model"], "there is no folder './no-model'"),
        (["predict", "runs/nowhere", "text"], "There is no run folder 'runs/nowhere'"),
        (["evaluate", "recipes", "--data", "x.csv"], "is not a run folder"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("error: ") and message in result.stderr
    assert "Traceback" not in result.stderr


def test_the_schema_is_json() -> None:
    assert "properties" in json.loads(run("schema").stdout)
