"""A LoRA layer that adds its low-rank product in place: the same mathematics in fewer passes over memory.

PEFT computes ``base(x) + lora_B(lora_A(dropout(x))) * scaling``: the product, its scaling and the sum are three more
tensors as wide as the layer's output, written and read again, and as many in the backward pass. Here the matrix
library accumulates into the output (``addmm``), forward and backward.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import Linear
from peft.tuners.tuners_utils import BaseTunerLayer


class _AddLowRank(torch.autograd.Function):
    """``x W' + b + s (x A') B'`` for a frozen W; x (tokens, in), W (out, in), A (rank, in), B (out, rank)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        inner = x @ a.t()  # (tokens, rank)
        output: torch.Tensor = torch.nn.functional.linear(x, weight, bias).addmm_(inner, b.t(), alpha=scaling)
        ctx.save_for_backward(x, weight, a, b, inner)
        ctx.scaling = scaling
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, a, b, inner = ctx.saved_tensors
        gradient = gradients[0]
        through = (gradient @ b).mul_(ctx.scaling)  # (tokens, rank)
        to_input = (gradient @ weight).addmm_(through, a) if ctx.needs_input_grad[0] else None
        to_b = (gradient.t() @ inner).mul_(ctx.scaling)
        return to_input, None, None, through.t() @ x, to_b, None


class FusedLinear(Linear):  # type: ignore[misc]
    """PEFT's LoRA layer; where nothing but the plain product is asked for, it is computed in place."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the adapted layer's output.  # (..., out)"""
        names = [name for name in self.active_adapters if name in self.lora_A]
        if args or kwargs or len(names) != 1 or not self._plain(names[0], x):
            output: torch.Tensor = super().forward(x, *args, **kwargs)
            return output
        name, base = names[0], self.base_layer
        a, b = self.lora_A[name].weight.to(x.dtype), self.lora_B[name].weight.to(x.dtype)
        flat: torch.Tensor = _AddLowRank.apply(  # type: ignore[no-untyped-call]
            x.flatten(0, -2), base.weight, base.bias, a, b, self.scaling[name]
        )
        return flat.view(*x.shape[:-1], -1)

    def _plain(self, name: str, x: torch.Tensor) -> bool:
        kind = x.device.type
        cast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        return (
            not (self.disable_adapters or self.merged or self.fan_in_fan_out)
            and name not in self.lora_variant
            and self.lora_B[name].bias is None
            and (not self.training or isinstance(self.lora_dropout[name], torch.nn.Identity))
            and not self.base_layer.weight.requires_grad
            and x.dtype == self.base_layer.weight.dtype == cast
        )


def _fused_or_none(target: torch.nn.Module, adapter_name: str, **kwargs: Any) -> FusedLinear | None:
    """PEFT also offers quantized layers, which are linear layers by descent only; they keep their own class."""
    base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
    return FusedLinear(target, adapter_name, **kwargs) if type(base) is torch.nn.Linear else None


def fuse(config: LoraConfig) -> LoraConfig:
    """Let PEFT build :class:`FusedLinear` for plain linear layers; adapters are saved and loaded as ever."""
    config._register_custom_module({torch.nn.Linear: _fused_or_none})
    return config
