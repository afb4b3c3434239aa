"""What the columns of a record mean: plain columns, FinGPT, Alpaca, FinLoRA, PIXIU or chat messages."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from fingpt_lora.data.rows import BadRow, Record
from fingpt_lora.errors import DataError, did_you_mean

_TEXT_NAMES = (
    "text",
    "sentence",
    "content",
    "headline",
    "news",
    "title",
    "tweet",
    "context",
    "input",
    "query",
)
_LABEL_NAMES = ("label", "sentiment", "output", "target", "answer", "class", "gold")

# FinGPT's plain prompt, as its data sets and FinLoRA's contexts carry it; only this exact frame is taken off.
_FRAME = re.compile(r"\AInstruction: .*?\nInput: (?P<text>.*?)\s*\nAnswer:\s*\Z", re.DOTALL)

Pair = tuple[Any, Any]  # (text, raw label or None)


def detect_layout(values: Mapping[str, Any], wanted: str) -> str:
    """Return the layout of a record by its column names, unless one is asked for."""
    if wanted != "auto":
        return wanted
    names = values.keys()
    if "messages" in names:
        return "messages"
    if {"instruction", "output"} <= names:
        return "fingpt"
    if {"query", "answer"} <= names:
        return "pixiu"
    if {"context", "target"} <= names:
        return "finlora"
    return "columns"


def read_pair(record: Record, layout: str, fields: Mapping[str, str]) -> Pair | BadRow:
    """Return text and raw label of a record (the label None where it has none).

    Raises:
        DataError: a mapped column does not exist, or no column looks like a text.
    """
    if fields or layout == "columns":
        return _columns(record, fields)
    pair = _READERS[layout](record.values)
    return BadRow(record.origin, record.line, pair) if isinstance(pair, str) else pair


def _columns(record: Record, fields: Mapping[str, str]) -> Pair:
    text = _column(record, "text", fields, _TEXT_NAMES)
    if text is None:
        raise DataError(
            f"{record.origin}: none of its columns ({', '.join(record.values)}) looks like the text. Name it: "
            "data.fields: {text: COLUMN, label: COLUMN}."
        )
    label = _column(record, "label", fields, _LABEL_NAMES)
    return record.values[text], None if label is None else record.values[label]


def _column(record: Record, field: str, fields: Mapping[str, str], known: tuple[str, ...]) -> str | None:
    if field in fields:
        name = fields[field]
        if name not in record.values:
            hint = did_you_mean(name, list(record.values))
            raise DataError(f"data.fields.{field}: {record.origin} has no column '{name}'.{hint}")
        return name
    by_lower = {str(name).lower(): name for name in record.values}
    return next((by_lower[name] for name in known if name in by_lower), None)


def _instruction(values: Mapping[str, Any]) -> Pair:
    """FinGPT and Alpaca: the article is the input, or the instruction where there is no input."""
    text = values.get("input")
    return _bare(values["instruction"] if text in (None, "") else text), values.get("output")


def _finlora(values: Mapping[str, Any]) -> Pair:
    return _bare(values.get("context")), values.get("target")


def _pixiu(values: Mapping[str, Any]) -> Pair | str:
    """PIXIU: ``gold`` is the place of the answer among the choices; ``answer`` is its word."""
    text = values.get("text")
    answer, choices, gold = values.get("answer"), values.get("choices"), values.get("gold")
    if answer in (None, "") and isinstance(choices, list) and isinstance(gold, int) and 0 <= gold < len(choices):
        answer = choices[gold]
    return _bare(values.get("query") if text in (None, "") else text), answer


def _messages(values: Mapping[str, Any]) -> Pair | str:
    turns = values.get("messages")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return "'messages' is not a list of {role, content}"
    said = {role: [t.get("content") for t in turns if t.get("role") == role] for role in ("user", "assistant")}
    if not said["user"]:
        return "'messages' holds no user turn"
    return _bare(said["user"][-1]), said["assistant"][-1] if said["assistant"] else None


def _bare(text: Any) -> Any:
    match = _FRAME.match(text) if isinstance(text, str) else None
    return match["text"] if match else text


_READERS: dict[str, Callable[[Mapping[str, Any]], Pair | str]] = {
    "fingpt": lambda values: _instruction(values) if "instruction" in values else "no column 'instruction'",
    "alpaca": lambda values: _instruction(values) if "instruction" in values else "no column 'instruction'",
    "finlora": lambda values: _finlora(values) if "context" in values else "no column 'context'",
    "pixiu": lambda values: _pixiu(values) if "query" in values or "text" in values else "no column 'query'",
    "messages": lambda values: _messages(values),
}
