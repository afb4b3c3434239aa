from __future__ import annotations

from dataclasses import replace

import pytest

from fingpt_lora import capability, measured
from fingpt_lora.capability import Machine
from fingpt_lora.measured import Measured
from fingpt_lora.recipe import parse_recipe

OLD_CPU = Machine("cpu", "old", 2, 8 << 30, bf16=False)
NEW_CPU = Machine("cpu", "new", 8, 8 << 30, bf16=True)
SLOW_BF16 = Measured(200.0, 20.0, eager_training=2.0, sdpa_training=9.0, eager_scoring=1.0, sdpa_scoring=0.5)
GPU = Machine("cuda", "card", 8, 8 << 30, bf16=True, gpus=1)


def filled(text: str, machine: Machine, rows: int = 800) -> dict[str, object]:
    items = capability.fill_in(parse_recipe(text), machine, train_rows=rows)
    assert all(item.reason for item in items)
    return {item.key: item.value for item in items}


def test_precision_follows_the_hardware() -> None:
    assert filled("", OLD_CPU)["model.dtype"] == "float32" and filled("", OLD_CPU)["training.bf16"] is False
    assert filled("", NEW_CPU)["model.dtype"] == "bfloat16"
    assert filled("", GPU)["training.use_cpu"] is False and filled("", OLD_CPU)["training.use_cpu"] is True


def test_a_measurement_overrules_the_flags() -> None:
    claims = Machine("cpu", "claims", 2, 8 << 30, bf16=False, measured=SLOW_BF16)
    item = next(i for i in capability.fill_in(parse_recipe(""), claims, train_rows=9))
    assert item.value == "float32" and "0.1 times" in item.reason and "measured" in item.reason


@pytest.mark.parametrize(("bfloat16", "expected"), [(100.0, False), (900.0, True)])
def test_detection_reads_what_was_measured(bfloat16: float, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = capability.detect()
    if plain.device != "cpu":
        pytest.skip("a GPU decides here")
    monkeypatch.setattr(measured, "recall", lambda name, cores: replace(SLOW_BF16, bfloat16=bfloat16))
    capability.detect.cache_clear()
    try:
        assert capability.detect().bf16 is expected
        capability.measure()  # nothing left to measure
        assert capability.detect().measured == replace(SLOW_BF16, bfloat16=bfloat16)
    finally:
        capability.detect.cache_clear()


def test_attention_is_the_quickest_for_its_use() -> None:
    slow = Machine("cpu", "slow", 2, 8 << 30, bf16=False, measured=SLOW_BF16)
    assert (slow.attention(training=True), slow.attention(training=False)) == ("eager", "sdpa")
    item = next(
        item
        for item in capability.fill_in(parse_recipe(""), slow, train_rows=9)
        if item.key == "model.attn_implementation"
    )
    assert item.value == "sdpa" and "eager 1 ms" in item.reason
    assert OLD_CPU.attention(training=True) == "eager" and GPU.attention(training=True) == "sdpa"


def test_the_peak_memory_of_this_process_is_told() -> None:
    peak = capability.peak_memory_gib()
    assert peak is not None and 0.01 < peak < 1000


def test_what_is_written_is_never_overruled() -> None:
    text = "model: {dtype: float32, attn_implementation: sdpa}\ntraining: {bf16: false, learning_rate: 1.0}\nadapter: {target_modules: [q_proj]}"
    values = filled(text, GPU)
    assert not {"model.dtype", "model.attn_implementation", "training.bf16", "training.learning_rate"} & values.keys()
    assert "adapter.target_modules" not in values
    assert "training.bf16" not in filled("training: {fp16: true}", GPU)


SMALL = {"num_hidden_layers": 30, "hidden_size": 576, "intermediate_size": 1536}
LARGE = {"num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 11008}
WORKSTATION, CARD = replace(NEW_CPU, memory=24 << 30), replace(GPU, gpu_memory=80 << 30)


@pytest.mark.parametrize(
    ("text", "machine", "config", "size", "length", "again"),
    [
        ("", WORKSTATION, SMALL, 1 << 28, 200, False),
        ("", WORKSTATION, SMALL, 1 << 28, 2000, True),  # 16 long rows
        ("training: {per_device_train_batch_size: 2}", WORKSTATION, SMALL, 1 << 28, 2000, False),
        ("model: {dtype: float32}", WORKSTATION, SMALL, 1 << 28, 600, True),
        ("model: {dtype: float16}", WORKSTATION, SMALL, 1 << 28, 600, False),
        ("model: {quantization: none}", CARD, LARGE, 13 << 30, 200, False),
        ("model: {quantization: none}", CARD, LARGE, 13 << 30, 350, True),
        ("model: {quantization: nf4}", CARD, LARGE, 13 << 30, 350, False),  # what the weights leave
        ("{adapter: {peft_type: NONE}, model: {quantization: none}}", CARD, LARGE, 13 << 30, 100, True),
        ("", CARD, {}, 13 << 30, 100, True),
        ("", WORKSTATION, {}, 1 << 28, 100, False),
    ],
)
def test_activations_are_computed_again_where_they_may_not_fit(
    text: str, machine: Machine, config: dict[str, int], size: int, length: int, again: bool
) -> None:
    recipe = parse_recipe(text)
    resolved = capability.resolve(recipe, capability.fill_in(recipe, machine, train_rows=99))
    item = capability.checkpointing(resolved, machine, [length] * 99, config=config, base_bytes=size, padded=False)
    assert item.value is again and ("may not fit" in item.reason) is again


def test_padding_and_other_processes_take_memory_too() -> None:
    resolved = capability.resolve(parse_recipe(""), capability.fill_in(parse_recipe(""), WORKSTATION, train_rows=99))
    lengths = [100] * 98 + [1500]

    def again(*, padded: bool, world_size: int = 1) -> object:
        options = {"config": SMALL, "base_bytes": 1 << 28, "padded": padded, "world_size": world_size}
        return capability.checkpointing(resolved, WORKSTATION, lengths, **options).value

    assert not again(padded=False) and again(padded=True)
    assert again(padded=False, world_size=8)


def test_early_stopping_brings_what_it_needs() -> None:
    values = filled(
        "training: {eval_strategy: epoch, early_stopping_patience: 2}\ndata: {validation_share: 0.1}", OLD_CPU
    )
    assert values["training.load_best_model_at_end"] is True
    assert values["training.metric_for_best_model"] == "macro_f1"
    assert values["training.save_strategy"] == "epoch"


def test_resolving_writes_the_values() -> None:
    recipe = parse_recipe("adapter: {r: 4}")
    resolved = capability.resolve(recipe, capability.fill_in(recipe, OLD_CPU, train_rows=9))
    assert resolved.model.dtype == "float32" and resolved.adapter == {"r": 4, "target_modules": "all-linear"}
    assert resolved.training["per_device_train_batch_size"] == 16


def test_this_machine_is_seen() -> None:
    machine = capability.detect()
    assert machine.cores >= 1 and machine.memory > 0 and machine.name
