"""Data sets of the Hugging Face hub, by id, revision and split. Nothing is fetched unless a recipe names one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from fingpt_lora.data.columnar import name_classes
from fingpt_lora.data.rows import Record
from fingpt_lora.errors import DataError

PREFIX = "hub:"


def load_hub(name: str, split: str, *, config: str | None = None, revision: str | None = None) -> Any:
    """Return one split as a ``datasets.Dataset``. No code from the repository is run.

    Raises:
        DataError: the data set, its split or the hub cannot be reached.
    """
    import datasets

    try:
        return datasets.load_dataset(name, config, revision=revision, split=split)
    except Exception as error:  # datasets raises many kinds; all of them mean that there are no rows
        first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise DataError(f"The hub data set '{name}' (split '{split}') cannot be loaded: {first}.{_offline()}") from None


def hub_records(rows: Any, origin: str) -> Iterator[Record]:
    """Yield the records of a ``datasets.Dataset``, class numbers replaced by the names the data set gives them."""
    names = {
        column: [str(name) for name in feature.names]
        for column, feature in rows.features.items()
        if getattr(feature, "_type", "") == "ClassLabel" and feature.names
    }
    for number, values in enumerate(rows, start=1):
        yield Record(name_classes(dict(values), names), origin, number)


def _offline() -> str:
    for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        if os.environ.get(variable, "").lower() in ("1", "true", "yes", "on"):
            return f" {variable} is set, so nothing is fetched; unset it, or use a file."
    return " Check its name, or use a file."
