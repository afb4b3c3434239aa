"""The BERT way, on a real BertModel that a package ships, and on the embedded causal model's first layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fingpt_lora import checkpoints
from fingpt_lora.classifier import ClassCollator, class_loss, score_classes
from fingpt_lora.contract import PromptContract, load_tokenizer, make_contract
from fingpt_lora.errors import ModelError, RecipeError
from fingpt_lora.model import load_base
from fingpt_lora.plan import make_plan
from fingpt_lora.predict import Predictor
from fingpt_lora.prompts import PromptEncoder
from fingpt_lora.recipe import load_recipe
from fingpt_lora.sections import ModelSection
from fingpt_lora.tasks import SentimentTask
from fingpt_lora.tasks.event import event_task
from fingpt_lora.train import run_recipe
from tests.conftest import EVENTS, LABELS, TEXTS

RECIPE = Path(__file__).parents[1] / "recipes" / "sentiment_bert.yaml"
SECTION = ModelSection(base="minilm", head="classification", quantization="none", dtype="float32")


@pytest.fixture(scope="module")
def minilm() -> Path:
    return checkpoints.find_checkpoint("minilm", writes=False)


def encoder_of(task: Any, checkpoint: Path, limit: int = 128) -> PromptEncoder:
    contract = make_contract(task, checkpoint, template="bare", system=None, max_length=limit)
    return PromptEncoder(contract, load_tokenizer(checkpoint), task)


def bert(labels: tuple[str, ...], minilm: Path) -> Any:
    return load_base(SECTION.model_copy(update={"attn_implementation": "sdpa"}), minilm, device="cpu", labels=labels)


def test_a_text_stands_between_the_tokenizers_own_tokens(minilm: Path) -> None:
    from transformers import AutoTokenizer

    encoder = encoder_of(SentimentTask(3), minilm, limit=24)
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    for text in (*TEXTS, "word " * 100, "a [SEP] inside"):
        own = encoder.prompts([text])[0]
        expected = tokenizer(text, truncation=True, max_length=24)["input_ids"]
        if "[SEP]" in text:
            assert own.ids.count(tokenizer.sep_token_id) == 1  # what a story says stays text
        else:
            assert own.shortened == (len(tokenizer(text)["input_ids"]) > 24)
            assert own.ids[:8] == expected[:8] and own.ids[-1] == expected[-1] and len(own.ids) <= 24


def test_the_answer_is_a_class_or_yes_and_no_for_each(minilm: Path) -> None:
    single, several = (
        encoder_of(SentimentTask(3), minilm),
        encoder_of(event_task(["Profit", "Debt", "ShareRepurchase"], "en"), minilm),
    )
    assert [e.labels for e in single.examples(TEXTS, LABELS)] == [[2], [1], [0], [0], [1], [2]]
    assert [e.labels for e in several.examples(TEXTS[:3], EVENTS[:3])] == [[1, 0, 0], [0, 0, 0], [1, 1, 0]]


@pytest.mark.parametrize("task", [SentimentTask(3), event_task(["Profit", "Debt", "ShareRepurchase"], "en")])
def test_padding_changes_neither_loss_nor_score(minilm: Path, task: Any) -> None:
    encoder = encoder_of(task, minilm)
    model = bert(task.labels, minilm)
    examples = encoder.examples(TEXTS, EVENTS if task.several else LABELS)
    rows = [{"input_ids": e.ids, "labels": e.labels} for e in examples]
    collate = ClassCollator(encoder.contract.pad_id, task.several)
    with torch.no_grad():
        together, answers = class_loss(model, collate(rows))
        apart = [class_loss(model, collate([row])) for row in rows]
    assert answers == sum(n for _, n in apart) == len(TEXTS) * (3 if task.several else 1)
    assert together.item() == pytest.approx(sum(loss.item() for loss, _ in apart), rel=1e-5)
    scores = score_classes(model, encoder, TEXTS, batch_size=4)
    alone = np.concatenate([score_classes(model, encoder, [text]) for text in TEXTS])
    np.testing.assert_allclose(scores, alone, atol=1e-5)
    if task.several:
        assert (scores < 0).all()
    else:
        np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1)
        said = [scores[i, task.labels.index(label)] for i, label in enumerate(LABELS)]
        assert -sum(said) == pytest.approx(together.item(), rel=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(["training.learning_rate=2e-4"], id="whole"),
        pytest.param(
            ["adapter={r: 8, lora_alpha: 16}", "training.learning_rate=2e-3"], id="lora", marks=pytest.mark.slow
        ),
    ],
)
def test_a_classifier_is_trained_saved_and_used(tmp_path: Path, settings: list[str]) -> None:
    adapter = len(settings) > 1
    common = ["data.limit=200", "training.num_train_epochs=5", "evaluation.bootstrap=100", "model.dtype=float32"]
    folder = run_recipe(RECIPE, [*common, *settings, f"output={tmp_path / 'run'}"])
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["baselines"].keys() == {"majority", "tfidf_logreg"}  # an untrained head says nothing
    assert metrics["train"]["batching"] == "length"
    assert metrics["test"]["accuracy"] > metrics["baselines"]["majority"]["accuracy"]
    saved = folder / ("adapter/adapter_model.safetensors" if adapter else "model/model.safetensors")
    assert saved.is_file()
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert ("A LoRA adapter and classification head for" if adapter else "A fine-tuned copy of") in card
    predictor = Predictor.load(folder)
    test = make_plan(load_recipe(RECIPE, [*common, *settings])).splits.test
    answers = predictor.predict([row.text for row in test])
    right = sum(answer["label"] == row.label for answer, row in zip(answers, test, strict=True))
    assert right / len(test) == pytest.approx(metrics["test"]["accuracy"])


def test_a_causal_model_bears_a_head_too(small_base: Path, tmp_path: Path) -> None:
    settings = [
        f"model.base={small_base}",
        "model.dtype=float32",
        "adapter={r: 4}",
        "data.limit=32",
        "evaluation.bootstrap=100",
    ]
    folder = run_recipe(RECIPE, [*settings, "training.num_train_epochs=1", f"output={tmp_path / 'run'}"])
    (answer,) = Predictor.load(folder).predict(["Profit rose."])
    assert sum(answer["probabilities"].values()) == pytest.approx(1)
    assert PromptContract.load(folder).template == "bare"


def test_weights_that_a_checkpoint_lacks_come_from_the_seed(tmp_path: Path, capfd: Any) -> None:
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=50, **sizes), add_pooling_layer=False).save_pretrained(tmp_path)
    capfd.readouterr()
    loaded: list[Any] = []
    section = SECTION.model_copy(update={"attn_implementation": "sdpa"})
    for seed in (1, 1, 2):
        torch.rand(1)  # what was drawn before does not matter
        loaded.append(load_base(section, tmp_path, device="cpu", labels=("up", "down"), seed=seed))
    one, again, other = ([m.bert.pooler.dense.weight, m.classifier.weight] for m in loaded)
    assert all(map(torch.equal, one, again)) and not any(map(torch.equal, one, other))
    assert one[0].std() > 0.01 and capfd.readouterr() == ("", "")


def test_what_cannot_be_together_is_said(minilm: Path) -> None:
    for settings, message in (
        (["evaluation.mode=generate"], "a classification head writes nothing"),
        (["adapter.r=8"], "peft_type: none trains the whole model"),
        (["training.batching=shared_prefix"], "no prefix is shared"),
        (["model.quantization=nf4"], "quantized weights cannot be trained"),
    ):
        with pytest.raises(RecipeError, match=message):
            make_plan(load_recipe(RECIPE, settings))
    with pytest.raises(ModelError, match=r"model\.head: classification"):
        make_plan(load_recipe(RECIPE, ["model.head=language_model"]))


def test_a_base_that_cannot_read_the_language_is_told(tmp_path: Path) -> None:
    for name, text in (("zh", "公司净利润第{}季度同比下降"), ("en", "Profit fell in quarter {}")):
        rows = [{"text": text.format(n), "label": ("positive", "negative")[n % 2]} for n in range(10)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def warnings(name: str, *settings: str) -> str:
        data = [f"data.path={tmp_path / name}.jsonl", "data.split={method: random, test: 0.2}", "task.language=auto"]
        return " ".join(make_plan(load_recipe(RECIPE, [*data, *settings])).splits.audit.warnings)

    assert "of the tokens of the training rows are unknown to the base model" in warnings("zh")
    assert "unknown" not in warnings("en") + warnings("zh", "model.base=smollm2")  # bytes read everything
