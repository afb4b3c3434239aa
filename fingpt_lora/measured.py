"""What this CPU makes of each precision and each attention, measured once and remembered: flags tell what it claims.

The measurement takes a second or two, belongs to processor, cores and torch version, and is kept in the cache folder,
so that reading it needs no torch.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fingpt_lora.atomic import write_json
from fingpt_lora.checkpoints import cache_folder

_SHAPE = (512, 768, 768)  # tokens, in, out: a layer of a small model in a small batch
_HEADS = (16, 8, 96, 64)  # rows, heads, tokens, head size: its attention over short news
_USES, _KINDS = ("training", "scoring"), ("eager", "sdpa")
_TIMES = 7


@dataclass(frozen=True)
class Measured:
    """Matrix products of a processor in 10^9 operations per second, and attention with a mask in milliseconds."""

    float32: float
    bfloat16: float
    eager_training: float  # forward and backward
    sdpa_training: float
    eager_scoring: float  # forward
    sdpa_scoring: float

    def attention(self, *, training: bool) -> str:
        """Return the quicker of transformers' two implementations."""
        if training:
            return "sdpa" if self.sdpa_training < self.eager_training else "eager"
        return "sdpa" if self.sdpa_scoring < self.eager_scoring else "eager"


def _place(name: str, cores: int) -> Path:
    told = ",".join(field.name for field in fields(Measured))
    key = hashlib.sha256(f"{name}|{cores}|{version('torch')}|{told}".encode()).hexdigest()[:16]
    return cache_folder() / "machines" / f"{key}.json"


def recall(name: str, cores: int) -> Measured | None:
    """Return what was measured before on this processor, or None."""
    try:
        return Measured(**json.loads(_place(name, cores).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def measure(name: str, cores: int) -> Measured:
    """Measure and remember."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(cores)
    try:
        float32, bfloat16 = _speed("float32"), _speed("bfloat16")
        dtype = "bfloat16" if bfloat16 > float32 else "float32"
        times = {f"{kind}_{use}": _attention(kind, use, dtype) for use in _USES for kind in _KINDS}
        found = Measured(float32, bfloat16, **times)
    finally:
        torch.set_num_threads(before)
    place = _place(name, cores)
    place.parent.mkdir(parents=True, exist_ok=True)
    write_json(place, asdict(found))
    return found


def _median(what: Callable[[], Any]) -> float:
    """Return the median seconds of a few calls."""
    seconds = []
    for _ in range(_TIMES):
        start = time.perf_counter()
        what()
        seconds.append(time.perf_counter() - start)
        if sum(seconds) > 1.0:  # emulated element by element; one call has told it
            break
    return statistics.median(seconds)


def _speed(dtype: str) -> float:
    import torch

    tokens, inner, outer = _SHAPE
    a = torch.ones(tokens, inner, dtype=getattr(torch, dtype))
    b = torch.ones(inner, outer, dtype=getattr(torch, dtype))
    return 2 * tokens * inner * outer / _median(lambda: a @ b) / 1e9


def _attention(kind: str, use: str, dtype: str) -> float:
    """Time one attention, as transformers computes it, over rows padded on the left."""
    import torch

    rows, _, tokens, size = _HEADS
    training = use == "training"
    q, k, v = (torch.randn(_HEADS, dtype=getattr(torch, dtype), requires_grad=training) for _ in range(3))
    allowed = torch.ones(rows, 1, tokens, tokens, dtype=torch.bool).tril()
    for row in range(rows):
        allowed[row, :, :, :row] = False
    bias = torch.zeros(allowed.shape, dtype=q.dtype).masked_fill(~allowed, torch.finfo(q.dtype).min)

    def once() -> None:
        with torch.set_grad_enabled(training):
            if kind == "sdpa":
                output = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
            else:
                weights = torch.softmax(q @ k.transpose(2, 3) * size**-0.5 + bias, dim=-1, dtype=torch.float32)
                output = weights.to(q.dtype) @ v
            if training:
                output.sum().backward()  # type: ignore[no-untyped-call]

    return _median(once) * 1000
