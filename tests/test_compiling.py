"""Compilation changes the time, not the figures, and is switched on only where it pays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from fingpt_lora import attention
from fingpt_lora.batching import Collator, supervised_logits
from fingpt_lora.callbacks import StepTimer
from fingpt_lora.compiling import CompileWhenItPays, decoder_layers, eagerly
from tests.conftest import tiny_examples, tiny_llama


def batch(rows: int, longest: int) -> dict[str, torch.Tensor]:
    return Collator(0, share_prefix=True)(tiny_examples(rows, longest))


def decide(model: Any, steps: int, wanted: bool = False, slower: float | None = None) -> CompileWhenItPays:
    """Let the callback see five steps of one second, then, where asked, five that take ``slower`` times as long."""
    timer = StepTimer(rows_per_step=16)
    callback = CompileWhenItPays(model, timer, wanted, bf16=False)
    arguments = (TrainingArguments(use_cpu=True), TrainerState(max_steps=steps), TrainerControl())
    for seconds in [9.0] + [1.0] * 4 + ([90.0] + [slower] * 4 if slower else []):
        timer.seconds.append(seconds)
        timer.tokens.append(500)
        callback.on_step_end(*arguments)
    return callback


def compiled(model: Any) -> bool:
    return all(layer._compiled_call_impl is not None for layer in decoder_layers(model))


@pytest.mark.parametrize(("steps", "expected"), [(10, False), (1000, False), (3000, True)])
def test_only_a_long_run_is_compiled(
    steps: int, expected: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "sh")  # any program that exists
    model = tiny_llama()
    decide(model, steps)
    assert compiled(model) == expected
    assert ("torch_compile = True" in capsys.readouterr().err) == expected


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    model = tiny_llama()
    decide(model, 3000)
    assert not compiled(model)


def test_what_is_slower_is_taken_back(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "sh")
    kept, dropped = tiny_llama(), tiny_llama()
    decide(kept, 3000, slower=0.9)
    assert compiled(kept)
    capsys.readouterr()
    decide(dropped, 3000, slower=1.1)
    assert not compiled(dropped)
    assert "1.10 times as long" in capsys.readouterr().err
    asked = tiny_llama()
    decide(asked, 10, wanted=True, slower=1.1)
    assert compiled(asked)


@pytest.mark.slow
def test_compiled_layers_compute_the_same() -> None:
    model = tiny_llama()
    batches = [batch(4, 12), batch(4, 9), batch(3, 15)]

    def outcomes() -> list[tuple[float, torch.Tensor]]:
        results = []
        for one in batches:
            model.zero_grad()
            logits, targets = supervised_logits(model, one)
            loss = torch.nn.functional.cross_entropy(logits, targets)
            loss.backward()
            gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
            results.append((loss.item(), gradient))
        return results

    with attention.using(model, attention.NAME):
        plain = outcomes()
        decide(model, 10, wanted=True)
        assert compiled(model)
        torch._dynamo.utils.counters.clear()
        fast = outcomes()
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        with eagerly(model):
            eager = outcomes()
    assert 1 <= graphs <= 3  # one serves all layers and shapes; the first layer's input needs no gradient
    for one, other, again in zip(plain, fast, eager, strict=True):
        assert other[0] == pytest.approx(one[0], rel=1e-5)
        torch.testing.assert_close(other[1], one[1], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(again[1], one[1], rtol=1e-6, atol=1e-8)
