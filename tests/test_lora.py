"""The fused layer computes what PEFT's computes, and steps aside where it cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear
from torch import nn

from fingpt_lora.lora import FusedLinear, fuse


def adapted(fused: bool, dtype: torch.dtype = torch.float64, bias: bool = True, **settings: Any) -> Any:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(24, 40, bias=bias), nn.SiLU(), nn.Linear(40, 8, bias=bias)).to(dtype)
    config = LoraConfig(**{"r": 4, "target_modules": ["0", "2"], "init_lora_weights": False} | settings)
    return get_peft_model(base, fuse(config) if fused else config, autocast_adapter_dtype=False)


def outcome(model: Any, x: torch.Tensor) -> list[torch.Tensor]:
    torch.manual_seed(1)
    x = x.clone().requires_grad_()
    y = model(x)
    y.square().sum().backward()
    assert x.grad is not None
    return [y.detach(), x.grad, *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "settings", [{}, {"use_rslora": True}, {"lora_dropout": 0.5}, {"use_dora": True}, {"lora_bias": True}]
)
def test_outputs_and_gradients_are_those_of_peft(settings: dict[str, Any], bias: bool) -> None:
    if settings.get("lora_bias") and not bias:
        pytest.skip("PEFT wants a biased base for a biased adapter")
    x = torch.randn(3, 5, 24, dtype=torch.float64)
    ours, theirs = adapted(True, bias=bias, **settings), adapted(False, bias=bias, **settings)
    assert sum(isinstance(module, FusedLinear) for module in ours.modules()) == 2
    for one, other in zip(outcome(ours, x), outcome(theirs, x), strict=True):
        torch.testing.assert_close(one, other)


def test_disabled_merged_and_several_adapters() -> None:
    x = torch.randn(3, 24, dtype=torch.float64)
    ours, theirs = adapted(True), adapted(False)
    with ours.disable_adapter(), theirs.disable_adapter():
        torch.testing.assert_close(ours(x), theirs(x))
    ours.merge_adapter()
    torch.testing.assert_close(ours(x), theirs(x))


def test_autocast_with_float32_weights_is_left_to_peft() -> None:
    x = torch.randn(3, 24)
    ours, theirs = adapted(True, torch.float32), adapted(False, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(ours(x), theirs(x))


def test_an_adapter_is_saved_and_loaded_by_peft_alone(shallow: Callable[..., Any], tmp_path: Path) -> None:
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    ours = get_peft_model(shallow(2), fuse(config)).eval()
    ours.save_pretrained(tmp_path)
    plain = PeftModel.from_pretrained(shallow(2), tmp_path).eval()
    assert not any(isinstance(module, FusedLinear) for module in plain.modules())
    ids = torch.tensor([[1, 5, 9, 12]])
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, plain(ids).logits)


def test_quantized_layers_keep_their_class() -> None:
    import bitsandbytes as bnb

    model = nn.Sequential(bnb.nn.Linear8bitLt(16, 16), nn.Linear(16, 16))
    model.is_loaded_in_8bit = True  # type: ignore[assignment]
    found = get_peft_model(model, fuse(LoraConfig(target_modules=["0", "1"])))
    kinds = [type(module) for module in found.modules() if "lora" in type(module).__module__]
    assert kinds.count(FusedLinear) == 1 and Linear not in kinds
