from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fingpt_lora.data.columnar import ClassName
from fingpt_lora.data.files import read_records
from fingpt_lora.data.paths import expand
from fingpt_lora.data.rows import Record
from fingpt_lora.errors import DataError

pa = pytest.importorskip("pyarrow")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ROWS = st.lists(
    st.fixed_dictionaries({"text": TEXT, "label": st.integers(-5, 5), "notes": st.lists(TEXT, max_size=2)}),
    min_size=1,
    max_size=8,
)


def values(paths: list[Path]) -> list[Any]:
    return [dict(row.fields) for path in paths for row in read_records(path) if isinstance(row, Record)]


def write_table(path: Path, rows: list[dict[str, Any]], kind: str) -> None:
    table = pa.Table.from_pylist(rows)
    if kind == "parquet":
        import pyarrow.parquet

        pyarrow.parquet.write_table(table, path)
        return
    new = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
    with new(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=3)


@given(ROWS, st.sampled_from(["parquet", "file", "stream"]))
@settings(max_examples=40, deadline=None)
def test_rows_come_back_as_written(rows: list[dict[str, Any]], kind: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("a.parquet" if kind == "parquet" else "a.arrow")
        write_table(path, rows, kind)
        assert values([path]) == rows


def test_rows_are_counted_across_batches(tmp_path: Path) -> None:
    write_table(tmp_path / "a.arrow", [{"text": str(n)} for n in range(3000)], "stream")
    lines = [row.line for row in read_records(tmp_path / "a.arrow")]
    assert lines == list(range(1, 3001))


def test_what_datasets_saved_is_read_with_its_splits_and_class_names(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bearish", "bullish"])}
    )
    train = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    test = datasets.Dataset.from_dict({"text": ["c"], "label": [-1]}, features=features)
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(tmp_path / "both")
    (tmp_path / "both" / "train" / "cache-1234.arrow").write_bytes(b"left over by a map() call")
    assert values(expand(str(tmp_path / "both"))) == [
        {"split": "train", "text": "a", "label": "bullish"},
        {"split": "train", "text": "b", "label": "bearish"},
        {"split": "test", "text": "c", "label": None},
    ]
    train.save_to_disk(tmp_path / "one")
    (first, _) = values(expand(str(tmp_path / "one")))
    assert first == {"text": "a", "label": "bullish"}
    assert isinstance(first["label"], ClassName) and first["label"].number == 1
    train.to_parquet(tmp_path / "a.parquet")
    assert values([tmp_path / "a.parquet"])[0]["label"] == "bullish"


def test_other_files_under_these_names_are_errors(write: Callable[..., str]) -> None:
    for name in ("a.parquet", "a.arrow"):
        for content in (b"", b"no such file, but long enough to be looked at"):
            with pytest.raises(DataError, match="is not a readable"):
                values([Path(write(name, content))])
    with pytest.raises(DataError, match="compress themselves"):
        values([Path(write("a.parquet.gz", b"x"))])
