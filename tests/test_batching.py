"""Shared prefix, grouping and label-only logits change nothing but the time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fingpt_lora import attention
from fingpt_lora.batching import (
    Collator,
    GroupedSampler,
    cannot_share,
    common_prefix,
    pad_left,
    rows_of,
    supervised_logits,
)
from fingpt_lora.prompts import IGNORED, PromptEncoder
from tests.conftest import EVENTS, LABELS, TEXTS, random_model, tiny_examples, tiny_llama


def examples(encoder: PromptEncoder, rows: slice = slice(None)) -> list[dict[str, Any]]:
    return [{"input_ids": e.ids, "labels": e.labels} for e in encoder.examples(TEXTS[rows], LABELS[rows])]


def prefix_of(batch: dict[str, torch.Tensor]) -> int:
    return batch["input_ids"].shape[1] - len(batch["places"])


def loss_and_gradients(model: Any, batches: list[dict[str, torch.Tensor]]) -> tuple[float, torch.Tensor]:
    """Sum of the batches' losses over all their supervised tokens, as accumulation computes it, and its gradient."""
    model.zero_grad()
    items = sum(int((batch["labels"] != IGNORED).sum()) for batch in batches)
    total = 0.0
    for batch in batches:
        logits, targets = supervised_logits(model, batch)
        loss = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum") / items
        loss.backward()
        total += loss.item()
    return total, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def assert_same(one: tuple[float, torch.Tensor], other: tuple[float, torch.Tensor], tolerance: float) -> None:
    assert one[0] == pytest.approx(other[0], rel=tolerance)
    assert (one[1] - other[1]).norm() / other[1].norm() < tolerance


@pytest.fixture
def adapted(shallow: Callable[..., Any]) -> Callable[..., Any]:
    from peft import LoraConfig, get_peft_model

    def build(attention: str, layers: int = 3) -> Any:
        model = get_peft_model(
            shallow(layers, attention), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
        )
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zero at the start, which would hide half of the gradients
                torch.nn.init.normal_(parameter, std=0.02)
        return model

    return build


@pytest.fixture(params=["short", "long"])
def row_length(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which of the attention's two ways on a CPU is taken: that of short rows, or that of long ones."""
    monkeypatch.setattr(attention, "_LONG", {"short": 10_000, "long": 1}[request.param])
    return str(request.param)


@pytest.mark.parametrize("padded_by", ["eager", "sdpa"])
def test_shared_prefix_is_padded(
    encoder: PromptEncoder, adapted: Callable[[str], Any], padded_by: str, row_length: str
) -> None:
    model = adapted(padded_by)
    rows = examples(encoder)  # English and Chinese rows share only the system message
    shared = Collator(2, share_prefix=True)(rows)
    assert shared["input_ids"].numel() == sum(len(row["input_ids"]) - 1 for row in rows) - 5 * prefix_of(shared)
    assert prefix_of(shared) >= 20
    with attention.using(model, attention.NAME):
        one = loss_and_gradients(model, [shared])
    other = loss_and_gradients(model, [Collator(2, share_prefix=False)(rows)])
    assert_same(one, other, 1e-5)


def test_shared_prefix_is_padded_within_the_rounding_of_bfloat16(
    encoder: PromptEncoder, adapted: Callable[..., Any]
) -> None:
    """Eight bits of mantissa, so a step of 2^-8 = 0.004: the layouts may differ as far as either does from float32."""
    rows = examples(encoder, slice(0, 2))
    exact = adapted("eager", layers=1)
    truth = loss_and_gradients(exact, [Collator(2, share_prefix=False)(rows)])
    model = exact.to(torch.bfloat16)
    padded = loss_and_gradients(model, [Collator(2, share_prefix=False)(rows)])
    with attention.using(model, attention.NAME):
        shared = loss_and_gradients(model, [Collator(2, share_prefix=True)(rows)])

    def away(one: tuple[float, torch.Tensor], other: tuple[float, torch.Tensor]) -> float:
        return float((one[1].float() - other[1].float()).norm() / other[1].float().norm())

    assert_same(shared, padded, 0.03)
    assert away(shared, truth) < 1.5 * away(padded, truth) + 0.002


def test_label_only_logits_are_the_full_ones(encoder: PromptEncoder, adapted: Callable[[str], Any]) -> None:
    model = adapted("eager")
    batch = Collator(2, share_prefix=True)(examples(encoder))
    owners = [row for row, example in enumerate(examples(encoder)) for label in example["labels"] if label != IGNORED]
    with torch.no_grad(), attention.using(model, attention.NAME):
        logits, targets = supervised_logits(model, batch)
    with torch.no_grad():
        for row, example in enumerate(examples(encoder)):
            full = model(input_ids=torch.tensor([example["input_ids"]])).logits[0]
            places = [p for p, label in enumerate(example["labels"]) if label != IGNORED]
            mine = [i for i, owner in enumerate(owners) if owner == row]
            assert targets[mine].tolist() == [example["labels"][p] for p in places]
            torch.testing.assert_close(logits[mine], full[[p - 1 for p in places]], rtol=1e-4, atol=1e-3)


def test_rows_without_a_common_prefix_do_not_see_each_other(
    encoder: PromptEncoder, adapted: Callable[[str], Any], row_length: str
) -> None:
    model = adapted("eager")
    rows = examples(encoder, slice(0, 3))
    rows[0] = {key: values[1:] for key, values in rows[0].items()}
    shared = Collator(2, share_prefix=True)(rows)
    assert prefix_of(shared) == 0
    with attention.using(model, attention.NAME):
        one = loss_and_gradients(model, [shared])
    other = loss_and_gradients(model, [Collator(2, share_prefix=False)(rows)])
    assert_same(one, other, 1e-5)


def test_checkpointed_layers_give_the_same_gradients(encoder: PromptEncoder, adapted: Callable[[str], Any]) -> None:
    model = adapted("eager").train()
    batch = Collator(2, share_prefix=True)(examples(encoder))
    with attention.using(model, attention.NAME):
        one = loss_and_gradients(model, [batch])
        model.activation_checkpointing_enable()
        other = loss_and_gradients(model, [batch])
    assert_same(one, other, 1e-6)


def test_dropout_leaves_the_expected_loss() -> None:
    """One mask for the prefix of all rows instead of one each: other draws, the same mean."""
    model = tiny_llama(lora_dropout=0.3)

    def losses(share_prefix: bool) -> torch.Tensor:
        batch = Collator(0, share_prefix)(tiny_examples(4, 8))
        found = []
        for _ in range(300):
            logits, targets = supervised_logits(model, batch)
            found.append(torch.nn.functional.cross_entropy(logits, targets))
        return torch.stack(found)

    torch.manual_seed(5)
    with torch.no_grad():
        padded = losses(share_prefix=False)
        with attention.using(model, attention.NAME):
            shared = losses(share_prefix=True)
    error = (shared.var() / len(shared) + padded.var() / len(padded)).sqrt()
    assert shared.std() > 0 and abs(shared.mean() - padded.mean()) < 4 * error


@pytest.mark.parametrize(
    ("kind", "settings", "shares"),
    [
        ("Llama", {}, True),
        ("Qwen3", {"head_dim": 16}, True),
        ("Mistral", {"sliding_window": 4096}, True),  # wider than any row
        ("Mistral", {"sliding_window": 8}, False),
        ("Gemma2", {"head_dim": 16, "attn_logit_softcapping": 0.01, "query_pre_attn_scalar": 1}, False),
    ],
)
def test_the_self_test_tells_who_can_share(
    encoder: PromptEncoder, kind: str, settings: dict[str, Any], shares: bool
) -> None:
    model = random_model(kind, **settings).train()
    reason = cannot_share(model, examples(encoder), pad_id=2)
    assert (reason is None) == shares, reason
    assert model.training and model.config._attn_implementation == "eager"


def test_rounding_in_long_answers_is_no_reason_not_to_share(
    encoder: PromptEncoder, shallow: Callable[..., Any]
) -> None:
    """Among many tokens one strays further than the mean of all, which only rounds."""
    torch.manual_seed(0)
    answers = [torch.randint(100, 40_000, (tokens,)).tolist() for tokens in (400, 40)]
    asked = examples(encoder)[0]["input_ids"][:60]
    rows = [{"input_ids": asked + answer, "labels": [IGNORED] * 60 + answer} for answer in answers]
    assert cannot_share(shallow(30, "eager").to(torch.bfloat16), rows, pad_id=2) is None


def test_recurrent_models_cannot_share(encoder: PromptEncoder) -> None:
    assert cannot_share(random_model("Mamba", state_size=4), examples(encoder), pad_id=2) is not None


def test_the_rows_of_a_batch_can_be_told(encoder: PromptEncoder) -> None:
    rows = examples(encoder)
    shared = Collator(2, share_prefix=True)(rows)
    assert rows_of(shared) == [row["input_ids"][prefix_of(shared) : -1] for row in rows]
    assert rows_of(Collator(2, share_prefix=False)(rows)) == [row["input_ids"][:-1] for row in rows]


def test_accumulated_single_rows_are_one_batch(encoder: PromptEncoder, adapted: Callable[[str], Any]) -> None:
    model = adapted("eager")
    collate = Collator(2, share_prefix=True)
    with attention.using(model, attention.NAME):
        one = loss_and_gradients(model, [collate(examples(encoder))])
        other = loss_and_gradients(model, [collate([row]) for row in examples(encoder)])
    assert_same(one, other, 1e-5)


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=5))
def test_the_common_prefix_is_common_longest_and_leaves_a_token(rows: list[list[int]]) -> None:
    length = common_prefix(rows)
    assert all(row[:length] == rows[0][:length] for row in rows)
    assert length < min(len(row) for row in rows)
    if length + 1 < min(len(row) for row in rows):
        assert len({row[length] for row in rows}) > 1


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=1, max_size=5))
def test_left_padding_keeps_every_row_at_the_right(rows: list[list[int]]) -> None:
    padded = pad_left(rows, 0).tolist()
    assert [row[len(row) - len(own) :] for row, own in zip(padded, rows, strict=True)] == rows
    assert sum(map(sum, padded)) == sum(map(sum, rows))


@given(st.integers(0, 200), st.integers(1, 9), st.integers(0, 5), st.integers(0, 3))
def test_the_sampler_is_a_permutation_by_seed_and_epoch(rows: int, batch: int, seed: int, epoch: int) -> None:
    lengths = [(row * 37) % 50 for row in range(rows)]
    sampler = GroupedSampler(lengths, [row % 2 for row in range(rows)], batch, seed)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert sorted(order) == list(range(rows)) and len(sampler) == rows
    assert order == list(sampler)


def test_batches_hold_one_group_and_near_lengths_and_epochs_differ() -> None:
    lengths = [(row * 37) % 50 + 1 for row in range(400)]
    groups = [row % 2 for row in range(400)]
    sampler = GroupedSampler(lengths, groups, 8, seed=0)
    order = list(sampler)
    batches = [order[i : i + 8] for i in range(0, 400, 8)]
    assert sum(len({groups[row] for row in batch}) == 1 for batch in batches) >= 48
    padded = sum(max(lengths[row] for row in batch) * len(batch) for batch in batches)
    assert padded < 1.1 * sum(lengths)
    sampler.set_epoch(1)
    assert list(sampler) != order


@pytest.mark.parametrize("padded_by", ["eager", "sdpa"])
def test_branches_are_rows_of_their_own(
    event_encoder: PromptEncoder, adapted: Callable[[str], Any], padded_by: str, row_length: str
) -> None:
    """Three labels asked about behind one reading of the text: the loss and gradients of three rows."""
    model = adapted(padded_by)
    found = event_encoder.examples(TEXTS, EVENTS)
    rows = [{"input_ids": e.ids, "labels": e.labels, "branches": e.branches} for e in found]
    shared, padded = (Collator(2, share_prefix=share)(rows) for share in (True, False))
    assert padded["input_ids"].shape[0] == 3 * len(rows)
    assert shared["input_ids"].numel() < 0.4 * padded["input_ids"].numel()
    with attention.using(model, attention.NAME):
        one = loss_and_gradients(model, [shared])
    assert_same(one, loss_and_gradients(model, [padded]), 1e-5)
    assert cannot_share(model, rows, pad_id=2) is None


def test_what_is_only_asked_for_is_not_run(encoder: PromptEncoder) -> None:
    rows = examples(encoder, slice(0, 2))
    shared = Collator(2, share_prefix=True)(rows)
    assert shared["input_ids"].numel() == sum(len(row["input_ids"]) - 1 for row in rows) - prefix_of(shared)
    asked = shared["labels"][shared["labels"] != IGNORED].tolist()
    assert asked == [label for row in rows for label in row["labels"] if label != IGNORED]
