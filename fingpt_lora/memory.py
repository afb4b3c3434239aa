"""What a training step takes of memory, told before it is taken. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Numbers that a layer keeps of each token until its gradients are computed, with an adapter on every matrix: about
# sixteen as wide as the model and five as wide as its inner layer. SmolLM2-135M in bfloat16 keeps 1.0 MB of a token by
# that; 1.0 to 1.1 MB were measured, of batches of 2,000 to 9,000 tokens.
_WIDE, _INNER = 16, 5


def longest_batch(lengths: Sequence[int], rows: int, *, padded: bool) -> int:
    """Return how many tokens the largest batch can have.

    Args:
        lengths: tokens of each training row.
        rows: rows of a batch.
        padded: whether shorter rows are filled up to the longest.
    """
    longest = sorted(lengths)[-rows:]
    return max(longest, default=0) * len(longest) if padded else sum(longest)


def activation_bytes(config: Mapping[str, Any], tokens: int, *, number_bytes: int) -> int | None:
    """Return about how much of a batch is kept for the backward pass; None where the model does not tell its sizes.

    Args:
        config: the base model's ``config.json``.
        tokens: of the batch.
        number_bytes: of a number, 2 or 4.
    """
    layers, width = (config.get(key) for key in ("num_hidden_layers", "hidden_size"))
    if not isinstance(layers, int) or not isinstance(width, int):
        return None
    inner = config.get("intermediate_size")
    inner = inner if isinstance(inner, int) else 4 * width
    return tokens * layers * (_WIDE * width + _INNER * inner) * number_bytes


def weight_bytes(base_bytes: int, quantization: str | Mapping[str, Any], *, full: bool) -> int:
    """Return about how much the weights take while they are trained, by the size of their 16-bit checkpoint.

    Args:
        base_bytes: of the checkpoint.
        quantization: the recipe's ``model.quantization``.
        full: whether all weights are trained: in float32, with gradients and the optimizer's two moments.
    """
    if full:
        return 8 * base_bytes
    if not isinstance(quantization, str):
        quantization = "nf4" if quantization.get("load_in_4bit") else "int8"
    bits = {"nf4": 5, "int8": 9}.get(quantization, 16)  # with what is kept to undo it
    return base_bytes * bits // 16
