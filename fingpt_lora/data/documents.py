"""Documents that carry several rows: TAT-QA's and FinQA's tables and paragraphs with the questions about them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fingpt_lora.data.rows import BadRow, Record

DOCUMENT = "document"  # column of the rows, by which they can be kept together: data.split: {method: group}


def unfold(records: Iterable[Record | BadRow]) -> Iterator[Record | BadRow]:
    """Yield the rows of records: one per question about a document, or the record itself.

    A row has ``text`` (the table first, a line per row, then the paragraphs), ``question``, ``label`` (the answer with
    all that the file says of it) and ``document``.
    """
    for record in records:
        fields = record.fields if isinstance(record, Record) else {}
        if isinstance(record, BadRow):
            yield record
        elif isinstance(fields.get("questions"), list) and isinstance(fields.get("table"), Mapping):
            yield from _tatqa(record)
        elif isinstance(fields.get("qa"), Mapping) and isinstance(fields.get("table"), list):
            yield from _finqa(record)
        else:
            yield record


def _tatqa(record: Record) -> Iterator[Record | BadRow]:
    fields = record.fields
    found = [one for one in fields.get("paragraphs") or [] if isinstance(one, Mapping)]
    paragraphs = [str(one.get("text", "")) for one in sorted(found, key=lambda one: one.get("order") or 0)]
    text = _text(fields["table"].get("table"), paragraphs)
    if text is None:
        yield BadRow(record.origin, record.line, "its table is not a list of lists of cells")
        return
    for asked in fields["questions"]:
        if isinstance(asked, Mapping):
            row = {"text": text, "question": asked.get("question"), "label": _answer(asked)}
            yield Record(row | {DOCUMENT: str(fields["table"].get("uid"))}, record.origin, record.line)
        else:
            yield BadRow(record.origin, record.line, "one of its questions is not an object")


def _finqa(record: Record) -> Iterator[Record | BadRow]:
    fields = record.fields
    paragraphs = [str(line) for key in ("pre_text", "post_text") for line in fields.get(key) or []]
    text = _text(fields["table"], paragraphs)
    if text is None:
        yield BadRow(record.origin, record.line, "its table is not a list of lists of cells")
        return
    row = {"text": text, "question": fields["qa"].get("question"), "label": _answer(fields["qa"])}
    yield Record(row | {DOCUMENT: str(fields.get("filename") or fields.get("id"))}, record.origin, record.line)


def _answer(asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what belongs to the answer, None of a question without one."""
    names = ("answer", "answer_type", "scale", "derivation", "program", "exe_ans")
    found = {name: asked[name] for name in names if name in asked}
    return found if "answer" in found or "exe_ans" in found else None


def _text(table: Any, paragraphs: Sequence[str]) -> str | None:
    if not isinstance(table, list) or not all(isinstance(cells, list) for cells in table):
        return None
    lines = [" | ".join(" ".join(str(cell).split()) for cell in cells) for cells in table]
    return "\n".join([*lines, *(" ".join(paragraph.split()) for paragraph in paragraphs)])
