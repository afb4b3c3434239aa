"""Duplicates and contradictions: found, handled by a named rule, and counted. Test rows are never touched."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from fingpt_lora.data.rows import BadRow, Row
from fingpt_lora.errors import DataError
from fingpt_lora.tasks.base import Label

_DUPLICATES = {
    "train_test_exact": "Rows removed from training: the same text is held out for test or validation",
    "train_test_normalised": "Rows removed from training: the same but for case, spacing, punctuation or links",
    "other_tasks": "Rows removed from training: another task of the mixture holds the same text out",
    "validation_test": "Rows removed from validation: the same text is in the test",
    "within_train": "Repeated rows removed from training",
    "within_test": "Repeated rows in the test, kept",
}

Policy = Literal["error", "drop", "majority", "keep"]

# ASCII only: a Chinese sentence goes on right behind its link.
_URL = re.compile(r"(?:https?://|\bwww\.)[!-~]+")
_SIGN = re.compile(r"(?<!\w)-(?=[$€£¥]?\d)")
_MINUS = "\N{MINUS SIGN}"


class _Fold(dict[int, str | None]):
    """Code point -> what stays of it: words and numbers as they are, symbols apart, punctuation as a space.

    Symbols stay because they carry sentiment: a rocket is not a falling chart, 5% is not 5, -5 is not 5.
    """

    def __missing__(self, code: int) -> str | None:
        char = chr(code)
        category = unicodedata.category(char)
        if (category.startswith("S") and category != "Sk") or char == "%":
            self[code] = f" {char} "
        else:
            self[code] = " " if category[0] in "PZC" or category == "Sk" else char
        return self[code]


class _Invisible(dict[int, int | None]):
    """Removes what no reader sees: zero-width marks, soft hyphens, the choice of an emoji's style."""

    def __missing__(self, code: int) -> int | None:
        invisible = code in (0xFE0E, 0xFE0F) or unicodedata.category(chr(code)) == "Cf"
        self[code] = None if invisible else code
        return self[code]


_FOLD, _INVISIBLE = _Fold(), _Invisible()


def normalise(text: str) -> str:
    """Return what two copies of one story share: no links, case, spacing or punctuation; every number and sign.

    ``normalise(normalise(text)) == normalise(text)``.
    """
    if text.isascii():
        text = text.lower()
    else:
        # Unicode's own recipe for caseless matching (The Unicode Standard, D146), after what nobody sees is gone.
        text = text.translate(_INVISIBLE)
        for _ in range(2):
            text = unicodedata.normalize("NFKC", unicodedata.normalize("NFD", text).casefold())
    folded = _SIGN.sub(_MINUS, _URL.sub(" ", text)).translate(_FOLD)
    # A text of nothing but punctuation would otherwise equal every other such text.
    return " ".join(folded.split() or text.split())


class Keys(dict[str, str]):
    """text -> normalised text, each computed once."""

    def __missing__(self, text: str) -> str:
        self[text] = key = normalise(text)
        return key


@dataclass(frozen=True)
class Audit:
    """What was read, removed and counted on the way to the splits."""

    rows: Mapping[str, Mapping[str, int]]  # split -> label -> rows; a row of several labels counts under each
    totals: Mapping[str, int] = field(default_factory=dict)  # split -> rows
    rows_read: int = 0  # bad ones included
    bad_rows: tuple[BadRow, ...] = ()
    duplicates: Mapping[str, int] = field(default_factory=dict)
    contradictions: Mapping[str, int | str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)  # file -> SHA-256, hub set -> revision
    licence: str | None = None
    fingerprint: str = ""

    def warned(self, warning: str) -> Audit:
        """Return the audit with one warning more."""
        return replace(self, warnings=(*self.warnings, warning))

    def as_dict(self) -> dict[str, Any]:
        """Return the audit as JSON types."""
        return {
            "rows": {split: dict(counts) for split, counts in self.rows.items()},
            "totals": dict(self.totals),
            "rows_read": self.rows_read,
            "bad_rows": [str(bad) for bad in self.bad_rows],
            "duplicates": dict(self.duplicates),
            "contradictions": dict(self.contradictions),
            "warnings": list(self.warnings),
            "sources": dict(self.sources),
            "licence": self.licence,
            "fingerprint": self.fingerprint,
        }


@dataclass(frozen=True, slots=True)
class Settled:
    """Training rows after repeats and contradictions were dealt with."""

    rows: list[Row]
    repeated: int  # rows dropped because text and label stood there already
    contradicting: int  # texts with several labels
    removed: int  # further rows dropped because of them


def remove_leaks(rows: Sequence[Row], held_out: Iterable[Row], keys: Keys) -> tuple[list[Row], dict[str, int]]:
    """Remove rows whose text also stands in ``held_out``, and count exact and normalised matches apart."""
    exact = {row.text for row in held_out}
    near = {keys[text] for text in exact}
    kept = [row for row in rows if keys[row.text] not in near]  # equal texts have equal keys
    same = sum(row.text in exact for row in rows)
    return kept, {"exact": same, "normalised": len(rows) - len(kept) - same}


def settle(rows: Sequence[Row], policy: Policy, keys: Keys) -> Settled:
    """Keep one of several training rows with the same text and label, and apply the policy to contradictions.

    ``drop`` removes every row of a contradicting text, ``majority`` keeps one row of the most frequent label
    (none where two are equally frequent), ``keep`` keeps one row of each label.

    Raises:
        DataError: the policy is ``error`` and a text carries several labels.
    """
    by_text: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_text[keys[row.text]].append(row)
    kept: set[int] = set()
    repeated = contradicting = removed = 0
    for same in by_text.values():
        firsts: dict[Label | None, Row] = {}
        for row in same:
            firsts.setdefault(row.label, row)
        counts = Counter(row.label for row in same).most_common()
        repeated += len(same) - len(firsts)
        chosen = list(firsts.values())
        if len(firsts) > 1:
            contradicting += 1
            if policy == "error":
                raise _contradiction(chosen)
            if policy == "drop" or (policy == "majority" and counts[0][1] == counts[1][1]):
                chosen = []
            elif policy == "majority":
                chosen = [firsts[counts[0][0]]]
        removed += len(firsts) - len(chosen)
        kept.update(map(id, chosen))
    return Settled([row for row in rows if id(row) in kept], repeated, contradicting, removed)


def _contradiction(rows: Sequence[Row]) -> DataError:
    places = ", ".join(f"{row.origin}:{row.line} ({row.label})" for row in rows)
    return DataError(
        f"One training text carries several labels: {places}. Mend it, or set data.contradictions: drop "
        "(or majority, keep)."
    )


def count_repeats(rows: Sequence[Row], keys: Keys) -> tuple[int, int]:
    """Return (rows whose text stood there before, exactly; texts with several labels) of rows that all stay."""
    by_text: dict[str, set[Label | None]] = defaultdict(set)
    for row in rows:
        by_text[keys[row.text]].add(row.label)
    repeats = len(rows) - len({row.text for row in rows})
    return repeats, sum(len(labels) > 1 for labels in by_text.values())


def fingerprint(splits: Mapping[str, Sequence[Row]]) -> str:
    """Hash every row of every split, in order: what is cached under it can never be stale."""
    digest = hashlib.sha256()
    for name, rows in splits.items():
        for row in rows:
            # JSON, so that no text can imitate the border between two fields.
            digest.update(json.dumps([name, row.label, row.language, row.text], default=repr).encode())
            digest.update(b"\n")
    return digest.hexdigest()


def counted(audit: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield what was counted on the way to the splits: (what, how many), zeros included.

    Args:
        audit: :meth:`Audit.as_dict`; any key may be missing.
    """
    duplicates, contradictions = audit.get("duplicates") or {}, audit.get("contradictions") or {}
    for key in [*_DUPLICATES, *(key for key in duplicates if key not in _DUPLICATES)]:
        if key in duplicates:
            yield _DUPLICATES.get(key, key), duplicates[key]
    if contradictions.get("train") is not None:
        rule = f" (policy: {contradictions['policy']})" if contradictions.get("policy") else ""
        yield f"Training texts under several labels{rule}", contradictions["train"]
    if contradictions.get("train_removed") is not None:
        yield "Rows of such texts removed from training", contradictions["train_removed"]
    if contradictions.get("test") is not None:
        yield "Test texts under several labels, kept", contradictions["test"]
    bad = audit.get("bad_rows")
    if bad is not None:
        yield "Unusable rows skipped", bad if isinstance(bad, int) else len(bad)
