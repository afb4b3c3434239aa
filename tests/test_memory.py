"""The estimate of a step's memory is that of real steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fingpt_lora import attention
from fingpt_lora.batching import Collator, supervised_logits
from fingpt_lora.memory import activation_bytes, longest_batch, weight_bytes
from fingpt_lora.prompts import PromptEncoder
from tests.conftest import LABELS, TEXTS


@pytest.mark.parametrize("share_prefix", [True, False])
def test_activations_are_what_a_real_step_keeps(
    encoder: PromptEncoder, shallow: Callable[..., Any], share_prefix: bool
) -> None:
    from peft import LoraConfig, get_peft_model

    from fingpt_lora.lora import fuse

    config = fuse(LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    model = get_peft_model(shallow(2, "eager"), config).to(torch.bfloat16).train()
    long = [f"{text} " * 8 for text in TEXTS]
    rows = [{"input_ids": e.ids, "labels": e.labels} for e in encoder.examples(long, LABELS)]
    batch = Collator(2, share_prefix)(rows)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        attention.using(model, attention.NAME if share_prefix else "sdpa"),
    ):
        logits, _ = supervised_logits(model, batch)
    estimate = activation_bytes(model.config.to_dict(), batch["input_ids"].numel(), number_bytes=2)
    assert estimate is not None and logits.requires_grad
    assert 0.6 < estimate / sum(kept.values()) < 1.6


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=40), st.integers(1, 16))
def test_no_batch_is_longer_than_the_longest(lengths: list[int], rows: int) -> None:
    for padded in (True, False):
        longest = longest_batch(lengths, rows, padded=padded)
        for start in range(0, len(lengths), rows):
            batch = lengths[start : start + rows]
            assert longest >= (max(batch) * len(batch) if padded else sum(batch))
    assert longest_batch(sorted(lengths)[-rows:], rows, padded=False) == longest


def test_weights_by_what_becomes_of_them() -> None:
    assert weight_bytes(1600, "none", full=False) == 1600
    assert weight_bytes(1600, "nf4", full=False) == weight_bytes(1600, {"load_in_4bit": True}, full=False) == 500
    assert weight_bytes(1600, {"load_in_8bit": True}, full=False) == 900
    assert weight_bytes(1600, "none", full=True) == 12800


def test_models_of_unknown_shape_have_no_estimate() -> None:
    assert activation_bytes({"n_layer": 12, "n_embd": 768}, 100, number_bytes=2) is None
