"""Labels of files -> labels of the task. Numbers are never guessed: data sets number their labels differently."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fingpt_lora.errors import DataError, did_you_mean

_NUMBER = re.compile(r"[+-]?\d+(\.0*)?")


class LabelMap:
    """Maps raw labels by the recipe's explicit map, else by the task's own words."""

    def __init__(self, written: Mapping[str, str], aliases: Mapping[str, str]) -> None:
        """Args: the recipe's ``data.labels``; lower-case word -> canonical label of the task.

        Raises:
            DataError: the map leads to a label that the task does not have.
        """
        self._aliases = {_key(word): label for word, label in aliases.items()}
        self.labels = tuple(dict.fromkeys(aliases.values()))
        self._written = {}
        for raw, label in written.items():
            if label not in self.labels:
                raise DataError(f"data.labels: the task has no label '{label}'.{did_you_mean(label, self.labels)}")
            self._written[_key(raw)] = label

    def canonical(self, raw: Any) -> tuple[str | None, str | None]:
        """Return (label, None) or (None, reason).

        Raises:
            DataError: the label is a number and the recipe maps none.
        """
        key = _key(raw)
        if not key:
            return None, "no label"
        if self._written:
            if key in self._written:
                return self._written[key], None
            # A map that covers some spellings does not unlearn the task's own words.
            if key in self._aliases and not _NUMBER.fullmatch(key):
                return self._aliases[key], None
            return None, f"label '{raw}' is not in data.labels ({', '.join(self._written)})"
        if key in self._aliases:
            return self._aliases[key], None
        if _NUMBER.fullmatch(key):
            example = ", ".join(f"{i}: {label}" for i, label in enumerate(self.labels))
            raise DataError(
                f"The labels are numbers (the first is {raw}), and data sets number them differently. Say what they "
                f"mean, for example data.labels: {{{example}}}, after looking at three rows of each."
            )
        return None, f"unknown label '{raw}'.{did_you_mean(key, self.labels)}".rstrip(".")


def _key(raw: Any) -> str:
    if raw is None:
        return ""
    text = str(raw).strip().rstrip(".").strip().lower() if isinstance(raw, str) else str(raw).lower()
    return str(int(float(text))) if _NUMBER.fullmatch(text) else text
