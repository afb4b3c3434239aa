"""Files that are whole or not there: written beside their place and moved into it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically.

    Half a surrogate pair, which UTF-8 has no bytes for and broken files have, is written as ``\\ud83d``: in JSON
    that is its very spelling.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes atomically: a reader, or a run killed in between, sees the old file or the new one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.chmod(name, 0o644)  # mkstemp makes files private
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, with sorted keys.

    NaN and infinity, which JSON has no words for, become null; NumPy values become plain ones.
    """
    text = json.dumps(_plain(content), indent=2, sort_keys=True, ensure_ascii=False, default=str, allow_nan=False)
    write_text(path, text + "\n")


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # NumPy arrays and numbers, without importing NumPy
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Build a folder under another name and move it into place when the block ends well.

    Where another process was faster, its folder stays and ours is dropped.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield building
        building.chmod(0o755)
        try:
            building.rename(path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
