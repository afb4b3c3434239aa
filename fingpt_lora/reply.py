"""An answer as a person sees it: as one line, on a terminal, and in a notebook. Nothing here needs a model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from fingpt_lora.tasks.base import occurrences

if TYPE_CHECKING:
    from rich.console import RenderableType

_NOTHING = "(no valid answer)"
_SHORTENED = "The text was too long for the prompt and was shortened."
_HUES = (210, 30, 130, 280, 0, 175, 55, 320)  # of marked kinds, in the order in which they are met
_COLOURS = ("cyan", "yellow", "green", "magenta", "red", "blue")
_BAR = 30  # characters of a bar that is full
_SHOWN = 12  # bars; a task may have dozens of labels
_BOX = "font-family:sans-serif;max-width:50em;margin:.3em 0"


@dataclass(frozen=True)
class Reply:
    """What a run answers to a text.

    Attributes:
        text: that was asked about.
        label: the label; of a task with several, the list of those that apply; what a written answer says, as JSON
            types. None where the answer is not in the format.
        probabilities: label -> probability, where the answer was scored.
        thresholds: label -> probability from which it applies, where several may.
        run: name of the run.
        shortened: whether the text was too long for the prompt, and shortened.
    """

    text: str
    label: Any
    probabilities: Mapping[str, float] | None = None
    thresholds: Mapping[str, float] | None = None
    run: str = ""
    shortened: bool = False

    def __str__(self) -> str:
        """Return the answer as one line: the label and its probability, or what was written as JSON."""
        if self.label is None or self._written:
            return _NOTHING if self.label is None else json.dumps(self.label, ensure_ascii=False)
        line = said(self.label)
        shares = [f"{label} {share:.3f}" for label, share in self._shares[:3]]
        return f"{line} ({', '.join(shares)})" if shares else line

    @property
    def _written(self) -> bool:
        """Whether the label is no label but the content of a written answer."""
        return not isinstance(self.label, str) and self.probabilities is None

    @property
    def _shares(self) -> list[tuple[str, float]]:
        return sorted((self.probabilities or {}).items(), key=lambda one: -one[1])

    def _applies(self, label: str) -> bool:
        return label in self.label if isinstance(self.label, list) else label == self.label

    def _bars(self) -> list[tuple[str, float]]:
        """Return what has a bar: in the task's order, or of many labels the most probable."""
        if len(self.probabilities or {}) <= _SHOWN:
            return list((self.probabilities or {}).items())
        return self._shares[:_SHOWN]

    def __rich__(self) -> RenderableType:
        """Return the answer for a terminal: bars of probabilities, or the marked text and a table."""
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        if not self._written:
            grid = Table.grid(padding=(0, 2))
            for label, share in self._bars():
                bar = Text("█" * round(share * _BAR), style="cyan" if self._applies(label) else "dim")
                grid.add_row(Text(label, style="bold" if self._applies(label) else "dim"), f"{share:6.1%}", bar)
            parts: list[RenderableType] = [Text(said(self.label), style="bold"), grid]
        elif self.label is None:
            parts = [Text(_NOTHING, style="bold")]
        else:
            marked, places = Text(self.text), _places(self.label, self.text)
            for start, stop, kind in places:
                marked.stylize(f"bold {_COLOURS[_number(places, kind) % len(_COLOURS)]}", start, stop)
            columns, rows = _table(self.label)
            table = Table(*columns, box=box.SIMPLE_HEAD)
            for row in rows:
                table.add_row(*map(Text, row))
            parts = [marked, table if rows else Text(said(self.label), style="bold")]
        return Group(*parts, *([Text(_SHORTENED, style="dim")] if self.shortened else []))

    def _repr_html_(self) -> str:
        """Return the answer for a notebook: bars of probabilities, or the marked text and a table."""
        if not self._written:
            parts = [f"<div>{escape(self.text)}</div><b>{escape(said(self.label))}</b>", self._html_bars()]
        elif self.label is None:
            parts = [f"<div>{escape(self.text)}</div><b>{_NOTHING}</b>"]
        else:
            parts = [f"<div>{_marked(self.label, self.text)}</div>", _html_table(self.label)]
        if self.shortened:
            parts.append(f"<small>{_SHORTENED}</small>")
        return f'<div style="{_BOX}">{"".join(parts)}</div>'

    def _html_bars(self) -> str:
        rows = []
        for label, share in self._bars():
            colour = "#3b82c4" if self._applies(label) else "rgba(128,128,128,.4)"
            inner = f'<div style="width:{100 * share:.1f}%;height:100%;background:{colour}"></div>'
            if self.thresholds:
                place = f"left:{100 * self.thresholds[label]:.1f}%"
                inner += f'<div style="position:absolute;top:0;{place};width:1px;height:100%;background:#c33"></div>'
            outer = "position:relative;width:16em;height:.8em;background:rgba(128,128,128,.12)"
            bar = f'<div style="{outer}">{inner}</div>'
            rows.append(f"<span>{escape(label)}</span><span>{100 * share:.1f} %</span>{bar}")
        grid = "display:grid;grid-template-columns:max-content max-content max-content;gap:.1em .8em;align-items:center"
        return f'<div style="{grid}">{"".join(rows)}</div>' if rows else ""


@dataclass(frozen=True)
class Beside:
    """A run's answer and that of its base to the same question.

    Attributes:
        own: the run's.
        base: that of what it was trained on.
        base_name: which is the untouched base, or one with earlier adapters.
    """

    own: Reply
    base: Reply
    base_name: str = "untouched base"

    def __str__(self) -> str:
        """Return both as a line each."""
        return f"adapter  {self.own}\nbase     {self.base}"

    def __rich__(self) -> RenderableType:
        """Return both for a terminal, one under the other."""
        from rich.console import Group
        from rich.text import Text

        return Group(Text("adapter", style="underline"), self.own, Text(self.base_name, style="underline"), self.base)

    def _repr_html_(self) -> str:
        """Return both for a notebook, side by side."""
        cells = [
            f"<div><i>{name}</i>{reply._repr_html_()}</div>"
            for name, reply in (("adapter", self.own), (self.base_name, self.base))
        ]
        return f'<div style="display:flex;gap:2em;flex-wrap:wrap">{"".join(cells)}</div>'


@dataclass(frozen=True)
class Spoken:
    """What a model said in free talk.

    Attributes:
        text: its words.
        ended: whether it came to an end of its own; else it was cut at ``max_new_tokens``.
        dropped: turns that the conversation had to forget before it.
    """

    text: str
    ended: bool
    dropped: int = 0

    def __str__(self) -> str:
        """Return the words."""
        return self.text

    def _repr_html_(self) -> str:
        """Return the words for a notebook, as plain text, and whether they were cut."""
        rest = "" if self.ended else " …"
        return f'<div style="{_BOX};white-space:pre-wrap">{escape(self.text)}{rest}</div>'


def said(label: Any) -> str:
    """Return an answer for a person: a label, several, or what a written one says."""
    if label is None:
        return _NOTHING
    if isinstance(label, list) and all(isinstance(one, str) for one in label):
        return ", ".join(label) or "none"
    if isinstance(label, list):
        return "\n".join(json.dumps(one, ensure_ascii=False) for one in label) or "none"
    return str(label)


def _facts(content: Any) -> list[Mapping[str, Any]]:
    items = content if isinstance(content, list) else [content]
    return [item if isinstance(item, Mapping) else {"answer": item} for item in items]


def _named(content: Any) -> Iterator[tuple[str, str]]:
    """Yield what a written answer copies from the text, and under which name: an entity's type, an event's role."""
    for fact in _facts(content):
        heading = str(fact.get("type") or fact.get("relation") or "")
        for key, value in fact.items():
            if key not in ("type", "relation", "scale", "calculation"):
                for words in value if isinstance(value, list) else [value]:
                    if isinstance(words, str) and words:
                        yield words, heading if key in ("text", "trigger") else key


def _places(content: Any, text: str) -> list[tuple[int, int, str]]:
    """Return where the text holds what the answer copies from it: (start, end, kind), in order."""
    kinds: dict[str, str] = {}
    for words, kind in _named(content):
        kinds.setdefault(words, kind)
    found = occurrences(kinds, text)
    return sorted((start, start + len(words), kinds[words]) for words, own in found.items() for start in own)


def _number(places: Sequence[tuple[int, int, str]], kind: str) -> int:
    return list(dict.fromkeys(own for _, _, own in places)).index(kind)


def _marked(content: Any, text: str) -> str:
    """Return the text as HTML, with what the answer copies from it marked by colour and named."""
    places, parts, place = _places(content, text), [], 0
    for start, stop, kind in places:
        hue = _HUES[_number(places, kind) % len(_HUES)]
        style = f"background:hsla({hue},80%,55%,.3);color:inherit;padding:0 .15em;border-radius:.2em"
        name = f"<sup>{escape(kind)}</sup>" if kind else ""
        parts += [escape(text[place:start]), f'<mark style="{style}">{escape(text[start:stop])}{name}</mark>']
        place = stop
    return "".join([*parts, escape(text[place:])])


def _table(content: Any) -> tuple[list[str], list[list[str]]]:
    """Return the columns and rows of a written answer, a fact each."""
    facts = _facts(content)
    keys = dict.fromkeys(key for fact in facts for key in fact)
    columns = [key for key in keys if any(fact.get(key) for fact in facts)]
    return columns, [[_cell(fact.get(key)) for key in columns] for fact in facts]


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def _html_table(content: Any) -> str:
    columns, rows = _table(content)
    if not rows:
        return f"<b>{escape(said(content))}</b>"
    lines = [f"<th>{'</th><th>'.join(map(escape, columns))}</th>"]
    lines += [f"<td>{'</td><td>'.join(map(escape, row))}</td>" for row in rows]
    return f"<table><tr>{'</tr><tr>'.join(lines)}</tr></table>"
