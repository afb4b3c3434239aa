"""How other projects lay out a record: FinGPT, Alpaca, FinLoRA, PIXIU, chat messages, and columns of any name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fingpt_lora.tasks.headline import from_gold_columns

# Column names whose meaning is beyond doubt, the plainest first. Matched without case, spaces as underscores.
_TEXT = (
    *("text", "sentence", "content", "headline", "news", "title", "tweet", "body", "article", "post", "summary"),
    *("input", "context", "query", "文本", "正文", "内容", "标题"),
)
LABEL = (
    *(
        "label",
        "labels",
        "sentiment",
        "output",
        "target",
        "answer",
        "gold",
        "class",
        "relation",
        "标签",
        "情感",
        "关系",
    ),
    *("events", "事件", "entities", "spans", "relations"),
)

# FinGPT's plain prompt, as its data sets and FinLoRA's contexts carry it. Only this exact frame is taken off;
# what else stands around an article cannot be told from the article.
_FRAME = re.compile(r"\AInstruction: .*?\nInput: (?P<text>.*)\nAnswer: ?\Z", re.DOTALL)

_HUMAN, _MODEL = ("user", "human"), ("assistant", "gpt")


def strip_frame(text: Any) -> Any:
    """Return the article inside FinGPT's ``Instruction: ...\\nInput: ...\\nAnswer: ``; anything else unchanged."""
    match = _FRAME.match(text) if isinstance(text, str) else None
    return match["text"] if match else text


def detect(values: Mapping[str, Any]) -> str:
    """Return the layout that the column names show, with or without the column of the answer."""
    names = values.keys()
    if "tweets" in names and "prev_moves" in names:
        return "stocknet"
    if "News" in names and "Price Direction Up" in names:
        return "gold_headlines"
    if "messages" in names or "conversations" in names:
        return "messages"
    if "instruction" in names and ("input" in names or "output" in names):
        return "fingpt"
    if "query" in names and names & {"answer", "gold", "choices"}:
        return "pixiu"
    if "context" in names and "target" in names:
        return "finlora"
    return "columns"


def fits(layout: str, values: Mapping[str, Any]) -> bool:
    """Return whether a record has what a layout needs."""
    return layout == "columns" or any(name in values for name in _NEEDED[layout])


Pair = tuple[Any, Any]  # (text, raw label or None)


def _columns(values: Mapping[str, Any]) -> Pair | str:
    if not has(values, _TEXT):
        hint = " Is its first line a header?" if any(len(str(name)) > 40 for name in values) else ""
        problem = f"none of its columns ({listed(values)}) looks like the text"
        return f"{problem}; name it: data.fields: {{text: COLUMN}}.{hint}"
    return named(values, _TEXT), named(values, LABEL)


def _fingpt(values: Mapping[str, Any]) -> Pair | str:
    """FinGPT and Alpaca: the article is the input, or within the instruction where there is no input."""
    if "instruction" not in values:
        return f"no column 'instruction' among {listed(values)}"
    return _first(values, "input", "instruction"), values.get("output")


def _finlora(values: Mapping[str, Any]) -> Pair | str:
    if "context" not in values:
        return f"no column 'context' among {listed(values)}"
    return values["context"], values.get("target")


def _pixiu(values: Mapping[str, Any]) -> Pair | str:
    """PIXIU: ``answer`` is the word, ``gold`` its place among the choices, ``text`` the bare article."""
    if "query" not in values and "text" not in values:
        return f"no column 'query' among {listed(values)}"
    answer, choices, gold = _first(values, "answer"), values.get("choices"), values.get("gold")
    if answer is None and isinstance(choices, list) and isinstance(gold, int) and 0 <= gold < len(choices):
        answer = choices[gold]
    return _first(values, "text", "query"), answer


def _messages(values: Mapping[str, Any]) -> Pair | str:
    """Chat turns, OpenAI's (role, content) or ShareGPT's (from, value): the last question and the answer to it."""
    turns = values.get("messages", values.get("conversations"))
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return "'messages' is not a list of {role, content}"
    said = [(turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))) for turn in turns]
    asked = max((place for place, (role, _) in enumerate(said) if role in _HUMAN), default=None)
    if asked is None:
        return "'messages' holds no user turn"
    answers = [content for role, content in said[asked + 1 :] if role in _MODEL]
    return _joined(said[asked][1]), _joined(answers[-1]) if answers else None


def _stocknet(values: Mapping[str, Any]) -> Pair | str:
    if "decided_at" not in values:
        return "it has not all of ticker, date (2014-01-31), prev_moves and tweets ([[date, text], ...])"
    return values["text"], values.get("label")


def _gold_headlines(values: Mapping[str, Any]) -> Pair | str:
    if not any(str(name).startswith("Price Direction") for name in values):
        return values.get("News"), None
    try:
        return values.get("News"), from_gold_columns(values)
    except KeyError as error:
        return f"no column {error} among {listed(values)}"
    except ValueError as error:
        return str(error)


def _joined(content: Any) -> Any:
    """Content may come in parts, [{type: text, text: ...}]."""
    if isinstance(content, list) and all(isinstance(part, dict) and "text" in part for part in content):
        return "".join(str(part["text"]) for part in content)
    return content


def _first(values: Mapping[str, Any], *names: str) -> Any:
    return next((values[name] for name in names if values.get(name) not in (None, "")), None)


def _plain(name: object) -> str:
    return re.sub(r"[\s-]+", "_", str(name).strip().casefold())


def has(values: Iterable[object], known: tuple[str, ...]) -> bool:
    """Return whether a column has one of the known names."""
    return any(_plain(name) in known for name in values)


def named(values: Mapping[str, Any], known: tuple[str, ...]) -> Any:
    """Return the cell of the first known name that is a column; None where none is."""
    for name in known:  # the common spelling first: this runs once per row
        if name in values:
            return values[name]
    by_name = {_plain(name): value for name, value in values.items()}
    return next((by_name[name] for name in known if name in by_name), None)


def listed(values: Iterable[object]) -> str:
    """Return the names of columns for a message."""
    names = [str(name)[:40] for name in values]
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")


READERS: dict[str, Callable[[Mapping[str, Any]], Pair | str]] = {
    "columns": _columns,
    "fingpt": _fingpt,
    "alpaca": _fingpt,
    "finlora": _finlora,
    "pixiu": _pixiu,
    "messages": _messages,
    "stocknet": _stocknet,
    "gold_headlines": _gold_headlines,
}
_NEEDED = {
    "fingpt": ("instruction",),
    "alpaca": ("instruction",),
    "finlora": ("context",),
    "pixiu": ("query",),
    "messages": ("messages", "conversations"),
    "stocknet": ("tweets",),
    "gold_headlines": ("News",),
}
