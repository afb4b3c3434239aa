"""Duplicates and contradictions: found, handled by a named rule, and counted. Test rows are never touched."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fingpt_lora.data.rows import BadRow, Row
from fingpt_lora.errors import DataError

Policy = Literal["error", "drop", "majority", "keep"]
_URL = re.compile(r"https?://\S+|www\.\S+")
_NOT_WORD = re.compile(r"[^\w%$€£¥+\-]+|_+")


def normalise(text: str) -> str:
    """Return what two copies of a story share: no links, no case, no spacing or punctuation; numbers and signs stay."""
    text = _URL.sub(" ", unicodedata.normalize("NFKC", text)).casefold()
    return " ".join(_NOT_WORD.sub(" ", unicodedata.normalize("NFKC", text)).split())


@dataclass
class Audit:
    """What was read, removed and counted on the way to the splits."""

    rows: dict[str, dict[str, int]] = field(default_factory=dict)
    bad_rows: list[BadRow] = field(default_factory=list)
    duplicates: dict[str, int] = field(default_factory=dict)
    contradictions: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    licence: str | None = None
    fingerprint: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the audit as JSON types."""
        return {
            "rows": self.rows,
            "bad_rows": [str(bad) for bad in self.bad_rows],
            "duplicates": self.duplicates,
            "contradictions": self.contradictions,
            "warnings": self.warnings,
            "sources": self.sources,
            "licence": self.licence,
            "fingerprint": self.fingerprint,
        }


def remove_leaks(rows: Sequence[Row], held_out: Iterable[Row]) -> tuple[list[Row], dict[str, int]]:
    """Remove rows whose text also stands in ``held_out``, and count exact and normalised matches apart."""
    held = list(held_out)
    exact, near = {row.text for row in held}, {normalise(row.text) for row in held}
    counts = Counter(
        "exact" if row.text in exact else "normalised" if normalise(row.text) in near else "kept" for row in rows
    )
    kept = [row for row in rows if row.text not in exact and normalise(row.text) not in near]
    return kept, {"exact": counts["exact"], "normalised": counts["normalised"]}


def settle_training(rows: Sequence[Row], policy: Policy) -> tuple[list[Row], int, int]:
    """Keep one of several training rows with the same text and label, and apply the policy to contradictions.

    Returns:
        rows kept in order, repeated rows dropped, texts that carried several labels.

    Raises:
        DataError: the policy is ``error`` and a text carries several labels.
    """
    by_text: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_text[normalise(row.text)].append(row)
    kept: list[Row] = []
    repeated = contradicting = 0
    for same in by_text.values():
        counts = Counter(row.label for row in same)
        firsts = list({row.label: row for row in reversed(same)}.values())
        repeated += len(same) - len(firsts)
        if len(firsts) == 1 or policy == "keep":
            contradicting += len(firsts) > 1
            kept += firsts
            continue
        contradicting += 1
        if policy == "error":
            places = ", ".join(f"{row.origin}:{row.line} ({row.label})" for row in firsts)
            raise DataError(f"One text carries several labels: {places}. Mend it, or set data.contradictions: drop.")
        (winner, most), *others = counts.most_common()
        if policy == "majority" and most > others[0][1]:
            kept.append(next(row for row in same if row.label == winner))
    order = {id(row): place for place, row in enumerate(rows)}
    return sorted(kept, key=lambda row: order[id(row)]), repeated, contradicting


def count_repeats(rows: Sequence[Row]) -> tuple[int, int]:
    """Return (repeated rows, texts with several labels) among rows that stay as they are."""
    by_text: dict[str, set[str | None]] = defaultdict(set)
    for row in rows:
        by_text[normalise(row.text)].add(row.label)
    return len(rows) - len(by_text), sum(len(labels) > 1 for labels in by_text.values())


def fingerprint(splits: Mapping[str, Sequence[Row]]) -> str:
    """Hash every row of every split, in order."""
    digest = hashlib.sha256()
    for name, rows in splits.items():
        digest.update(f"{name}:{len(rows)}\n".encode())
        for row in rows:
            digest.update(f"{row.label}\0{row.text}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
