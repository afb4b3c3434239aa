"""The benchmarks run, and count what they say they count. Their figures are not tested: they are measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import llamafactory, scaling, sentiment, tasks, training
from fingpt_lora.recipe import load_recipe
from tests.conftest import tiny_llama

ROOT = Path(__file__).parents[1]
SENTENCES = [
    ("Operating profit rose to EUR 13 mn from EUR 9 mn", "positive"),
    ("The company will publish its report on Tuesday", "neutral"),
    ("Sales fell by a fifth as orders dried up", "negative"),
]


@pytest.fixture
def phrasebank(tmp_path: Path) -> Path:
    path = tmp_path / "sentences.txt"
    lines = [f"{text} in week {week} .@{label}" for week in range(30) for text, label in SENTENCES]
    path.write_text("\n".join(lines) + "\n", encoding="latin-1")
    return path


@pytest.mark.slow
def test_every_side_trains_on_the_same_rows(phrasebank: Path, small_base: Path, tmp_path: Path) -> None:
    rows = training.row_sets(str(phrasebank), 44, tmp_path)
    assert max(map(len, rows["mixed"].read_text().splitlines())) > 400
    settings = {"model.base": small_base, "training.per_device_train_batch_size": 8, "model.dtype": "float32"}
    found = {side: training.measure(side, rows["phrasebank"], settings) for side in ("trl_tuned", "length", "fused")}
    for figures in found.values():
        assert figures["steps"] >= 3 and figures["rows_per_second"] > 0
        assert 0 < figures["share_of_matmul_peak"] < 1
        tokens = figures["tokens_per_second"] / figures["rows_per_second"]
        assert tokens == pytest.approx(found["fused"]["tokens_per_second"] / found["fused"]["rows_per_second"])
    text = training.table({"phrasebank": found})
    assert all(training.SIDES[side].text in text for side in found)


def test_llama_factory_is_given_the_same_tokens(phrasebank: Path, small_base: Path, tmp_path: Path) -> None:
    rows = training.row_sets(str(phrasebank), 44, tmp_path)["phrasebank"]
    plan = training.plan_of(rows, {"model.base": small_base})
    rendered = [
        "".join(f"<|im_start|>{one['role']}\n{one['content']}<|im_end|>\n" for one in conversation["messages"])
        for conversation in llamafactory.conversations(plan)
    ]
    assert [text.strip() for text in rendered] == [plan.encoder.text(example.ids).strip() for example in plan.train]


def test_the_vocabulary_of_all_positions_gives_the_same_logits() -> None:
    model = tiny_llama().eval()
    inputs = {"input_ids": torch.arange(8)[None], "logits_to_keep": torch.tensor([3, 5])}
    with torch.no_grad():
        kept = model(**inputs).logits
        training._compute_all_logits(model.get_base_model())
        torch.testing.assert_close(model(**inputs).logits, kept)


def test_what_must_be_computed_is_the_prefix_once_and_each_rest() -> None:
    batch = [[1, 2, 3, 4], [1, 2, 3, 5, 6], [1, 2, 3, 7]]
    # The last token of a row is only asked for.
    assert training._necessary_flops(batch, linear=10, adapter=0) == (3 + 0 + 1 + 0) * 4 * 10


def test_scaling_draws_what_was_measured(phrasebank: Path, tmp_path: Path) -> None:
    points = [("length", 64, 8), ("length", 128, 8), ("batch", 128, 1), ("batch", 128, 4)]
    results = [
        {"varied": varied, "length": length, "batch": batch, "side": side, "rows_per_second": 5.0}
        for varied, length, batch in points
        for side in scaling.COMPARED
    ]
    scaling.plot(results, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").stat().st_size > 10_000


def test_the_sentiment_table_gives_mean_and_spread() -> None:
    def outcome(accuracy: float) -> dict[str, object]:
        figures = dict.fromkeys(sentiment.FIGURES, accuracy)
        return {"test": figures, "train": {"seconds": 60.0}, "baselines": {"majority": dict.fromkeys(figures, 0.5)}}

    text = sentiment.table({"tfns": [outcome(0.8), outcome(0.9)]})
    assert "| TFNS | **this recipe** | 2 | 0.850 ± 0.071 |" in text and "| majority class | 1 | 0.500 |" in text


def test_the_table_of_tasks_shows_the_figure_of_each() -> None:
    def outcome(figure: str) -> dict[str, object]:
        return {
            "test": {figure: 0.75},
            "majority": {figure: 0.5},
            "interval": [0.7, 0.8],
            "rows": {"train": 1000, "test": 200},
            "train": {"seconds": 120.0},
        }

    results = {name: outcome(job.figure) for name, job in tasks.JOBS.items()}
    results["stocknet"] |= {"persistence": {"accuracy": 0.49}, "shuffled": {"accuracy": 0.51}}
    head, _, *rows = tasks.table(results).splitlines()
    assert head == (
        "| data | train / test rows | figure | this recipe | majority | last move goes on | TF-IDF, shuffled labels | "
        "training |"
    )
    assert len(rows) == len(tasks.JOBS)
    sentifm = "| SentiFM, 10 event types | 1,000 / 200 | micro F1 | **0.750** (0.70 to 0.80) | 0.500 |  |  | 2 min |"
    assert sentifm in rows
    assert "| 0.500 | 0.490 | 0.510 | 2 min |" in rows[list(tasks.JOBS).index("stocknet")]


@pytest.mark.parametrize("name", list(tasks.JOBS))
def test_every_job_is_a_recipe_with_fitting_settings(name: str) -> None:
    job = tasks.JOBS[name]
    load_recipe(ROOT / "recipes" / f"{job.recipe}.yaml", job.settings)


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").glob("*.json")), ids=lambda path: path.stem)
def test_results_name_their_origin(path: Path) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["hardware"]["name"] and content["versions"]["torch"]
    assert content["commit"] not in ("", "unknown")
