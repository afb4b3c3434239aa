"""Raw text: every token is foretold once, and perplexity is the plain one."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from fingpt_lora.contract import PromptContract, load_tokenizer, make_contract
from fingpt_lora.errors import RunError
from fingpt_lora.perplexity import TextLosses, score_documents, text_metrics
from fingpt_lora.plan import make_plan
from fingpt_lora.predict import Predictor, evaluate_file
from fingpt_lora.prompts import IGNORED, PromptEncoder
from fingpt_lora.recipe import load_recipe
from fingpt_lora.tasks import TextTask
from fingpt_lora.train import run_recipe

DOCUMENTS = [
    "The company reported net sales of EUR 12 million. Operating profit rose by a third. " * 4,
    "公司发布年度报告，营业收入同比增长百分之十二，净利润下降。",
    "Short.",
]


def encoder(checkpoint: Path, max_length: int = 32) -> PromptEncoder:
    tokenizer = load_tokenizer(checkpoint)
    contract = make_contract(
        TextTask(), checkpoint, template="raw", system=None, max_length=max_length, tokenizer=tokenizer
    )
    return PromptEncoder(contract, tokenizer, TextTask())


@settings(max_examples=30, deadline=None)
@given(st.text(min_size=1).filter(str.strip), st.integers(16, 40))
def test_every_token_is_supervised_once(checkpoint: Path, text: str, longest: int) -> None:
    own = encoder(checkpoint, longest)
    chunks = own.chunks(text)
    foretold = [token for chunk in chunks for token in chunk.labels if token != IGNORED]
    whole = [*own.tokenizer.encode(text.strip(), add_special_tokens=False).ids, *own.contract.stop_ids[:1]]
    assert [chunks[0].ids[0], *foretold] == whole
    assert all(len(chunk.ids) <= longest and chunk.labels[0] == IGNORED for chunk in chunks)
    for one, following in itertools.pairwise(chunks):
        assert following.ids[0] == one.ids[-1]


def test_losses_are_those_of_each_chunk_alone(small_base: Path) -> None:
    own = encoder(small_base)
    model = AutoModelForCausalLM.from_pretrained(small_base)
    losses = score_documents(model, own, DOCUMENTS)
    for place, text in enumerate(DOCUMENTS):
        total = 0.0
        for chunk in own.chunks(text):
            ids = torch.tensor([chunk.ids])
            with torch.inference_mode():
                log_probs = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
            total -= log_probs.gather(1, ids[0, 1:, None]).sum().item()
        assert losses.nll[place] == pytest.approx(total, rel=1e-3)
        assert losses.tokens[place] == sum(len(chunk.ids) - 1 for chunk in own.chunks(text))


def test_figures_by_hand() -> None:
    found = text_metrics(TextLosses(np.array([20.0, 10.0]), np.array([10, 5]), np.array([40, 20])), bootstrap=100)
    assert found["perplexity"] == pytest.approx(math.exp(2))
    assert found["bits_per_byte"] == pytest.approx(0.5 / math.log(2))
    assert found["rows"] == 2 and found["tokens"] == 15
    assert found["intervals"]["perplexity"] == pytest.approx([math.exp(2)] * 2)


@pytest.mark.slow
def test_pretraining_then_a_task_on_top(small_base: Path, tmp_path: Path) -> None:
    texts = tmp_path / "filings"
    texts.mkdir()
    for number in range(8):
        (texts / f"{number}.txt").write_text(f"Filing {number}. {DOCUMENTS[0]}", encoding="utf-8")
    recipe = tmp_path / "text.yaml"
    recipe.write_text(
        f"task: {{name: text}}\nmodel: {{base: {small_base}, quantization: none, dtype: float32}}\nadapter: {{r: 4, target_modules: [q_proj, v_proj]}}\n"
        f"data: {{path: {texts}, split: {{method: random, test: 0.25}}}}\nevaluation: {{bootstrap: 100}}\n"
        "training: {num_train_epochs: 3, per_device_train_batch_size: 2, max_length: 64, learning_rate: 2.0e-3}\n"
        f"output: {tmp_path}/text\n"
    )
    plan = make_plan(load_recipe(recipe))
    assert len(plan.splits.train) == 6 and len(plan.train) > 6
    folder = run_recipe(recipe)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["test"]["perplexity"] < metrics["baselines"]["base_model"]["perplexity"]
    assert "held-out documents" in (folder / "report.html").read_text()
    assert "perplexity" in (folder / "README.md").read_text().lower()
    predictor = Predictor.load(folder)
    again = evaluate_file(predictor, str(texts / "0.txt"))
    assert again["rows"] == 1 and again["perplexity"] > 1
    with pytest.raises(RunError, match="model.adapters"):
        predictor.predict(["A text."])

    for quantization in ("none", "nf4"):
        over = tmp_path / f"over_{quantization}.yaml"
        over.write_text(
            f"model: {{base: {small_base}, quantization: {quantization}, dtype: float32, adapters: ['{folder}']}}\n"
            "adapter: {r: 4, target_modules: [q_proj]}\ndata: {limit: 12}\nevaluation: {bootstrap: 100}\n"
            f"training: {{max_steps: 2, per_device_train_batch_size: 4}}\noutput: {tmp_path}/over_{quantization}\n"
        )
        task = run_recipe(over)
        stated = json.loads((task / "adapter" / "adapter_config.json").read_text())
        assert stated["target_modules"] == ["q_proj"]
        plan, predictor = make_plan(load_recipe(over)), Predictor.load(task)
        answers = predictor.predict([row.text for row in plan.splits.test])
        shares = [answer["probabilities"][row.label] for answer, row in zip(answers, plan.splits.test, strict=True)]
        measured = json.loads((task / "metrics.json").read_text())["test"]["nll"]
        assert -np.mean(np.log(shares)) == pytest.approx(measured, abs=0.02)
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(
        (task / "adapter" / "adapter_model.safetensors").read_bytes()
    )
    with pytest.raises(RunError, match="no longer the one that it was trained on"):
        Predictor.load(task)


def test_contracts_differ_by_template(checkpoint: Path) -> None:
    contract: PromptContract = encoder(checkpoint).contract
    assert contract.template == "raw" and all(not frame.before for frame in contract.frames.values())
