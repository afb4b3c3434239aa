"""Adapters of earlier runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fingpt_lora import earlier
from fingpt_lora import model as models
from fingpt_lora.errors import ModelError, RecipeError
from fingpt_lora.plan import make_plan
from fingpt_lora.recipe import parse_recipe
from fingpt_lora.sections import ModelSection

RECIPE = """
model: {base: BASE, quantization: QUANTIZATION, dtype: float32, attn_implementation: eager, adapters: [ADAPTERS]}
adapter: {r: 4, target_modules: [q_proj, v_proj], init_lora_weights: false}
data: {limit: 8}
training: {max_steps: 1}
"""


def recipe(base: Path, quantization: str, adapters: str = "") -> Any:
    text = RECIPE.replace("BASE", str(base)).replace("QUANTIZATION", quantization).replace("ADAPTERS", adapters)
    return parse_recipe(text)


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=torch.arange(8)[None]).logits
    return found


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_one_on_top_of_another(small_base: Path, tmp_path: Path, quantization: str) -> None:
    first = recipe(small_base, quantization)
    below = models.attach_adapter(models.load_base(first.model, small_base, device="cpu"), first)
    models.save_trained(below, tmp_path, first)
    expected = logits(below.eval())

    second = recipe(small_base, quantization, str(tmp_path / "adapter"))
    base = models.load_base(second.model, small_base, device="cpu")
    assert torch.allclose(logits(base), expected, atol=1e-4)
    both = models.attach_adapter(base, second)
    trained = [name for name, parameter in both.named_parameters() if parameter.requires_grad]
    assert trained and all(".default." in name for name in trained)
    both.eval()
    assert not torch.allclose(logits(both), expected, atol=1e-3)
    models.save_trained(both, tmp_path / "second", second)
    again = models.load_adapter(
        models.load_base(second.model, small_base, device="cpu"), tmp_path / "second" / "adapter", second
    )
    assert torch.allclose(logits(again), logits(both), atol=1e-4)


def test_what_is_no_adapter(small_base: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="neither a finished run nor a folder"):
        make_plan(recipe(small_base, "none", str(tmp_path)))
    with pytest.raises(RecipeError, match="goes under a LoRA adapter"):
        parse_recipe("model: {adapters: [x], quantization: none}\nadapter: {peft_type: none}\n")


def test_other_weights_are_another_run(tmp_path: Path) -> None:
    for name, content in (("adapter_config.json", "{}"), ("adapter_model.safetensors", "one")):
        (tmp_path / name).write_text(content)
    section = ModelSection(adapters=(str(tmp_path),))
    before = earlier.identity(section)
    (tmp_path / "adapter_model.safetensors").write_text("two")
    assert earlier.identity(section) != before
    assert earlier.identity(ModelSection()) == ""
