"""Named entities, written after FinGPT: ``Nokia is an organization, Pekka Lundmark is a person.``

The answer names each entity once. Read back to the text, it stands for every occurrence of its words that is not part
of a longer named one, so spans can be compared (exact spans and types, as in CoNLL-2003 and seqeval).
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from fingpt_lora.tasks.base import Answer, Asked, Fact, Language, occurrences, substring

_INSTRUCTIONS: dict[Language, str] = {
    "en": (
        "Name every entity of the text that is one of these: {types}. Answer like this: X is {first}, Y is {last}. "
        "If there is none, answer: none."
    ),
    "zh": "请找出文本中属于下列类型的所有实体：{types}。请这样回答：X是{first}，Y是{last}。如果没有，请回答：无。",
}
_NOTHING: dict[Language, str] = {"en": "none", "zh": "无"}
_SPAN = ("start", "end")
_TYPE, _WORDS = ("type", "label", "entity_type", "entity_group"), ("text", "word", "entity", "mention")


@dataclass(frozen=True)
class EntityTask(Asked):
    """Implements :class:`fingpt_lora.tasks.base.Written`.

    Attributes:
        types: type as the data names it -> the word to ask and answer with.
        asked_in: language of question and answer, or ``auto`` where each row decides.
    """

    types: Mapping[str, str]
    asked_in: Literal["auto", "en", "zh"] = "auto"

    name = "entity"
    several = False
    fields = ("text",)
    columns = ("entities", "spans")

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The types, as the data names them."""
        return tuple(self.types)

    @cached_property
    def aliases(self) -> Mapping[str, str]:
        """Lower-case spelling of a type -> type."""
        return {word.lower(): kind for kind, word in self.types.items()} | {kind.lower(): kind for kind in self.types}

    def instruction(self, language: Language) -> str:
        """Return what stands before the text."""
        words = list(self.types.values())
        listed = ("、" if language == "zh" else ", ").join(words)
        first, last = (_with_article(word, language) for word in (words[0], words[-1]))
        return _INSTRUCTIONS[language].format(types=listed, first=first, last=last)

    def gold(self, raw: Any, text: str) -> Answer | str:
        """Return the answer of a row.

        Args:
            raw: a list of ``{type, text}``, with ``start`` and ``end`` in characters where spans are known; or the
                answer as FinGPT's files write it.
            text: of the row.
        """
        lead = len(text) - len(text.lstrip())  # spans count from the start of the file's text
        text = text.strip()
        if isinstance(raw, str):
            # FinGPT's files end without a full stop.
            language, said = self.language(text), raw.strip().rstrip(".。")
            found = self.read(said if said == _NOTHING[language] else said + ("。" if language == "zh" else "."), text)
            return found or f"'{raw:.60}' does not name entities of the types {', '.join(self.types)}"
        if not isinstance(raw, list) or not all(isinstance(entity, dict) for entity in raw):
            return "its entities are not a list of {type, text}"
        named: list[tuple[str, str]] = []
        facts: list[Fact] = []
        for entity in raw:
            kind = self.aliases.get(str(_first(entity, _TYPE)).strip().lower())
            if kind is None:
                return f"an entity of the type '{_first(entity, _TYPE)}', which task.types does not name"
            start, end = (int(entity.get(key, -1)) if isinstance(entity.get(key), int) else -1 for key in _SPAN)
            spanned = 0 <= start < end
            words = text[max(0, start - lead) : end - lead] if spanned else _first(entity, _WORDS)
            if not isinstance(words, str) or not words.strip() or words not in text:
                return f"its entity '{words}' does not stand in the text"
            if (words, kind) not in named:
                named.append((words, kind))
            if spanned:
                facts.append(Fact(kind, (words, start - lead)))
        written = self.write(named, self.language(text))
        found = self.read(written, text)
        if found is None or found.content != _content(named):
            return "its entities cannot be told apart in an answer"  # such as 'X is a person, Y'
        return Answer(written, tuple(facts) or found.facts, found.content)

    def write(self, named: Sequence[tuple[str, str]], language: Language) -> str:
        """Return the answer that names entities, given as (words, type)."""
        if not named:
            return _NOTHING[language]
        joint = "是" if language == "zh" else " is "
        parts = [f"{words}{joint}{_with_article(self.types[kind], language)}" for words, kind in named]
        return "，".join(parts) + "。" if language == "zh" else ", ".join(parts) + "."

    def read(self, written: str, text: str) -> Answer | None:
        """Return the entities that an answer names, or None where it is not exactly in the format."""
        language = self.language(text)
        if written == _NOTHING[language]:
            return Answer(written, (), [])
        named: list[tuple[str, str]] = []
        place = 0
        while place < len(written):
            match = self._item[language].match(written, place)
            if match is None:
                return None
            kind = next(k for k, word in self.types.items() if _with_article(word, language) == match["type"])
            named.append((match["words"], kind))
            place = match.end()
            if (match["end"] in ".。") != (place == len(written)):
                return None
        named = list(dict.fromkeys(named))
        return Answer(written, _spans(named, text), _content(named)) if named else None

    @cached_property
    def _item(self) -> Mapping[Language, re.Pattern[str]]:
        found: dict[Language, re.Pattern[str]] = {}
        for language in self.languages:
            types = "|".join(re.escape(_with_article(word, language)) for word in self.types.values())
            joint, end = ("是", "，|。$") if language == "zh" else (" is ", r", |\.$")
            found[language] = re.compile(rf"(?P<words>\S(?:.*?\S)??){joint}(?P<type>{types})(?P<end>{end})", re.DOTALL)
        return found

    def grammar(self, text: str) -> str:
        """Return the grammar of all answers to a text; each names words that stand in it."""
        language = self.language(text)
        joint, comma, stop = ("是", "，", "。") if language == "zh" else (" is ", ", ", ".")
        types = " | ".join(_quoted(joint + _with_article(word, language)) for word in self.types.values())
        # Words and type are one terminal: of two, the first would take the space between them.
        return (
            f"start: {_quoted(_NOTHING[language])} | ITEM ({_quoted(comma)} ITEM)* {_quoted(stop)}\n"
            f"ITEM: WORDS ({types})\n{substring('WORDS', text)}"
        )

    def by_heart(self, known: Sequence[Answer]) -> Callable[[str], frozenset[Fact]]:
        """Return what finds the training rows' entities in a text, each under its most frequent type."""
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for answer in known:
            for entity in answer.content:
                counts[entity["text"]][entity["type"]] += 1
        named = [(words, kinds.most_common(1)[0][0]) for words, kinds in sorted(counts.items())]
        return lambda text: frozenset(_spans([one for one in named if one[0] in text], text, missing=False))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _with_article(word: str, language: Language) -> str:
    if language == "zh":
        return word
    return f"{'an' if word[0].lower() in 'aeiou' else 'a'} {word}"


def _content(named: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"type": kind, "text": words} for words, kind in named]


def _spans(named: Sequence[tuple[str, str]], text: str, *, missing: bool = True) -> tuple[Fact, ...]:
    """Return a fact per occurrence of the named words, longest first, none within another; and what has none."""
    places = occurrences((words for words, _ in named), text)
    facts = []
    for words, kind in sorted(named, key=lambda one: -len(one[0])):
        if words in places:
            facts += [Fact(kind, (words, place)) for place in places[words]]
            places[words] = []  # of one name under two types, the first has them
        elif missing:
            facts.append(Fact(kind, (words, -1), grounded=words in text))
    return tuple(facts)


def _first(entity: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((entity[name] for name in names if entity.get(name) not in (None, "")), None)
