"""Shared by the tests of the data package."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

REAL = Path(__file__).parents[2] / "shared" / "data"
if not REAL.is_dir():
    REAL = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def real() -> Callable[[str], str]:
    """Return the path of a real data set of the development machine; it is never part of the repository."""

    def find(name: str) -> str:
        path = REAL / name
        if not path.exists():
            pytest.skip(f"the development data set {name} is not on this machine")
        return str(path)

    return find


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Write a file of text, bytes or JSON lines, and return its path."""

    def write_file(name: str, content: str | bytes | Iterable[Mapping[str, Any]], encoding: str = "utf-8") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_bytes(content.encode(encoding))
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
        return str(path)

    return write_file
