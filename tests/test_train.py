"""Whole runs on the real model's first layers: training, continuing, two processes, early stopping, divergence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fingpt_lora import capability, checkpoints, runs, trainer
from fingpt_lora.batching import Collator
from fingpt_lora.errors import DivergenceError, RunError
from fingpt_lora.memory import activation_bytes, longest_batch
from fingpt_lora.plan import make_plan
from fingpt_lora.predict import Predictor, evaluate_file, predict_file
from fingpt_lora.recipe import load_recipe
from fingpt_lora.train import run_recipe
from fingpt_lora.trainer import LossWatch
from tests.conftest import tiny_examples, tiny_llama

ROOT = Path(__file__).parents[1]


@pytest.fixture
def overrides(small_base: Path, tmp_path: Path) -> list[str]:
    return [
        f"model.base={small_base}",
        "model.quantization=none",
        "model.dtype=float32",
        "adapter.r=4",
        "adapter.layers_to_transform=null",
        "task.language=auto",
        "data.limit=32",
        "training.per_device_train_batch_size=8",
        "training.learning_rate=0.003",
        "evaluation.bootstrap=100",
        f"output={tmp_path / 'run'}",
    ]


RECIPE = ROOT / "recipes" / "sentiment.yaml"


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = load_file(folder / "adapter" / "adapter_model.safetensors")
    return weights


def largest_difference(one: Path, other: Path) -> float:
    left, right = adapter(one), adapter(other)
    assert left.keys() == right.keys()
    return max((left[key] - right[key]).abs().max().item() for key in left)


def test_a_run_leaves_a_folder_that_can_be_used(overrides: list[str], tmp_path: Path, capsys: Any) -> None:
    folder = run_recipe(RECIPE, overrides)
    metrics = json.loads((folder / "metrics.json").read_text())
    for figure in ("accuracy", "weighted_f1", "macro_f1", "mcc", "ece", "brier"):
        assert 0 <= metrics["test"][figure] + (figure == "mcc") <= 2
    assert metrics["train"]["rows_per_second"] > 0 and metrics["train"]["seconds"] > 0
    assert metrics["baselines"].keys() == {"majority", "tfidf_logreg", "base_model"}
    assert metrics["test"]["rows"] == 32
    for name in ("README.md", "report.html", "recipe.yaml", "prompt_contract.json", "manifest.json"):
        assert (folder / name).stat().st_size > 100
    assert list((folder / "plots").glob("*.png")) and not (folder / "checkpoints").exists()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["state"] == "done" and manifest["licences"]["data"] == "cc0-1.0"
    assert "accuracy" in capsys.readouterr().out

    # The saved adapter says what the trained one said.
    predictor = Predictor.load(folder)
    sample = ROOT / "fingpt_lora" / "data" / "sample" / "sentiment.jsonl"
    rows = [json.loads(line) for line in sample.read_text(encoding="utf-8").splitlines()]
    test = tmp_path / "test.jsonl"
    held_out = [row for row in rows if row["split"] == "test"]
    kept = [held_out[place * len(held_out) // 32] for place in range(32)]  # as data.limit takes them
    test.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    again = evaluate_file(predictor, str(test))
    assert again["confusion_matrix"] == metrics["test"]["confusion_matrix"]
    assert again["nll"] == pytest.approx(metrics["test"]["nll"], abs=1e-4)

    # Predictions keep every row, in order, the unusable ones too.
    with test.open("a", encoding="utf-8") as stream:
        stream.write('{"text": ""}\nnot json\n')
    with (tmp_path / "out.jsonl").open("w", encoding="utf-8") as output:
        assert predict_file(predictor, str(test), output, "jsonl") == 34
    results = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [r["text"] for r in results[:32]] == [row["text"] for row in kept]
    assert all(sum(r["probabilities"].values()) == pytest.approx(1) for r in results[:32])
    assert [r["label"] for r in results[32:]] == [None, None] and all(r["error"] for r in results[32:])

    # The same command shows the result; another recipe does not overwrite it.
    assert run_recipe(RECIPE, overrides) == folder
    with pytest.raises(RunError, match="holds a run of another recipe"):
        run_recipe(RECIPE, [*overrides, "training.learning_rate=0.001"])


class Killed(BaseException):
    """Stands for a kill in the middle of training."""


@pytest.mark.parametrize("stacked", [False, True])
def test_a_killed_run_continues_to_the_same_adapter(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stacked: bool
) -> None:
    torch.set_num_threads(1)
    common = [*overrides, "training.save_steps=2", f"evaluation.base_model={str(stacked).lower()}"]
    if stacked:
        common += ["model.quantization=nf4"]
        below = run_recipe(RECIPE, [*common, "training.max_steps=1", f"output={tmp_path / 'below'}"])
        common += [f"model.adapters=['{below}']"]
    whole = run_recipe(RECIPE, [*common, f"output={tmp_path / 'whole'}"])
    baselines = json.loads((whole / "metrics.json").read_text())["baselines"]
    assert "base_model" not in baselines and ("earlier_adapters" in baselines) == stacked
    from fingpt_lora.callbacks import StepTimer

    begin = StepTimer.on_step_begin

    def die(self: StepTimer, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            raise Killed
        begin(self, args, state, control, **kwargs)

    stopped = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(StepTimer, "on_step_begin", die)
        with pytest.raises(Killed):
            run_recipe(RECIPE, [*common, f"output={stopped}"])
    checkpoint = runs.last_checkpoint(stopped)
    assert checkpoint is not None and checkpoint.name == "checkpoint-2"
    assert (checkpoint / "prompt_contract.json").is_file()
    with pytest.raises(RunError, match="is not finished"):
        runs.open_run(stopped)
    (checkpoint.parent / "checkpoint-4").mkdir()  # cut off while it was written
    assert 0 < json.loads((checkpoint / "seconds.json").read_text()) < 900
    (checkpoint / "seconds.json").write_text("1000.0")
    run_recipe(RECIPE, [*common, f"output={stopped}"])
    assert largest_difference(whole, stopped) < 1e-6
    assert 1000 < json.loads((stopped / "metrics.json").read_text())["train"]["seconds"] < 1900  # of both parts


def launch(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "accelerate.commands.launch", *arguments]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_two_processes_train_the_adapter_of_one(overrides: list[str], tmp_path: Path) -> None:
    common = [*overrides, "evaluation.base_model=false"]
    one = run_recipe(RECIPE, [*common, f"output={tmp_path / 'one'}"])
    two = tmp_path / "two"
    settings = [*common, "training.per_device_train_batch_size=4", f"output={two}"]
    result = launch(
        [
            "--config_file",
            "launch/ddp_cpu.yaml",
            "--num_processes",
            "2",
            "-m",
            "fingpt_lora.train",
            str(RECIPE),
            "--set",
            *settings,
        ]
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert json.loads((two / "manifest.json").read_text())["world_size"] == 2
    assert result.stdout.count("Run folder:") == 1  # only rank 0 speaks
    assert largest_difference(one, two) < 1e-4
    figures = [json.loads((folder / "metrics.json").read_text())["test"]["accuracy"] for folder in (one, two)]
    assert figures[0] == pytest.approx(figures[1], abs=0.05)


def test_a_users_mistake_under_the_launcher_is_a_sentence() -> None:
    result = launch(
        ["--config_file", "launch/cpu.yaml", "-m", "fingpt_lora.train", str(RECIPE), "--set", "training.lr=1"]
    )
    assert "error: --set training.lr=1: training.lr: unknown key" in result.stderr
    assert result.returncode != 0


def test_validation_stops_early_and_keeps_the_best(overrides: list[str]) -> None:
    folder = run_recipe(
        RECIPE,
        [
            *overrides,
            "data.validation_share=0.2",
            "data.limit=24",
            "training.eval_strategy=steps",
            "training.eval_steps=1",
            "training.num_train_epochs=20",
            "training.early_stopping_patience=1",
            "training.learning_rate=1e-9",  # nothing improves, so it stops at once
            "evaluation.base_model=false",
        ],
    )
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["train"]["steps"] <= 3


def test_divergence_names_step_rows_and_remedy_and_keeps_the_checkpoint(overrides: list[str], tmp_path: Path) -> None:
    with pytest.raises(DivergenceError) as caught:
        run_recipe(
            RECIPE,
            # Adam without its epsilon divides zero by zero: the first gradients of lora_A are zero.
            [*overrides, "training.adam_epsilon=0", "training.weight_decay=0", "training.lr_scheduler_type=constant",
             "training.save_steps=1", "evaluation.base_model=false"],
        )  # fmt: skip
    message = str(caught.value)
    assert "Training stopped at step" in message and "Rows of that batch:" in message
    assert "What is the sentiment" not in message.split("Rows")[0] and "learning_rate=0.0006" in message
    assert runs.last_checkpoint(tmp_path / "run") is not None


def test_the_watch_sees_numbers_that_are_none_and_losses_that_run_away() -> None:
    assert LossWatch().look(float("nan")) == "the loss is nan"
    watch = LossWatch()
    assert all(watch.look(3.0 * 0.9**step) is None for step in range(60))
    assert all(watch.look(4.0) is None for _ in range(3))  # a hard batch or three
    assert any(watch.look(50.0) for _ in range(60))


def test_generative_evaluation_reports_invalid_answers(overrides: list[str]) -> None:
    folder = run_recipe(RECIPE, [*overrides, "evaluation.mode=generate", "training.max_steps=1", "data.limit=8"])
    test = json.loads((folder / "metrics.json").read_text())["test"]
    assert 0 <= test["invalid_rate"] <= 1 and "ece" not in test


def test_an_epoch_of_padded_rows_trains_what_a_shared_prefix_trains(overrides: list[str], tmp_path: Path) -> None:
    common = [*overrides, "evaluation.base_model=false"]
    shared, length, padded = (
        run_recipe(RECIPE, [*common, f"training.batching={name}", f"output={tmp_path / name}"])
        for name in ("shared_prefix", "length", "padded")
    )
    # The same batches in the same order; unsorted rows make other batches.
    assert largest_difference(shared, length) < 1e-4 < largest_difference(shared, padded)
    one, other = (json.loads((folder / "metrics.json").read_text())["test"] for folder in (shared, length))
    assert one["confusion_matrix"] == other["confusion_matrix"]
    assert one["nll"] == pytest.approx(other["nll"], abs=1e-4)


def test_saved_memory_leaves_the_same_adapter(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    common = [*overrides, "data.limit=16", "evaluation.base_model=false"]
    plain = run_recipe(RECIPE, [*common, f"output={tmp_path / 'plain'}"])
    assert "gradient_checkpointing = False" in capfd.readouterr().err
    saving = run_recipe(RECIPE, [*common, "training.gradient_checkpointing=true", f"output={tmp_path / 'saving'}"])
    assert largest_difference(plain, saving) < 1e-4
    # Enough memory for one sequence, too little for padded rows, which this model turns out to need.
    plan = make_plan(load_recipe(RECIPE, common))
    config, lengths = checkpoints.read_config(plan.checkpoint), [len(row.ids) for row in plan.train]
    rows = plan.recipe.training["per_device_train_batch_size"]
    tokens = [longest_batch(lengths, rows, padded=padded) for padded in (False, True)]
    kept = [activation_bytes(config, n, number_bytes=4) or 0 for n in tokens]
    monkeypatch.setattr(trainer, "cannot_share", lambda *_: "as a test wants it")
    base = checkpoints.weights_bytes(plan.checkpoint)
    monkeypatch.setattr(capability, "_FULL", (base + sum(kept) / 2) / plan.machine.memory)
    capfd.readouterr()
    padded = run_recipe(RECIPE, [*common, f"output={tmp_path / 'padded'}"])
    said = capfd.readouterr().err
    assert said.index("gradient_checkpointing = False") < said.index("gradient_checkpointing = True")
    assert largest_difference(plain, padded) < 1e-4


def test_the_loss_of_long_answers_is_summed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = tiny_llama(), Collator(0, share_prefix=False)(tiny_examples(4, 8))

    def loss_and_gradients(at_once: int) -> tuple[float, torch.Tensor]:
        monkeypatch.setattr(trainer, "_AT_ONCE", at_once)
        model.zero_grad()
        loss, tokens = trainer.answer_loss(model, batch)
        assert tokens == 8
        loss.backward()
        return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    (whole, gradients), (parts, in_parts) = loss_and_gradients(8), loss_and_gradients(3)
    assert parts == pytest.approx(whole, rel=1e-6)
    torch.testing.assert_close(in_parts, gradients)


def test_a_forecast_stands_beside_its_controls(small_base: Path, tmp_path: Path, capfd: Any) -> None:
    """Point-in-time rows from the folder of a user's own prices and news, trained, evaluated and used."""
    pytest.importorskip("exchange_calendars")
    sessions = [f"2024-{month:02d}-{day:02d}" for month in (2, 3) for day in range(4, 29)]
    sessions = [day for day in sessions if date.fromisoformat(day).weekday() < 5 and day != "2024-02-19"]
    lines = [f"{day},{100 + 7 * (n % 3) + n}" for n, day in enumerate(sessions)]
    (tmp_path / "ACME.csv").write_text("Date,Close\n" + "\n".join(lines) + "\n")
    stories = [f"ACME,{day},Shipment {n} has left the plant" for n, day in enumerate(sessions)]
    (tmp_path / "news.csv").write_text("ticker,date,headline\n" + "\n".join(stories) + "\n")
    folder = run_recipe(
        ROOT / "recipes" / "forecast.yaml",
        [
            f"model.base={small_base}",
            "model.dtype=float32",
            "task.horizon=1",
            f"data.path={tmp_path / 'ACME.csv'}",
            f"data.market.news={tmp_path / 'news.csv'}",
            "data.market.every=1",
            "data.market.moves=2",
            "evaluation.bootstrap=100",
            f"output={tmp_path / 'run'}",
        ],
    )
    assert "Note: until when the base model's texts reach is not known" in capfd.readouterr().err
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["baselines"].keys() == {"majority", "tfidf_logreg", "persistence", "shuffled", "base_model"}
    assert metrics["test"]["rows"] == round(0.25 * (len(sessions) - 3))
    assert "Last move goes on" in (folder / "report.html").read_text(encoding="utf-8")
    (answer,) = Predictor.load(folder).predict(["ACME, 2024-04-01\nPast moves: +1.0%, -2.0%"])
    assert answer["label"] in ("down", "up") and sum(answer["probabilities"].values()) == pytest.approx(1)


def test_logs_go_to_tensorboard(overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    folder = run_recipe(
        RECIPE, [*overrides, "training.report_to=tensorboard", "data.limit=8", "evaluation.base_model=false"]
    )
    assert list(folder.rglob("events.out.tfevents.*"))


def test_a_text_may_report_several_events(small_base: Path, tmp_path: Path, capsys: Any) -> None:
    """From a user's own rows to label sets, with thresholds of their own, in a folder that can be used."""
    kinds = {
        "Profit": "Profit rose by {} per cent",
        "Debt": "Debt of {} million was repaid",
        "Deal": "It buys rival {}",
    }
    rows = []
    for number in range(60):
        own = [name for place, name in enumerate(kinds) if number >> place & 1]
        text = ". ".join(kinds[name].format(number) for name in own) or f"The board meets in room {number}"
        rows.append(json.dumps({"text": text, "events": own}))
    (tmp_path / "events.jsonl").write_text("\n".join(rows) + "\n")
    folder = run_recipe(
        ROOT / "recipes" / "events.yaml",
        [
            f"model.base={small_base}",
            "model.dtype=float32",
            "task.types=[Profit, Debt, Deal]",
            f"data.path={tmp_path / 'events.jsonl'}",
            "data.split.test=0.2",
            "data.validation_share=0.2",
            "training.eval_strategy=epoch",
            "training.learning_rate=0.002",
            "training.num_train_epochs=2",
            "evaluation.bootstrap=100",
            f"output={tmp_path / 'run'}",
        ],
    )
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["baselines"].keys() == {"majority", "tfidf_logreg", "base_model"}
    assert {"micro_f1", "macro_f1", "question_f1", "accuracy", "brier"} <= metrics["test"].keys()
    thresholds = json.loads((folder / "thresholds.json").read_text())
    assert thresholds == {label: own["threshold"] for label, own in metrics["test"]["per_class"].items()}
    assert "Micro-F1" in (folder / "report.html").read_text(encoding="utf-8") and "micro-F1" in capsys.readouterr().out
    predictor = Predictor.load(folder)
    (answer,) = predictor.predict(["Profit rose by 3 per cent. It buys rival 5"])
    assert answer["label"] == [label for label, share in answer["probabilities"].items() if share >= thresholds[label]]
    again = evaluate_file(predictor, str(tmp_path / "events.jsonl"))
    assert again["rows"] == 60 and again["per_class"]["Deal"]["threshold"] == thresholds["Deal"]
    with (tmp_path / "out.csv").open("w") as stream:
        assert predict_file(predictor, str(tmp_path / "events.jsonl"), stream, "csv") == 60
    assert ";" in (tmp_path / "out.csv").read_text() or "none" in (tmp_path / "out.csv").read_text()
    (folder / "thresholds.json").write_text("{}")
    with pytest.raises(RunError, match="does not tell from which probability"):
        Predictor.load(folder)
