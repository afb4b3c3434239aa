"""What a row is told beside its article: company facts, earlier prices, passages, each with room of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from fingpt_lora.data import Row, Splits
from fingpt_lora.data.audit import fingerprint
from fingpt_lora.errors import DataError, did_you_mean
from fingpt_lora.prompts import PromptEncoder


def in_splits(splits: Splits, budgets: Mapping[str, int], encoder: PromptEncoder) -> Splits:
    """Return the splits with their context before each article; repeats and leaks were looked for without it.

    Raises:
        DataError: no row has a column that the recipe names.
    """
    if not budgets:
        return splits
    columns = {column for row in splits.train for column in row.fields}
    for column in budgets:
        if column not in columns:
            raise DataError(f"data.context: no row has a column '{column}'.{did_you_mean(column, columns)}")
    parts = {
        name: tuple(put_before(getattr(splits, name), budgets, encoder)) for name in ("train", "validation", "test")
    }
    told = {name: [replace(row, text=row.context + row.text) for row in rows] for name, rows in parts.items()}
    return replace(splits, **parts, audit=replace(splits.audit, fingerprint=fingerprint(told)))


def put_before(rows: Iterable[Row], budgets: Mapping[str, int], encoder: PromptEncoder) -> list[Row]:
    """Return rows with their context, a line per column, which goes before the text.

    Each column is cut to its budget. Where all of it and the article have no room together, the last column gives way
    first, then the one before it, and the article, by its end, last of all.

    Args:
        rows: with the record as it was read in ``fields``.
        budgets: column -> tokens at most, in the order of the lines.
        encoder: cuts by its tokens.
    """
    return [replace(row, context=_context(row, budgets, encoder)) for row in rows] if budgets else list(rows)


def _context(row: Row, budgets: Mapping[str, int], encoder: PromptEncoder) -> str:
    parts = {}
    for column, budget in budgets.items():
        value = row.fields.get(column)
        if value is not None and str(value).strip():
            parts[column] = encoder.cut(" ".join(str(value).split()), budget)
    room = encoder.room(row.text)
    while parts and (over := encoder.length(_lines(parts) + row.text) - room) > 0:
        column, words = parts.popitem()
        kept = encoder.length(words) - over
        if kept > 0 and (shorter := encoder.cut(words, kept)):
            parts[column] = shorter
    return _lines(parts)


def _lines(parts: Mapping[str, str]) -> str:
    return "".join(f"{column}: {words}\n" for column, words in parts.items())
