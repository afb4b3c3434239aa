"""Data sets of the Hugging Face hub, by id, revision and split. Nothing is fetched unless a recipe names one."""

from __future__ import annotations

import os
from collections.abc import Iterator

from fingpt_lora.data.rows import Record
from fingpt_lora.errors import DataError

PREFIX = "hub:"


def read_hub(name: str, split: str, *, config: str | None, revision: str | None) -> Iterator[Record]:
    """Yield the records of one split.

    Raises:
        DataError: the data set, its split or the hub cannot be reached.
    """
    import datasets

    try:
        rows = datasets.load_dataset(name, config, revision=revision, split=split)
    except Exception as error:  # datasets raises many kinds; all of them mean that there are no rows
        offline = " HF_HUB_OFFLINE is set, so nothing is fetched." if os.environ.get("HF_HUB_OFFLINE") else ""
        raise DataError(
            f"data.path: the hub data set '{name}' (split '{split}') cannot be loaded: {str(error).splitlines()[0]}{offline}"
        ) from None
    origin = f"{PREFIX}{name}[{split}]"
    for number, values in enumerate(rows, start=1):
        yield Record(_with_label_names(values, rows.features), origin, number)


def _with_label_names(values: dict[str, object], features: dict[str, object]) -> dict[str, object]:
    """Replace the numbers of ClassLabel columns by their names: the data set itself says what they mean."""
    named = dict(values)
    for column, feature in features.items():
        value = values.get(column)
        if hasattr(feature, "int2str") and isinstance(value, int) and value >= 0:
            named[column] = feature.int2str(value)
    return named
