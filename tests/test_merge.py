"""A merged model answers as the trained one does, or is not kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from typer.testing import CliRunner

from fingpt_lora import Chat, merge_weights, runs
from fingpt_lora import merge as merging
from fingpt_lora import model as models
from fingpt_lora.cli import app
from fingpt_lora.combination import Combination
from fingpt_lora.errors import FingptLoraError, MergeError, RunError
from fingpt_lora.merge import merge
from fingpt_lora.merge_weights import Adapters, Weights, in_shards, weights_in, write_shards
from fingpt_lora.predict import Predictor
from fingpt_lora.proof import Answered, Trained
from fingpt_lora.recipe import parse_recipe
from fingpt_lora.train import run_recipe
from tests.conftest import TEXTS, Train

# Gently enough for what an adapter adds to be smaller than the steps of four bits.
NF4 = ("model.quantization=nf4", "model.dtype=auto", "training.max_steps=20", "training.learning_rate=0.001")


@pytest.fixture(scope="module")
def quantized(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that tells rises from falls, and answers otherwise without its adapter."""
    rows = [{"text": f"Profit rose by {i} %", "label": "positive"} for i in range(24)]
    rows += [{"text": f"Loss widened by {i} %", "label": "negative"} for i in range(24)]
    path = tmp_path_factory.mktemp("rows") / "moves.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = [f"data.path={path}", "data.split={method: random, test: 0.5}", "data.limit=null"]
    return train("sentiment", "quantized", *NF4, *data)


@pytest.fixture(scope="module")
def sentiment(train: Train) -> Path:
    return train("sentiment", "sentiment")


def test_a_quantized_run_merges_into_what_it_was_trained_on(quantized: Path, tmp_path: Path) -> None:
    output = tmp_path / "merged"
    report = merge([quantized], output)
    plain, dequantized = (report["candidates"][name]["tasks"]["quantized"] for name in ("plain", "dequantized"))
    assert report["kept"] == "dequantized" and dequantized["mean_drift"] < plain["mean_drift"]
    assert dequantized["kept"] >= 0.97 and dequantized["max_drift"] >= dequantized["mean_drift"] > 0
    assert json.loads((output / "merge_report.json").read_text("utf-8"))["kept"] == "dequantized"
    assert not list(output.glob("plain")) and not list(output.glob("dequantized"))

    # It is a run like any other ...
    trained, merged = Predictor.load(quantized), Predictor.load(output)
    assert merged.run.merged and merged.run.weights == output and merged.run.contract == trained.run.contract
    for own, one in zip(merged.predict(TEXTS), trained.predict(TEXTS), strict=True):
        assert own["probabilities"] == pytest.approx(one["probabilities"], abs=0.15)
    with pytest.raises(RunError, match="its base is a part of it"):
        Chat(output).base(TEXTS[0])
    assert runs.state_of(output / "tasks", "") == "new"
    with pytest.raises(RunError, match="another recipe"):
        runs.state_of(output, trained.run.manifest["fingerprint"])
    with pytest.raises(RunError, match="merged already"):
        merge([output], tmp_path / "again")

    # ... and a checkpoint like any other.
    model = AutoModelForCausalLM.from_pretrained(output, local_files_only=True)
    assert model.dtype == torch.bfloat16 and getattr(model.config, "quantization_config", None) is None
    tokenizer = AutoTokenizer.from_pretrained(output, local_files_only=True)
    assert tokenizer.chat_template
    config = GenerationConfig.from_pretrained(output)
    stops = config.eos_token_id
    assert (stops if isinstance(stops, list) else [stops]) == list(merged.run.contract.stop_ids)
    assert config.pad_token_id == merged.run.contract.pad_id and not config.do_sample
    card = ModelCard.load(output / "README.md")
    assert card.data.library_name == "transformers" and "(**kept**)" in card.text and str(tmp_path) not in card.content


def lost(weights: Weights, adapters: Adapters, folder: Path, dtype: torch.dtype) -> None:
    adapters._modules.clear()
    write_shards(weights, adapters, folder, dtype)


def test_a_merge_that_loses_the_adapter_is_found_out(
    sentiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "write_shards", lost)
    with pytest.raises(MergeError, match=r"keeps .* of the answers, and 97\.0% are asked for") as error:
        merge([sentiment], tmp_path / "merged")
    assert error.value.exit_code == 3 and not list(tmp_path.iterdir())


def test_a_merge_into_four_bits_is_found_out(quantized: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def into_four_bits(weights: Weights, adapters: Adapters, folder: Path, dtype: torch.dtype) -> None:
        trained: Any = Predictor.load(quantized, merge=False).model
        rounded = Weights(Path(models.find_checkpoint(run.recipe.model.base)), weights_in(
            trained.merge_and_unload(), all_of_them=False))  # fmt: skip
        lost(rounded, adapters, folder, dtype)

    run = runs.open_run(quantized)
    monkeypatch.setattr(merging, "write_shards", into_four_bits)
    with pytest.raises(MergeError, match="has lost what was trained"):
        merge([quantized], tmp_path / "merged")
    assert not list(tmp_path.iterdir())


ADAPTERS = {
    "lora": "r: 4, target_modules: all-linear, init_lora_weights: false",
    "rslora": "r: 4, target_modules: [q_proj, down_proj], init_lora_weights: false, use_rslora: true",
    "dora": "r: 4, target_modules: [q_proj, down_proj], init_lora_weights: false, use_dora: true",
    "ranks": "r: 4, target_modules: [q_proj, v_proj], init_lora_weights: false, rank_pattern: {q_proj: 2}",
    "ia3": "peft_type: IA3, target_modules: [k_proj, down_proj], feedforward_modules: [down_proj], init_ia3_weights: false",
    "loha": "peft_type: LOHA, r: 4, target_modules: [q_proj], init_weights: false",
}


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_module_by_module_is_what_peft_merges_as_a_whole(adapter: str, small_base: Path, tmp_path: Path) -> None:
    recipe = parse_recipe(
        f"model: {{base: {small_base}, quantization: none, dtype: float32, attn_implementation: eager}}\n"
        f"adapter: {{{ADAPTERS[adapter]}}}\ndata: {{limit: 8}}"
    )
    base = models.load_base(recipe.model, small_base, device="cpu")
    adapted = models.attach_adapter(base, recipe)
    models.save_trained(adapted, tmp_path, recipe)
    weights, adapters = Weights(small_base, {}), Adapters(small_base, [tmp_path / "adapter"])
    assert in_shards(tmp_path / "adapter") and adapters.fit(weights)
    write_shards(weights, adapters, tmp_path, torch.float32)
    found = Weights(tmp_path, {})
    whole = adapted.merge_and_unload().state_dict()
    for name in found:
        assert torch.allclose(found[name], whole[name], atol=1e-5), name
    changed = [name for name in found if not torch.equal(found[name], weights[name])]
    assert changed and set(found) == set(weights)


def test_a_sum_of_adapters_of_other_ranks_and_modules_is_their_sum(small_base: Path, tmp_path: Path) -> None:
    chosen = {
        "one": "r: 4, target_modules: [q_proj, v_proj], use_rslora: true",
        "two": "r: 8, lora_alpha: 2, target_modules: [q_proj, down_proj], use_rslora: true",
    }
    weights = Weights(small_base, {})
    changes: dict[str, torch.Tensor] = {}
    for (name, fields), factor in zip(chosen.items(), (0.7, -0.4), strict=True):
        recipe = parse_recipe(
            f"model: {{base: {small_base}, quantization: none, dtype: float32, attn_implementation: eager}}\n"
            f"adapter: {{{fields}, init_lora_weights: false}}\ndata: {{limit: 8}}"
        )
        adapted = models.attach_adapter(models.load_base(recipe.model, small_base, device="cpu"), recipe)
        models.save_trained(adapted, tmp_path / name, recipe)
        for key, tensor in adapted.merge_and_unload().state_dict().items():
            if key in weights and not torch.equal(tensor, weights[key]):
                changes[key] = changes.get(key, 0) + factor * (tensor - weights[key])
    adapters = Adapters(small_base, [tmp_path / "one" / "adapter", tmp_path / "two" / "adapter"])
    adapters.combine((0.7, -0.4), "cat", None)
    found = dict(adapters.added_to(weights, list(weights)))
    assert len(changes) == 6
    for key, tensor in found.items():
        assert torch.allclose(tensor, weights[key] + changes.get(key, torch.zeros(())), atol=1e-5), key


def test_shards_hold_together_what_one_file_holds(
    sentiment: Path, small_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = [runs.open_run(sentiment).weights]
    (tmp_path / "one").mkdir()
    (tmp_path / "many").mkdir()
    write_shards(Weights(small_base, {}), Adapters(small_base, adapter), tmp_path / "one", torch.bfloat16)
    monkeypatch.setattr(merge_weights, "_SHARD", "2MB")
    write_shards(Weights(small_base, {}), Adapters(small_base, adapter), tmp_path / "many", torch.bfloat16)
    one, many = Weights(tmp_path / "one", {}), Weights(tmp_path / "many", {})
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 3
    assert set(one) == set(many) and all(torch.equal(one[name], many[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ("adapter.init_lora_weights=pissa",),
        ("adapter.init_lora_weights=olora",),
        ("adapter.modules_to_save=[norm]",),
        ("adapter.bias=all",),
        ("adapter={peft_type: ia3, target_modules: [k_proj, v_proj, down_proj], feedforward_modules: [down_proj]}",),
    ],
)
def test_adapters_that_change_their_base_merge_too(overrides: Sequence[str], train: Train, tmp_path: Path) -> None:
    folder = train("sentiment", "changed", *overrides)
    report = merge([folder], tmp_path / "merged", dtype="float32")
    (found,) = report["candidates"].values()
    assert found["tasks"]["changed"]["agreement"] == 1 and found["tasks"]["changed"]["max_drift"] < 1e-3


@pytest.mark.slow
def test_earlier_adapters_are_merged_with_it(sentiment: Path, train: Train, tmp_path: Path) -> None:
    below = f"model.adapters=['{sentiment}']"
    for name, overrides, drift in [("plain", (below,), 1e-3), ("stacked", (below, *NF4), 0.5)]:
        report = merge([train("sentiment", name, *overrides)], tmp_path / name, dtype="float32", agreement=0.9)
        assert report["candidates"][report["kept"]]["tasks"][name]["max_drift"] < drift


def test_a_classification_head_is_merged_in_memory(train: Train, tmp_path: Path) -> None:
    folder = train("sentiment_bert", "bert", "model.base=minilm", "adapter={r: 4, target_modules: [query, value]}")
    report = merge([folder], tmp_path / "merged", dtype="float32")
    assert report["candidates"]["plain"]["tasks"]["bert"]["max_drift"] < 1e-3
    answers = zip(
        Predictor.load(tmp_path / "merged").predict(TEXTS), Predictor.load(folder).predict(TEXTS), strict=True
    )
    for merged, trained in answers:
        assert merged["probabilities"] == pytest.approx(trained["probabilities"], abs=1e-4)


def test_several_adapters_by_their_weights(sentiment: Path, events: Path, tmp_path: Path) -> None:
    # The whole of one and nothing of the other is the one.
    report = merge(
        [sentiment, events], tmp_path / "one", combination=Combination((1.0, 0.0)), dtype="float32", agreement=0
    )
    own = report["candidates"]["plain"]["tasks"]
    assert own["sentiment"]["max_drift"] < 1e-3 < own["events"]["max_drift"]
    task = tmp_path / "one" / "tasks" / "sentiment"
    trained, merged = Predictor.load(sentiment), Predictor.load(task)
    assert merged.predict(TEXTS) == [
        {**one, "probabilities": pytest.approx(one["probabilities"], abs=1e-4)} for one in trained.predict(TEXTS)
    ]
    assert Chat(task, tmp_path / "one" / "tasks" / "events").names == ("sentiment", "events")
    with pytest.raises(RunError, match="has learned several tasks; name one of them"):
        Predictor.load(tmp_path / "one")
    assert "cat" in (tmp_path / "one" / "README.md").read_text("utf-8")
    report = merge(
        [sentiment, events], tmp_path / "ties", combination=Combination((1.0, 1.0), "dare_ties", 0.5), agreement=0
    )
    assert report["combination"] == {"weights": (1.0, 1.0), "method": "dare_ties", "density": 0.5}
    with pytest.raises(MergeError, match="The adapters disturb each other"):
        merge([sentiment, events], tmp_path / "bad", combination=Combination((0.0, 0.0)))
    assert not (tmp_path / "bad").exists()


@pytest.mark.slow
def test_a_mixture_is_merged_with_a_proof_of_every_task(small_base: Path, tmp_path: Path) -> None:
    common = "data: {limit: 8}\nevaluation: {base_model: false, bootstrap: 100}\n"
    (tmp_path / "three.yaml").write_text(f"task: {{labels: 3}}\n{common}", "utf-8")
    (tmp_path / "chosen.yaml").write_text(
        "task: {name: choice, question: 'Which way?', choices: {positive: up, negative: down, neutral: flat}}\n"
        + common,
        "utf-8",
    )
    (tmp_path / "mix.yaml").write_text(
        "mixture: {tasks: {three: {recipe: three.yaml}, chosen: {recipe: chosen.yaml}}}\n"
        f"model: {{base: '{small_base}', quantization: none, dtype: float32}}\n"
        f"adapter: {{r: 4, target_modules: [q_proj]}}\ntraining: {{max_steps: 2}}\noutput: {tmp_path}/mixed",
        "utf-8",
    )
    report = merge([run_recipe(tmp_path / "mix.yaml")], tmp_path / "merged", dtype="float32")
    tasks = report["candidates"]["plain"]["tasks"]
    assert len(tasks) > 1 and all(own["max_drift"] < 1e-2 for own in tasks.values())
    for name in tasks:
        assert Predictor.load(tmp_path / "merged" / "tasks" / name).predict(TEXTS[:1])


@pytest.mark.slow
def test_written_answers_and_raw_text_are_proved_too(train: Train, tmp_path: Path) -> None:
    rows = [{"text": f"Bank {i} lends.", "entities": [{"type": "ORG", "text": f"Bank {i}"}]} for i in range(8)]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    split = "data.split={method: random, test: 0.5, seed: 1}"
    for recipe in ("entities", "text"):
        folder = train(recipe, recipe, f"data.path={data}", split)
        report = merge([folder], tmp_path / recipe, dtype="float32", rows=4)
        assert report["candidates"]["plain"]["tasks"][recipe]["max_drift"] < 1e-3
    assert report["trained"]["text"]["accuracy"] is None


def answered(said: Sequence[Any], log_probs: Any) -> Answered:
    return Answered(said, np.log(np.array(log_probs)), [True] * len(said), 0.0)


def test_agreement_is_that_of_whole_answers() -> None:
    one = answered(["a", None, ("x", "y")], [[0.5], [0.5], [0.25]])
    other = answered(["a", "b", ("y", "x")], [[0.5], [0.25], [0.25]])
    found = Trained(one, one, ("a",), None).compare(other)
    assert found.agreement == found.kept == pytest.approx(2 / 3)
    assert (found.max_drift, found.mean_drift) == pytest.approx((np.log(2), np.log(2) / 3))


def test_probability_moves_from_label_to_label_or_between_yes_and_no() -> None:
    before, after = [[0.9, 0.1], [0.6, 0.4]], [[0.7, 0.3], [0.6, 0.4]]
    own = answered(["a", "a"], before)
    found = Trained(own, own, ("a", "b"), None).compare(answered(["a", "a"], after))
    assert (found.agreement, found.moved) == pytest.approx((1, 0.1))  # a fifth of the first row, none of the second
    own = answered([("a",), ("a",)], before)
    found = Trained(own, own, ("a", "b"), np.array([0.5, 0.5])).compare(answered([("a",), ("a",)], after))
    assert found.moved == pytest.approx((0.2 + 0.2) / 4)
    own = answered(["x"], [0.8, 0.5])  # two tokens
    assert Trained(own, own, (), None).compare(answered(["x"], [0.6, 0.5])).moved == pytest.approx(0.1)


def test_answers_alone_do_not_prove_a_merge() -> None:
    def found(moved: float) -> dict[str, Any]:
        return {"tasks": {"one_sided": {"kept": 1.0, "moved": moved, "mean_drift": moved}}}

    with pytest.raises(MergeError, match=r"keeps the answers, but 30\.0% of their probability .*, and 10\.0% may"):
        merging._check_kept(found(0.3), {"one_sided": 0.97}, [])
    merging._check_kept(found(0.3), {"one_sided": 0.6}, [])  # so much was allowed
    merging._check_kept(found(0.05), {"one_sided": 0.97}, [])
    with pytest.raises(MergeError):
        merging._check_kept(found(float("nan")), {"one_sided": 0.97}, [])


def test_what_the_trained_model_does_not_keep_itself_is_not_asked_for() -> None:
    first = answered(["a", "a", "a", "b"], [[0.51, 0.49], [0.9, 0.1], [0.6, 0.4], [0.1, 0.9]])
    second = answered(["b", "a", "a", "b"], [[0.49, 0.51], [0.9, 0.1], [0.6, 0.4], [0.1, 0.9]])
    trained = Trained(first, second, ("a", "b"), None)
    assert trained.noise == pytest.approx(np.log(0.51 / 0.49))
    assert trained.agreement(["b", "a", "a", "b"]) == (0.75, 0.25)  # as undecided as the model itself
    assert trained.agreement(["a", "a", "b", "b"]) == (0.75, 0.0)  # decided, and lost
    assert trained.agreement([None, "b", "b", "a"]) == (0.0, 0.0)
    several = Trained(
        answered([("a",), ()], [[0.52, 0.1], [0.2, 0.49]]),
        answered([("a",), ()], [[0.55, 0.1], [0.2, 0.49]]),
        ("a", "b"),
        np.array([0.5, 0.5]),
    )
    assert several.agreement([(), ("b",)]) == (0.0, 1.0) and several.agreement([("a", "b"), ("a",)]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{s}", "{e}"], "name the folder of the result: --output DIR"),
        (["{s}", "{e}", "--output", "{o}"], "2 runs need a weight each"),
        (["{s}", "{e}", "--output", "{o}", "--weight", "1"], "1 is given"),
        (["{s}", "{s}", "--output", "{o}", "--weight", "1", "--weight", "1"], "are called 'sentiment'"),
        (["{s}", "--weight", "1"], "belong to several runs"),
        (["{s}", "{e}", "--output", "{o}", "--method", "tie"], "no 'tie'. Did you mean 'ties'?"),
        (["{s}", "{e}", "--output", "{o}", "--weight=1", "--weight=1", "--method=ties"], "needs --density"),
        (["{s}", "{e}", "--output", "{o}", "--weight=1", "--weight=1", "--density=0.5"], "takes no --density"),
        (["{s}", "--output", "{s}"], "exists already; it is not overwritten"),
        (["{s}", "--data", "nowhere.csv", "--output", "{o}"], "nowhere.csv"),
        (["{o}"], "There is no run folder"),
        (["{full}", "--output", "{o}"], "is a whole model, and there is no adapter to merge"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: Sequence[str], message: str, sentiment: Path, events: Path, full: Path, tmp_path: Path
) -> None:
    names = {"s": sentiment, "e": events, "o": tmp_path / "merged", "full": full}
    with pytest.raises(FingptLoraError, match=".") as error:
        CliRunner().invoke(
            app, ["merge", *(one.format(**names) for one in arguments)], standalone_mode=False, catch_exceptions=False
        )
    assert message in str(error.value) and error.value.exit_code == 2 and not (tmp_path / "merged").exists()


@pytest.fixture(scope="module")
def full(train: Train) -> Path:
    return train("sentiment", "full", "adapter={peft_type: none}")
