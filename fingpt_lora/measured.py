"""What this CPU does with each precision, measured once and remembered: flags tell what it claims.

The measurement takes a second, belongs to processor, cores and torch version, and is kept in the cache folder, so
that reading it needs no torch.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from fingpt_lora.atomic import write_json
from fingpt_lora.checkpoints import cache_folder

_SHAPE = (512, 768, 768)  # tokens, in, out: a layer of a small model in a small batch
_TIMES = 7


@dataclass(frozen=True)
class Products:
    """Matrix products of a processor, in 10^9 floating-point operations per second."""

    float32: float
    bfloat16: float


def _place(name: str, cores: int) -> Path:
    key = hashlib.sha256(f"{name}|{cores}|{version('torch')}".encode()).hexdigest()[:16]
    return cache_folder() / "machines" / f"{key}.json"


def recall(name: str, cores: int) -> Products | None:
    """Return what was measured before on this processor, or None."""
    try:
        return Products(**json.loads(_place(name, cores).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def measure(name: str, cores: int) -> Products:
    """Measure and remember."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(cores)
    try:
        float32 = _speed("float32")
        found = Products(float32, _speed("bfloat16"))
    finally:
        torch.set_num_threads(before)
    place = _place(name, cores)
    place.parent.mkdir(parents=True, exist_ok=True)
    write_json(place, asdict(found))
    return found


def _speed(dtype: str) -> float:
    import torch

    tokens, inner, outer = _SHAPE
    a = torch.ones(tokens, inner, dtype=getattr(torch, dtype))
    b = torch.ones(inner, outer, dtype=getattr(torch, dtype))
    seconds = []
    for _ in range(_TIMES):
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
        if sum(seconds) > 1.0:  # emulated element by element; one product has told it
            break
    return 2 * tokens * inner * outer / statistics.median(seconds) / 1e9
