"""What the columns of a record mean: plain columns, FinGPT, Alpaca, FinLoRA, PIXIU or chat messages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from fingpt_lora.data.point_in_time import from_stocknet
from fingpt_lora.errors import DataError, did_you_mean
from fingpt_lora.tasks.choice import BETWEEN
from fingpt_lora.tasks.headline import from_gold_columns
from fingpt_lora.tasks.question import ask

OUR_FIELDS = ("text", "label", "language", "split", "head", "tail", "question")

# Column names whose meaning is beyond doubt, the plainest first. Matched without case, spaces as underscores.
_TEXT = (
    *("text", "sentence", "content", "headline", "news", "title", "tweet", "body", "article", "post", "summary"),
    *("input", "context", "query", "文本", "正文", "内容", "标题"),
)
_LABEL = (
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
_LANGUAGE = ("language", "lang")
_QUESTION = ("question", "问题")

# FinGPT's plain prompt, as its data sets and FinLoRA's contexts carry it. Only this exact frame is taken off;
# what else stands around an article cannot be told from the article.
_FRAME = re.compile(r"\AInstruction: .*?\nInput: (?P<text>.*)\nAnswer: ?\Z", re.DOTALL)

_HUMAN, _MODEL = ("user", "human"), ("assistant", "gpt")


class Reading(NamedTuple):
    """What was found in a record, as it stands there; None where there is nothing."""

    text: Any
    label: Any
    language: Any


class Layout:
    """Reads records by the recipe's ``data.layout`` and ``data.fields``."""

    def __init__(
        self,
        layout: str,
        fields: Mapping[str, str],
        needed: Sequence[str] = ("text",),
        *,
        answers: Sequence[str] = (),
        parts: Sequence[str] = (),
        strict: bool = True,
    ) -> None:
        """Remember the recipe's words.

        Args:
            layout: ``auto``, ``columns`` or one of the named layouts.
            fields: our field -> column; what is named here goes before what the layout says.
            needed: our fields of which the task makes its text.
            answers: columns that hold the label of this task, before others that may do so.
            parts: what ``fields`` may name beside our fields: the parts of one label, each with a column.
            strict: without it, a column or layout that a record lacks gives way to a guess. A file for
                ``predict`` need not look like the training file.

        Raises:
            DataError: ``fields`` maps something that is no field of ours.
        """
        known = (*OUR_FIELDS, *parts)
        for field in fields:
            if field not in known:
                raise DataError(f"data.fields: '{field}' is no field of a row.{did_you_mean(field, known)}")
        self._layout, self._fields, self._needed, self._strict = layout, fields, needed, strict
        self._answers, self._parts = answers, [part for part in parts if part in fields]

    def prepare(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the record as its rows are to carry it: StockNet's gets its text, and the times of what it tells."""
        layout = _detect(values) if self._layout == "auto" else self._layout
        try:
            return from_stocknet(values) if layout == "stocknet" else values
        except (KeyError, ValueError, TypeError):
            return values  # read() will say what is missing

    def read(self, values: Mapping[str, Any]) -> Reading | str:
        """Return what a record says, or the reason why it cannot be read."""
        layout = self._layout
        if layout == "auto" or (not self._strict and not _fits(layout, values)):
            layout = _detect(values)
        text, label = self._mapped("text", values), self._mapped("label", values)
        for problem in (text.problem, label.problem):
            if problem:
                return problem
        parts = {part: self._mapped(part, values) for part in self._parts}
        for problem in (part.problem for part in parts.values()):
            if problem:
                return problem
        if any(part.found for part in parts.values()):
            label = _Found({name: part.value for name, part in parts.items()}, True)
        own = next((name for name in self._answers if name in values), None)
        if own is not None and not label.found:
            label = _Found(values[own], True)
        if not (text.found and label.found):
            pair = _READERS[layout](values)
            if isinstance(pair, str) and not text.found:
                return pair
            found = (None, None) if isinstance(pair, str) else pair
            text = text if text.found else _Found(found[0], True)
            label = label if label.found else _Found(found[1], True)
        parties = self._parties(values)
        if isinstance(parties, str):
            return parties
        if parties and isinstance(text.value, str):
            text = _Found(f"{BETWEEN.join(parties)}\n{text.value}", True)
        if "rationale" in self._needed and label.value is not None:
            label = _Found({"label": label.value, "rationale": values.get("rationale")}, True)
        if "question" in self._needed:
            asked = self._mapped("question", values)
            question = asked.value if asked.found else _named(values, _QUESTION)
            if question is None and layout in ("fingpt", "alpaca") and values.get("input"):
                question = values.get("instruction")  # which is the question itself
            problem = asked.problem or _no_question(question, layout)
            if problem and self._strict:
                return problem
            if isinstance(question, str) and isinstance(text.value, str):
                text = _Found(ask(text.value, question), True)
        language = self._mapped("language", values)
        spoken = language.value if language.found else _named(values, _LANGUAGE)
        return Reading(strip_frame(text.value), label.value, spoken)

    def _parties(self, values: Mapping[str, Any]) -> tuple[str, str] | str | None:
        """Return the two parties whose relation is asked for, why they are missing, or None where none are."""
        if "head" not in self._needed:
            return None
        found = []
        for field in ("head", "tail"):
            party = self._mapped(field, values)
            if party.problem:
                return party.problem
            value = party.value if party.found else values.get(field)
            if not isinstance(value, str) or not value.strip():
                # A plain text, as predict takes it, may carry its parties already.
                return f"it names no {field} (data.fields: {{{field}: COLUMN}})" if self._strict else None
            found.append(value.strip())
        return found[0], found[1]

    def no_label(self, values: Mapping[str, Any]) -> str:
        """Return why a record that was read without a label has none."""
        layout = _detect(values) if self._layout == "auto" else self._layout
        if layout == "columns" and "label" not in self._fields and not _has(values, _LABEL):
            return (
                f"none of its columns ({_listed(values)}) looks like the label; name it: data.fields: {{label: COLUMN}}"
            )
        return "it has no label"

    def _mapped(self, field: str, values: Mapping[str, Any]) -> _Found:
        column = self._fields.get(field)
        if column is None:
            return _Found(None, False)
        if column in values:
            return _Found(values[column], True)
        problem = f"no column '{column}' (data.fields.{field}).{did_you_mean(column, map(str, values))}"
        return _Found(None, False, problem if self._strict else None)


def _no_question(question: Any, layout: str) -> str | None:
    # The texts of other layouts hold their question already.
    if layout != "columns" or (isinstance(question, str) and question.strip()):
        return None
    return "it asks no question (data.fields: {question: COLUMN})"


class _Found(NamedTuple):
    value: Any
    found: bool
    problem: str | None = None


def strip_frame(text: Any) -> Any:
    """Return the article inside FinGPT's ``Instruction: ...\\nInput: ...\\nAnswer: ``; anything else unchanged."""
    match = _FRAME.match(text) if isinstance(text, str) else None
    return match["text"] if match else text


def _detect(values: Mapping[str, Any]) -> str:
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


def _fits(layout: str, values: Mapping[str, Any]) -> bool:
    return layout == "columns" or any(name in values for name in _NEEDED[layout])


Pair = tuple[Any, Any]  # (text, raw label or None)


def _columns(values: Mapping[str, Any]) -> Pair | str:
    if not _has(values, _TEXT):
        hint = " Is its first line a header?" if any(len(str(name)) > 40 for name in values) else ""
        named = f"none of its columns ({_listed(values)}) looks like the text"
        return f"{named}; name it: data.fields: {{text: COLUMN}}.{hint}"
    return _named(values, _TEXT), _named(values, _LABEL)


def _fingpt(values: Mapping[str, Any]) -> Pair | str:
    """FinGPT and Alpaca: the article is the input, or within the instruction where there is no input."""
    if "instruction" not in values:
        return f"no column 'instruction' among {_listed(values)}"
    return _first(values, "input", "instruction"), values.get("output")


def _finlora(values: Mapping[str, Any]) -> Pair | str:
    if "context" not in values:
        return f"no column 'context' among {_listed(values)}"
    return values["context"], values.get("target")


def _pixiu(values: Mapping[str, Any]) -> Pair | str:
    """PIXIU: ``answer`` is the word, ``gold`` its place among the choices, ``text`` the bare article."""
    if "query" not in values and "text" not in values:
        return f"no column 'query' among {_listed(values)}"
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
        return f"no column {error} among {_listed(values)}"
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


def _has(values: Iterable[object], known: tuple[str, ...]) -> bool:
    return any(_plain(name) in known for name in values)


def _named(values: Mapping[str, Any], known: tuple[str, ...]) -> Any:
    for name in known:  # the common spelling first: this runs once per row
        if name in values:
            return values[name]
    by_name = {_plain(name): value for name, value in values.items()}
    return next((by_name[name] for name in known if name in by_name), None)


def _listed(values: Iterable[object]) -> str:
    names = [str(name)[:40] for name in values]
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")


_READERS: dict[str, Callable[[Mapping[str, Any]], Pair | str]] = {
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
