"""Records -> labelled rows, with an account of what was read and what could not be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fingpt_lora.data.audit import Audit, fingerprint
from fingpt_lora.data.labels import LabelMap, Labels
from fingpt_lora.data.layouts import Layout
from fingpt_lora.data.rows import NONE, BadRow, Record, Row, labels_of
from fingpt_lora.data.sources import Source
from fingpt_lora.errors import DataError
from fingpt_lora.sections import DataSection


def make_row(
    record: Record | BadRow, layout: Layout, labels: Labels, require_label: bool
) -> tuple[Row | BadRow, object]:
    """Return the row of a record, or why there is none; and the raw label where that is the reason."""
    if isinstance(record, BadRow):
        return record, None
    values = layout.prepare(record.fields)
    reading = layout.read(values)
    if isinstance(reading, str):
        return BadRow(record.origin, record.line, reading), None
    text, raw, language = reading
    problem = _text_problem(text)
    if problem:
        return BadRow(record.origin, record.line, problem), None
    label = labels.canonical(raw, text)
    if label is None and require_label:
        reason = layout.no_label(record.fields) if raw is None else labels.problem(raw, text)
        return BadRow(record.origin, record.line, reason), raw
    spoken = language.strip().lower() if isinstance(language, str) and language.strip() else None
    return Row(text.strip(), label, record.origin, record.line, spoken, values), None


def _text_problem(text: object) -> str | None:
    if text is None or (isinstance(text, str) and not text.strip()):
        return "it has no text"
    if not isinstance(text, str):
        return f"its text is not a text but {text!r:.40}"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "its text holds half a character (a lone surrogate), as from a story cut in the middle of an emoji"
    return None


@dataclass
class Intake:
    """Reads sources and keeps the account of it."""

    data: DataSection
    labels: Labels
    layout: Layout
    rows_read: int = 0
    bad: list[BadRow] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    licences: list[str | None] = field(default_factory=list)

    def without(self, own: list[Source], held_out: Mapping[str, list[Source]]) -> list[Source]:
        """Take files out of the training sources that are also named as test or validation."""
        taken = {source.file: key for key, sources in held_out.items() for source in sources if source.file}
        for source in own:
            if source.file in taken:
                self.warnings.append(f"'{source.name}' is in data.path too; used as data.{taken[source.file]} only")
        return [source for source in own if source.file is None or source.file not in taken]

    def read(self, sources: Sequence[Source], key: str) -> list[Row]:
        """Return the labelled rows of sources.

        Raises:
            DataError: there are none, or more bad ones than the recipe tolerates.
        """
        if not sources:
            raise DataError(f"{key}: every file of it is also named as test or validation, so no row is left.")
        rows: list[Row] = []
        bad: list[BadRow] = []
        numbers: dict[str, str] = {}
        for source in sources:
            before = len(rows) + len(bad)
            for record in source.records():
                row, raw = make_row(record, self.layout, self.labels, require_label=True)
                if isinstance(row, Row):
                    rows.append(row)
                    continue
                bad.append(row)
                if raw is None or not isinstance(self.labels, LabelMap) or not isinstance(record, Record):
                    continue
                if self.labels.unmapped_number(raw):
                    reading = self.layout.read(record.fields)
                    numbers.setdefault(str(raw).strip(), "" if isinstance(reading, str) else str(reading.text))
            self._note(source, empty=len(rows) + len(bad) == before)
        shown = sources[0].name if len(sources) == 1 else f"{sources[0].name} and {len(sources) - 1} more"
        self.rows_read += len(rows) + len(bad)
        if not rows and not bad:
            raise DataError(f"{key}: '{shown}' holds no rows.")
        if len(bad) > self.data.bad_rows * (len(rows) + len(bad)):
            if numbers and not rows and isinstance(self.labels, LabelMap):
                raise self.labels.numbers_error(shown, numbers)
            raise _too_many(bad, len(rows) + len(bad), shown, self.data.bad_rows)
        self.bad += bad
        if not rows:
            raise DataError(f"{key}: '{shown}' holds no usable rows; the first is bad because {bad[0].reason}.")
        return rows

    def take(self, sources: Sequence[Source], build: Callable[[list[Path]], list[Row]]) -> list[Row]:
        """Return the rows that ``build`` makes of the files."""
        rows = build([source.file for source in sources if source.file])
        self.rows_read += len(rows)
        for source in sources:
            self._note(source, empty=False)
        return rows

    def _note(self, source: Source, *, empty: bool) -> None:
        self.digests[source.name] = source.digest()
        self.licences.append(source.licence)
        if source.note:
            self.warnings.append(source.note)
        if empty:
            self.warnings.append(f"'{source.name}' holds no rows")

    def audit(
        self,
        parts: Mapping[str, Sequence[Row]],
        duplicates: Mapping[str, int],
        contradictions: Mapping[str, int | str],
    ) -> Audit:
        """Close the account."""
        counts = {name: Counter(label for row in part for label in labels_of(row)) for name, part in parts.items()}
        shown = (*self.labels.labels, NONE) if self.labels.several else self.labels.labels
        rows = {name: {label: count[label] for label in shown} for name, count in counts.items()}
        for name, said in (("train", "training"), ("test", "test")):
            missing = [label for label, count in rows.get(name, {}).items() if count == 0 and label != NONE]
            self.warnings += [f"no {said} row is labelled '{label}'" for label in missing]
        stated = dict.fromkeys(self.licences)
        return Audit(
            rows=rows,
            totals={name: len(part) for name, part in parts.items()},
            rows_read=self.rows_read,
            bad_rows=tuple(self.bad),
            duplicates=duplicates,
            contradictions=contradictions,
            warnings=tuple(self.warnings),
            sources=self.digests,
            # One source that states nothing leaves the licence of the whole unknown.
            licence=None if None in stated else ", ".join(map(str, stated)) or None,
            fingerprint=fingerprint(parts),
        )


def _too_many(bad: Sequence[BadRow], rows: int, shown: str, tolerated: float) -> DataError:
    reasons = {row.reason for row in bad}
    if len(bad) == rows > 1 and len(reasons) == 1:
        reason = reasons.pop()
        end = "" if reason.endswith(("?", ".")) else "."
        return DataError(f"None of the {rows} rows of '{shown}' can be used: {reason}{end}")
    lines = "\n".join(f"  {row}" for row in bad[:5])
    more = f"\n  ... and {len(bad) - 5} more" if len(bad) > 5 else ""
    return DataError(
        f"{len(bad)} of {rows} rows of '{shown}' cannot be used:\n{lines}{more}\nMend them (data.labels and "
        "data.fields map what the file calls differently), or tolerate them with "
        f"data.bad_rows: {_share_above(len(bad) / rows)} (now {tolerated:g}); they are then left out and counted."
    )


def _share_above(share: float) -> str:
    """Return the next round share, so that the number can be pasted as it stands."""
    steps = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
    return f"{next((step for step in steps if step >= share), 0.99):g}"
