from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fingpt_lora.data.paths import expand, format_of
from fingpt_lora.errors import DataError

Write = Callable[..., str]


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_the_name_tells_the_format() -> None:
    known = {"a.CSV": "csv", "a.csv.gz": "csv", "a.b.tsv": "tsv", "a.jsonl.GZ": "jsonl", "a.feather": "arrow"}
    assert {name: format_of(Path(name)) for name in known} == known
    assert format_of(Path("a.dat")) is None and format_of(Path("csv")) is None and format_of(Path("a.gz")) is None


def test_folders_hold_known_files_in_order(write: Write, tmp_path: Path) -> None:
    for name in ("b.csv", "a.jsonl.gz", "sub/c.json", "notes.md", "LICENSE.txt", "README.txt", ".cache/d.csv"):
        write(f"news/{name}", "x")
    assert names(expand(str(tmp_path / "news"))) == ["a.jsonl.gz", "b.csv", "c.json"]


def test_globs_are_sorted_and_each_file_comes_once(write: Write, tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv", "c.json"):
        write(name, "x")
    found = expand(["c.json", "*.csv", "a.csv"], base_dir=tmp_path)
    assert names(found) == ["c.json", "a.csv", "b.csv"]


def test_brackets_in_a_name_are_no_glob(write: Write) -> None:
    path = write("news[1].csv", "x")
    assert expand(path) == [Path(path)]


def test_what_is_missing_is_named(write: Write, tmp_path: Path) -> None:
    write("headlines.csv", "x")
    with pytest.raises(DataError, match=r"data\.test: there is no file or folder 'headline\.csv'.*'headlines\.csv'"):
        expand("headline.csv", base_dir=tmp_path, key="data.test")
    with pytest.raises(DataError, match=rf"no file matches '\*\.tsv' \(looked in '{tmp_path}'\)\."):
        expand("*.tsv", base_dir=tmp_path)
    with pytest.raises(DataError, match=rf"there is no file or folder '{tmp_path}/other'\.$"):
        expand(f"{tmp_path}/other")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no data file"):
        expand("empty", base_dir=tmp_path)


def test_a_broken_saved_data_set_is_named(write: Write, tmp_path: Path) -> None:
    write("saved/state.json", "{}")
    write("saved/dataset_info.json", "{}")
    with pytest.raises(DataError, match="looks like a saved data set"):
        expand("saved", base_dir=tmp_path)
