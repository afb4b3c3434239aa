"""Events as JSON: types and roles as the recipe names them, every value a span of the text.

One event is ``{"type": ..., "trigger": ..., ROLE: [...], ...}``; a text has a list of them. Figures follow the usual
reading of event extraction (Doddington et al. 2004, ACE): a trigger counts with its event's type, a value with type
and role. Data without triggers (event type and subject, as in CCKS 2019) leave them out; the type counts instead.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, create_model

from fingpt_lora.tasks.base import Answer, Asked, Fact, Language, substring

_INSTRUCTIONS: dict[Language, str] = {
    "en": (
        "Extract the events of the text as a JSON list; [] if there is none. Every value is copied from the text. "
        "Leave out roles that the text does not fill. Types and their roles:\n{schema}"
    ),
    "zh": (
        "请抽取文本中的事件，以 JSON 列表回答；没有则为 []。"
        "每个值都必须照抄原文，文本没有的角色不写。类型及其角色：\n{schema}"
    ),
}
_TYPE, _TRIGGER, _ROLE = "type", "trigger", "role"
_NOTHING = ("", "nan", "none", "null")  # how tables leave a cell empty


@dataclass(frozen=True)
class EventExtractionTask(Asked):
    """Implements :class:`fingpt_lora.tasks.base.Written`.

    Attributes:
        roles: event type -> the roles that its events may fill, in the order of the answer.
        asked_in: language of the question, or ``auto`` where each row decides.
        triggers: whether each event names the words that tell of it.
    """

    roles: Mapping[str, Sequence[str]]
    asked_in: Literal["auto", "en", "zh"] = "auto"
    triggers: bool = True

    name = "event_extraction"
    several = False
    fields = ("text",)
    columns = ("events",)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The event types."""
        return tuple(self.roles)

    @cached_property
    def aliases(self) -> Mapping[str, str]:
        """Lower-case spelling of a type -> type."""
        return {kind.lower(): kind for kind in self.roles}

    def instruction(self, language: Language) -> str:
        """Return what stands before the text."""
        schema = "\n".join(f"{kind}: {', '.join(roles)}" for kind, roles in self.roles.items())
        return _INSTRUCTIONS[language].format(schema=schema)

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """What columns may hold of the event that a row tells."""
        return (_TYPE, _TRIGGER, *dict.fromkeys(role for roles in self.roles.values() for role in roles))

    def together(self, answers: Sequence[Answer], text: str) -> Answer:
        """Return the answer that states the events of several rows of one text."""
        found = self.gold([event for answer in answers for event in answer.content], text)
        assert isinstance(found, Answer)  # as each of them was
        return found

    @cached_property
    def _schema(self) -> TypeAdapter[list[Any]]:
        """All answers: pydantic models of the events, told apart by their type."""
        text = Annotated[str, Field(min_length=1)]
        events: list[Any] = []
        for number, (kind, roles) in enumerate(self.roles.items()):
            fields: dict[str, Any] = {"kind": (Literal[kind], Field(alias=_TYPE))}
            if self.triggers:
                fields[_TRIGGER] = (text, ...)
            # Attributes go by place: a role may be called anything, as sub-org.
            for place, role in enumerate(roles):
                fields[f"role_{place}"] = (Annotated[list[text], Field(min_length=1)], Field(None, alias=role))
            config = ConfigDict(extra="forbid", strict=True)
            events.append(create_model(f"Event{number}", __config__=config, **fields))
        union = events[0]
        for event in events[1:]:
            union = union | event
        tagged = Annotated[union, Field(discriminator="kind")] if len(events) > 1 else union
        return TypeAdapter(list[tagged])  # type: ignore[valid-type]

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON schema of all answers."""
        return self._schema.json_schema(by_alias=True)

    def gold(self, raw: Any, text: str) -> Answer | str:
        """Return the answer of a row.

        Args:
            raw: a list of events, as the answer is written or as FewFC's files have them: ``{type, mentions:
                [{word, role, span}]}``, the trigger being one of the roles; or the cells that hold the parts of one.
            text: of the row.
        """
        if isinstance(raw, Mapping):
            raw = _told(raw)
        if not isinstance(raw, list) or not all(isinstance(event, dict) for event in raw):
            return "its events are not a list of {type, trigger, ...}"
        read = [_from_mentions(event) if "mentions" in event else event for event in raw]
        if any(event is None for event in read):
            return "the mentions of an event are not a list of {word, role, span}"
        strange = next((key for event in read if event for key, value in event.items() if not _is_words(value)), None)
        if strange is not None:
            return f"'{strange}' of an event is neither a text nor a list of them"
        events = [self._ordered(event, text) for event in read if event]
        unique = [event for place, event in enumerate(events) if event not in events[:place]]
        written = json.dumps(unique, ensure_ascii=False, separators=(",", ":"))
        problem = self._problem(unique)
        if problem:
            return problem
        found = self.read(written, text)
        unknown = None if found is None else next((fact for fact in found.facts if fact.grounded is False), None)
        if found is None or unknown is not None:
            what = "" if unknown is None else f" '{unknown.said[-1]}'"
            return f"a value{what} of its events does not stand in the text"
        return found

    def _problem(self, events: Sequence[Mapping[str, Any]]) -> str | None:
        for event in events:
            kind = str(event.get(_TYPE))
            if kind not in self.roles:
                return f"an event of the type '{kind:.60}', which task.roles does not name"
            strange = next((key for key in event if key not in (_TYPE, _TRIGGER, *self.roles[kind])), None)
            if strange is not None:
                return f"an event '{kind}' with the role '{strange}', which task.roles does not name"
        try:
            self._schema.validate_python(list(events))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            return f"its events do not fit the schema: {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}"
        return None

    def _ordered(self, event: Mapping[str, Any], text: str) -> dict[str, Any]:
        """Return the event as it is written: roles in the order of the recipe, values in that of the text."""
        known = self.roles.get(str(event.get(_TYPE)), ())
        head = (_TYPE, _TRIGGER) if self.triggers else (_TYPE,)
        ordered = {key: event[key] for key in head if key in event}
        for role in (*known, *(key for key in event if key not in (_TYPE, _TRIGGER, *known))):
            values = event.get(role)
            if isinstance(values, str):
                values = [values]
            if values:
                unique = list(dict.fromkeys(values))
                ordered[role] = sorted(unique, key=lambda value: text.find(str(value)))
        return ordered

    def read(self, written: str, text: str) -> Answer | None:
        """Return the events of an answer, or None where it is not JSON by the schema."""
        if written != written.strip():
            return None
        try:
            events = json.loads(written, object_pairs_hook=_without_repeats)
            self._schema.validate_python(events)
        except (ValueError, RecursionError):  # pydantic's error is a ValueError
            return None
        facts: dict[Fact, None] = {}
        for event in events:
            if not self.triggers:
                facts[Fact(event[_TYPE], (_TYPE,), _TYPE, None)] = None
            for key, value in event.items():
                if key == _TRIGGER:
                    facts[Fact(event[_TYPE], (_TRIGGER, value), _TRIGGER, value in text)] = None
                elif key != _TYPE:
                    for one in value:
                        facts[Fact(event[_TYPE], (key, one), _ROLE, one in text)] = None
        return Answer(written, tuple(facts), events)

    def grammar(self, text: str) -> str:
        """Return the grammar of all answers to a text; each value is a piece of it."""
        rules = []
        for number, (kind, roles) in enumerate(self.roles.items()):
            head = _quoted(f'{{"type":{_quoted(kind)}')
            trigger = f"{_quoted(f',{_quoted(_TRIGGER)}:')} value" if self.triggers else ""
            rest = " ".join(f"({_quoted(f',{_quoted(role)}:')} values)?" for role in roles)
            rules.append(f'event{number}: {head} {trigger} {rest} "}}"\n')
        events = " | ".join(f"event{number}" for number in range(len(self.roles)))
        return (
            f'start: "[]" | "[" event ("," event)* "]"\nevent: {events}\n{"".join(rules)}'
            'values: "[" value ("," value)* "]"\nvalue: "\\"" SPAN "\\""\n'
            + substring("SPAN", text, lambda character: _quoted(character)[1:-1])
        )

    def by_heart(self, known: Sequence[Answer]) -> Callable[[str], frozenset[Fact]]:
        """Return what finds the training rows' triggers and values in a text, of types whose trigger stands there.

        Without triggers: of types of which a value stands there.
        """
        found = {fact for answer in known for fact in answer.facts if fact.part != _TYPE}
        facts = sorted(found, key=lambda fact: (fact.kind, fact.said))

        def find(text: str) -> frozenset[Fact]:
            there = [fact for fact in facts if str(fact.said[-1]) in text]
            if not self.triggers:
                return frozenset([*there, *(Fact(fact.kind, (_TYPE,), _TYPE, None) for fact in there)])
            kinds = {fact.kind for fact in there if fact.part == _TRIGGER}
            return frozenset(fact for fact in there if fact.kind in kinds)

        return find


def _told(cells: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the event whose parts stand in these cells, or nothing where nothing fills them."""
    event = {part: cell for part, cell in cells.items() if str(cell).strip().casefold() not in _NOTHING}
    return [] if _TYPE not in event or (len(cells) > 1 and len(event) == 1) else [event]


def _is_words(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(one, str) for one in value))


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key stands there twice")
    return dict(pairs)


def _from_mentions(event: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read FewFC's mentions, in the order of the text: one trigger, and roles with any number of values."""
    found: dict[str, Any] = {_TYPE: event.get(_TYPE)}
    mentions = event["mentions"]
    if not isinstance(mentions, list) or not all(isinstance(one, Mapping) for one in mentions):
        return None
    for mention in sorted(mentions, key=_start):
        role, word = str(mention.get("role")), mention.get("word")
        if role == _TRIGGER:
            found.setdefault(_TRIGGER, word)
        else:
            found.setdefault(role, []).append(word)
    return found


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _start(mention: Mapping[str, Any]) -> int:
    span = mention.get("span")
    return span[0] if isinstance(span, list) and span and isinstance(span[0], int) else 0
