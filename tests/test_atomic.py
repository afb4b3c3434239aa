"""Files and folders appear whole or not at all."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from fingpt_lora import atomic


def test_json_is_sorted_plain_and_has_no_nan(tmp_path: Path) -> None:
    content = {
        "b": math.nan,
        "a": [math.inf, 1.5, np.float64("nan"), np.int64(3)],
        "array": np.array([[1, 2]]),
        "负面": (1,),
        3: Path("x"),
    }
    atomic.write_json(tmp_path / "x.json", content)
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert "负面" in text
    assert list(json.loads(text)) == sorted(map(str, content))
    assert json.loads(text) == {
        "b": None,
        "a": [None, 1.5, None, 3],
        "array": [[1, 2]],
        "负面": [1],
        "3": "x",
    }


def test_half_a_surrogate_pair_survives(tmp_path: Path) -> None:
    atomic.write_json(tmp_path / "x.json", {"text": "up \ud83d"})
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"text": "up \ud83d"}


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atomic.write_text(tmp_path / "x", "old")

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space"):
        atomic.write_text(tmp_path / "x", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text(encoding="utf-8") == "old"


def test_files_are_readable_by_others(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "x", "text")
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o644


def test_a_folder_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "folder"
    with atomic.new_folder(target) as building:
        (building / "a").write_text("1", encoding="utf-8")
        assert not target.exists()
    assert (target / "a").read_text(encoding="utf-8") == "1"
    assert [path.name for path in target.parent.iterdir()] == ["folder"]


def test_a_folder_that_failed_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic.new_folder(tmp_path / "folder"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_the_faster_process_wins(tmp_path: Path) -> None:
    with atomic.new_folder(tmp_path / "folder") as building:
        (building / "mine").touch()
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "theirs").touch()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["theirs"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
