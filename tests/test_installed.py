"""What is read from source must be what the imported classes say."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from fingpt_lora import installed


def test_sft_fields_are_those_of_the_class() -> None:
    from trl import SFTConfig

    assert installed.sft_fields().keys() == {field.name for field in dataclasses.fields(SFTConfig) if field.init}


@pytest.mark.parametrize("method", ["LORA", "ADALORA", "IA3", "LOHA", "LOKR", "OFT", "BOFT", "VERA", "LN_TUNING"])
def test_peft_fields_are_those_of_the_class(method: str) -> None:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.utils import PeftType

    imported = {field.name for field in dataclasses.fields(PEFT_TYPE_TO_CONFIG_MAPPING[PeftType[method]]) if field.init}
    internal = {"task_type", "inference_mode", "auto_mapping", "peft_version", "base_model_name_or_path"}
    assert installed.peft_fields(method).keys() | internal >= imported - internal
    assert installed.peft_fields(method).keys() <= imported


def test_peft_methods_are_those_that_peft_registers() -> None:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    assert installed.peft_methods().keys() == {kind.name for kind in PEFT_TYPE_TO_CONFIG_MAPPING}


def test_bits_and_bytes_fields_are_those_of_the_class() -> None:
    from transformers import BitsAndBytesConfig

    arguments = set(inspect.signature(BitsAndBytesConfig.__init__).parameters) - {"self", "kwargs"}
    assert installed.bits_and_bytes_fields().keys() == arguments


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("learning_rate", [1, 1e-4], ["fast", True, None]),
        ("per_device_train_batch_size", [8], [8.5, "8", False]),
        ("use_cpu", [True], [1, "False"]),
        ("lr_scheduler_type", ["cosine"], ["cosin"]),
        ("report_to", ["none", ["tensorboard"]], [3]),
        ("warmup_steps", [0.1, 10], ["10%"]),
    ],
)
def test_types_and_choices(field: str, good: list[object], bad: list[object]) -> None:
    known = installed.sft_fields()[field]
    assert [known.problem(value) for value in good] == [None] * len(good)
    assert all(known.problem(value) for value in bad)


def test_a_pattern_among_the_choices_admits_what_fits_it() -> None:
    field = installed.peft_fields("LORA")["init_lora_weights"]
    assert field.problem("pissa_niter_16") is None and field.problem(False) is None
    assert "olora" in (field.problem("oloraa") or "")
