from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fingpt_lora import capability
from fingpt_lora import model as models
from fingpt_lora.batching import Collator, supervised_logits
from fingpt_lora.errors import ModelError, RecipeError
from fingpt_lora.prompts import PromptEncoder
from fingpt_lora.recipe import parse_recipe
from fingpt_lora.scoring import score_labels
from fingpt_lora.sections import Recipe
from tests.conftest import LABELS, TEXTS


def resolved(text: str) -> Recipe:
    recipe = parse_recipe(text)
    return capability.resolve(recipe, capability.fill_in(recipe, capability.detect(), train_rows=8))


def gradients(model: Any, encoder: PromptEncoder) -> torch.Tensor:
    model.train()
    model.zero_grad()
    rows = [{"input_ids": e.ids, "labels": e.labels} for e in encoder.examples(TEXTS, LABELS)]
    logits, targets = supervised_logits(model, Collator(2, share_prefix=True)(rows))
    torch.nn.functional.cross_entropy(logits.float(), targets).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_gradients_are_the_same_after_an_evaluation(
    small_base: Path, encoder: PromptEncoder, quantization: str
) -> None:
    recipe = resolved(
        f"model: {{base: '{small_base}', quantization: {quantization}, dtype: float32}}\nadapter: {{r: 4}}"
    )
    torch.manual_seed(0)
    model = models.attach_adapter(models.load_base(recipe.model, small_base, device="cpu"), recipe)
    before = gradients(model, encoder)
    score_labels(model, encoder, TEXTS)
    after = gradients(model, encoder)
    assert before.norm() > 0
    torch.testing.assert_close(before, after)


def test_nf4_is_near_the_full_weights_and_keeps_its_layout(small_base: Path, encoder: PromptEncoder) -> None:
    full = models.load_base(resolved("model: {quantization: none, dtype: float32}").model, small_base, device="cpu")
    small = models.load_base(resolved("model: {quantization: nf4, dtype: float32}").model, small_base, device="cpu")
    flags = [m.support_avx512bf16_for_cpu for m in small.modules() if hasattr(m, "support_avx512bf16_for_cpu")]
    assert flags and not any(flags)
    difference = abs(score_labels(full, encoder, TEXTS) - score_labels(small, encoder, TEXTS)).max()
    assert 0 < difference < 2


@pytest.mark.parametrize(
    "adapter",
    [
        "{r: 4, use_rslora: true}",
        "{r: 4, use_dora: true}",
        "{r: 4, init_lora_weights: pissa}",
        "{r: 4, init_lora_weights: pissa_niter_4}",
        "{r: 4, init_lora_weights: olora}",
        pytest.param(
            "{r: 4, init_lora_weights: loftq, loftq_config: {loftq_bits: 4}}",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="peft's LoftQ needs CUDA"),
            ],
        ),
        "{r: 4, rank_pattern: {q_proj: 8}, alpha_pattern: {q_proj: 16}}",
        "{r: 4, target_modules: [q_proj], modules_to_save: [norm]}",
        "{r: 4, layers_to_transform: [1], target_modules: [q_proj, v_proj]}",
        "{peft_type: IA3, target_modules: [k_proj, v_proj, down_proj], feedforward_modules: [down_proj]}",
        "{peft_type: ln_tuning}",
        "{peft_type: VERA, r: 8, target_modules: [q_proj]}",
    ],
)
def test_a_saved_adapter_scores_as_the_trained_one(
    small_base: Path, encoder: PromptEncoder, tmp_path: Path, adapter: str
) -> None:
    recipe = resolved(f"model: {{quantization: none, dtype: float32}}\nadapter: {adapter}")
    torch.manual_seed(0)
    model = models.attach_adapter(models.load_base(recipe.model, small_base, device="cpu"), recipe)
    trainable, total = models.trainable_parameters(model)
    assert 0 < trainable < total
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    gradients(model, encoder)
    optimizer.step()
    trained = score_labels(model, encoder, TEXTS)
    model.save_pretrained(tmp_path)
    again = models.load_adapter(models.load_base(recipe.model, small_base, device="cpu"), tmp_path, recipe)
    assert abs(score_labels(again, encoder, TEXTS) - trained).max() < 2e-3


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ("{target_modules: [q_prj]}", r"adapter.target_modules: 'q_prj' matches no module. Did you mean 'q_proj'\? The linear layers are: down_proj"),
        ("{target_modules: 'model.*nothing'}", "matches no module"),
        ("{target_modules: [q_proj], modules_to_save: [head]}", "adapter.modules_to_save: 'head' matches no module"),
        ("{rank_pattern: {qq: 4}}", "adapter.rank_pattern: 'qq' matches no module"),
        ("{target_modules: [q_proj], layers_to_transform: [99]}", "adapter"),
    ],
)  # fmt: skip
def test_a_pattern_without_a_module_is_an_error_that_lists_them(small_base: Path, adapter: str, message: str) -> None:
    recipe = resolved(f"model: {{quantization: none, dtype: float32}}\nadapter: {adapter}")
    base = models.load_base(recipe.model, small_base, device="cpu")
    with pytest.raises(RecipeError, match=message):
        models.attach_adapter(base, recipe)


def test_an_adapter_folder_without_an_adapter_is_refused(small_base: Path, tmp_path: Path) -> None:
    recipe = resolved("model: {quantization: none}")
    base = models.load_base(recipe.model, small_base, device="cpu")
    with pytest.raises(ModelError, match="holds no adapter"):
        models.load_adapter(base, tmp_path, recipe)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to compute LoftQ on")
def test_loftq_without_a_gpu_says_what_to_use_instead(small_base: Path) -> None:
    recipe = resolved("model: {quantization: none}\nadapter: {init_lora_weights: loftq}")
    base = models.load_base(recipe.model, small_base, device="cpu")
    with pytest.raises(RecipeError, match="on a CUDA GPU only.*olora or pissa"):
        models.attach_adapter(base, recipe)


def test_quantization_fields_that_transformers_refuses_are_one_sentence() -> None:
    section = parse_recipe("model: {quantization: {load_in_4bit: true, load_in_8bit: true}}").model
    with pytest.raises(RecipeError, match="model.quantization: .*both True"):
        models.quantization_config(section, torch.float32)
