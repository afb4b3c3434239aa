"""Fields of peft, trl and transformers in a recipe, and keys that only mean something together."""

from __future__ import annotations

import pytest

from fingpt_lora.errors import RecipeError
from fingpt_lora.recipe import parse_recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training:\n  learnin_rate: 1\n", "r.yaml:2: training.learnin_rate: unknown key in section 'training'. Did you mean 'learning_rate'?"),
        ("model:\n  quantization:\n    load_in_4bits: true\n", "r.yaml:3: model.quantization.load_in_4bits: unknown key"),
        ("adapter:\n  r: true\n", "r.yaml:2: adapter.r: must be a whole number, not true."),
        ("adapter:\n  r: 0\n", "r.yaml:2: adapter.r: must be at least 1"),
        ("adapter:\n  lora_dropout: 1.5\n", "r.yaml:2: adapter.lora_dropout: must be at least 0 and below 1"),
        ("adapter:\n  peft_type: lorra\n", "r.yaml:2: adapter.peft_type: the installed peft has no method 'LORRA'. Did you mean 'LORA'?"),
        ("training:\n  learning_rate: -1\n", "must be greater than 0"),
        ("training:\n  learning_rate: .nan\n", "must be greater than 0"),
        ("training:\n  max_seq_length: 5\n", "write max_length"),
        ("training:\n  lr: 1e-4\n", "r.yaml:2: training.lr: unknown key in section 'training'; write learning_rate."),
        ("training:\n  packing: true\n", "choose 'training.batching'"),
        ("training:\n  trust_remote_code: true\n", "code from model repositories is never run"),
        ("training:\n  batching: shared\n", "must be one of shared_prefix, length, padded"),
        ("training:\n  early_stopping_patience: 2\n", "needs 'training.eval_strategy: epoch'"),
        ("training:\n  bf16: true\n  fp16: true\n", "exclude each other"),
        ("adapter: {init_lora_weights: pissa}\n", "set 'model.quantization: none'"),
        ("adapter: {peft_type: none, r: 8}\nmodel: {quantization: none}\n", "r.yaml:1: adapter.r: belongs to an adapter"),
        ("adapter: {peft_type: none}\nmodel: {quantization: nf4}\n", "r.yaml:1: adapter.peft_type: quantized weights"),
    ],
)  # fmt: skip
def test_a_mistake_names_file_line_key_and_the_way_out(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, name="r.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mistake_of_an_override_names_the_override() -> None:
    with pytest.raises(RecipeError, match=r"--set adapter\.r=0: adapter\.r: must be at least 1"):
        parse_recipe("adapter: {r: 4}", ["adapter.r=0"])


def test_what_fits_together_passes() -> None:
    recipe = parse_recipe("adapter: {peft_type: none}\nmodel: {quantization: none, head: classification}\n")
    assert recipe.peft_type == "NONE"
    stopping = "training: {early_stopping_patience: 2, eval_strategy: epoch}\ndata: {validation_share: 0.1}\n"
    assert parse_recipe(stopping).training["early_stopping_patience"] == 2
