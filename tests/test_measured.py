from __future__ import annotations

from pathlib import Path

import pytest

from fingpt_lora import measured
from fingpt_lora.measured import Measured


def test_the_processor_is_measured_once_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert measured.recall("this one", 1) is None
    found = measured.measure("this one", 1)
    assert found.float32 > 0.1 and found.bfloat16 > 0
    # A backward pass costs more than its forward pass alone.
    assert found.eager_training > found.eager_scoring > 0 and found.sdpa_training > found.sdpa_scoring > 0
    assert measured.recall("this one", 1) == found and measured.recall("this one", 2) is None


def test_the_quicker_attention_is_chosen_for_each_use() -> None:
    found = Measured(200.0, 20.0, eager_training=2.0, sdpa_training=9.0, eager_scoring=1.0, sdpa_scoring=0.5)
    assert (found.attention(training=True), found.attention(training=False)) == ("eager", "sdpa")


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"float32": 1}'])
def test_a_damaged_memory_is_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    measured.measure("this one", 1)
    (place,) = tmp_path.rglob("*.json")
    place.write_text(content)
    assert measured.recall("this one", 1) is None
