"""Records from Parquet and Arrow files (IPC file or stream, Feather, ``datasets.save_to_disk``), batch by batch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fingpt_lora.data.paths import saved_split
from fingpt_lora.data.rows import Record
from fingpt_lora.errors import DataError

_ROWS = 1024  # turned into Python objects at once


class ClassName(str):
    """The name that a data set itself gives to a class number; the number stays with it.

    A recipe's label map may be written with either, and what the recipe says goes first.
    """

    __slots__ = ("number",)
    number: int

    def __new__(cls, name: str, number: int) -> ClassName:
        """Return ``name``, knowing its number."""
        self = super().__new__(cls, name)
        self.number = number
        return self


def name_classes(values: dict[str, Any], names: dict[str, list[str]]) -> dict[str, Any]:
    """Replace class numbers by their names, where ``names`` has a column's; -1 means "no label" there."""
    for column, words in names.items():
        value = values.get(column)
        if isinstance(value, int) and value < len(words):
            values[column] = ClassName(words[value], value) if value >= 0 else None
    return values


def read_columnar(path: Path, kind: str) -> Iterator[Record]:
    """Yield the records of a Parquet or Arrow file with their row numbers.

    Raises:
        DataError: it is no such file.
    """
    import pyarrow as pa

    if path.suffix.lower() == ".gz":
        raise DataError(f"'{path}': {kind} files compress themselves; unpack it first.")
    split, number = saved_split(path), 0
    try:
        for batch, names in _batches(path, kind):
            for values in batch.to_pylist():
                number += 1
                values = name_classes(values, names)
                yield Record({"split": split, **values} if split else values, str(path), number)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"'{path}' is not a readable {kind} file: {str(error).splitlines()[0]}") from None


def _batches(path: Path, kind: str) -> Iterator[tuple[Any, dict[str, list[str]]]]:
    import pyarrow as pa

    if kind == "parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(str(path)) as file:
            names = _class_names(file.schema_arrow)
            for batch in file.iter_batches(batch_size=_ROWS):
                yield batch, names
        return
    with pa.memory_map(str(path)) as mapped:
        try:
            opened = pa.ipc.open_file(mapped)
            batches = (opened.get_batch(place) for place in range(opened.num_record_batches))
        except pa.ArrowInvalid:
            mapped.seek(0)
            opened = batches = pa.ipc.open_stream(mapped)  # what datasets writes
        names = _class_names(opened.schema)
        for batch in batches:
            for start in range(0, batch.num_rows, _ROWS):
                yield batch.slice(start, _ROWS), names


def _class_names(schema: Any) -> dict[str, list[str]]:
    """Read the class names that ``datasets`` keeps in a schema's metadata: column -> names in order."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            column: [str(name) for name in feature["names"]]
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
        }
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}  # metadata of something else
