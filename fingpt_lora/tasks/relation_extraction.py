"""Relations that a text states, written after FinGPT: ``owns: ACME, Rival; founded by: Rival, Jane Doe.``"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from fingpt_lora.tasks.base import Answer, Asked, Fact, Language, substring

_INSTRUCTIONS: dict[Language, str] = {
    "en": (
        "Name every relation that the text states, of these: {relations}. Copy both parties from the text and answer "
        "like this: {first}: X, Y; {last}: X, Z. If there is none, answer: none."
    ),
    "zh": (
        "请找出文本陈述的所有关系，限于：{relations}。双方均照抄原文，这样回答：{first}: 甲, 乙; {last}: 甲, 丙。"
        "如果没有，请回答：无。"
    ),
}
_NOTHING: dict[Language, str] = {"en": "none", "zh": "无"}
_STOP: dict[Language, str] = {"en": ".", "zh": "。"}

# A party holds commas and semicolons (1,250.5), but none at its ends or before a space, where they part it from what
# follows: a third ", " would leave open where one ends. There is no look-around in it, as grammars have none.
_EDGE = r"[^\s\x1c-\x1f,;]"
_PARTY = rf"{_EDGE}(?:(?:[^,;]|[,;]+[^ ,;])*[,;]*{_EDGE})?"


@dataclass(frozen=True)
class RelationExtractionTask(Asked):
    """Implements :class:`fingpt_lora.tasks.base.Written`.

    Attributes:
        relations: relation as the data names it -> the words to ask and answer with.
        asked_in: language of the question, or ``auto`` where each row decides.
    """

    relations: Mapping[str, str]
    asked_in: Literal["auto", "en", "zh"] = "auto"

    name = "relation_extraction"
    several = False
    fields = ("text",)
    columns = ("relations",)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The relations, as the data names them."""
        return tuple(self.relations)

    @cached_property
    def aliases(self) -> Mapping[str, str]:
        """Lower-case spelling of a relation -> relation."""
        words = {word.lower(): relation for relation, word in self.relations.items()}
        return words | {relation.lower(): relation for relation in self.relations}

    def instruction(self, language: Language) -> str:
        """Return what stands before the text."""
        words = list(self.relations.values())
        listed = ("、" if language == "zh" else ", ").join(words)
        return _INSTRUCTIONS[language].format(relations=listed, first=words[0], last=words[-1])

    def gold(self, raw: Any, text: str) -> Answer | str:
        """Return the answer of a row.

        Args:
            raw: a list of ``{relation, head, tail}`` or of triples in this order; or the answer as FinGPT's files
                write it.
            text: of the row.
        """
        stop = _STOP[self.language(text)]
        if isinstance(raw, str):
            stated = raw.strip().rstrip(".。")
            found = self.read(stated if stated == _NOTHING[self.language(text)] else stated + stop, text)
            return found or f"'{raw:.60}' does not name relations of task.choices, as 'owns: ACME, Rival'"
        if not isinstance(raw, list):
            return "its relations are not a list of {relation, head, tail}"
        triples: list[tuple[str, str, str]] = []
        for one in raw:
            cells = [one.get(key) for key in ("relation", "head", "tail")] if isinstance(one, Mapping) else one
            if not isinstance(cells, (list, tuple)) or len(cells) != 3 or not all(isinstance(c, str) for c in cells):
                return "its relations are not a list of {relation, head, tail}"
            relation = self.aliases.get(cells[0].strip().lower())
            if relation is None:
                return f"a relation '{cells[0]}', which task.choices does not name"
            strange = next((party for party in cells[1:] if not party.strip() or party not in text), None)
            if strange is not None:
                return f"its party '{strange}' does not stand in the text"
            triples.append((relation, cells[1], cells[2]))
        triples = list(dict.fromkeys(triples))
        found = self.read(self.write(triples, self.language(text)), text)
        if found is None or found.content != _content(triples):
            return "its relations cannot be told apart in an answer"  # such as a party with a comma
        return found

    def write(self, triples: Sequence[tuple[str, str, str]], language: Language) -> str:
        """Return the answer that states (relation, head, tail)."""
        if not triples:
            return _NOTHING[language]
        said = [f"{self.relations[relation]}: {head}, {tail}" for relation, head, tail in triples]
        return "; ".join(said) + _STOP[language]

    def read(self, written: str, text: str) -> Answer | None:
        """Return the relations that an answer states, or None where it is not exactly in the format."""
        language = self.language(text)
        if written == _NOTHING[language]:
            return Answer(written, (), [])
        if not written.endswith(_STOP[language]):
            return None
        said, triples = written[: -len(_STOP[language])], []
        place, end = 0, "; "
        while end:
            match = self._item.match(said, place)
            if match is None:
                return None
            relation = next(name for name, word in self.relations.items() if word == match["relation"])
            triples.append((relation, match["head"], match["tail"]))
            place, end = match.end(), match["end"]
        triples = list(dict.fromkeys(triples))
        facts = tuple(Fact(r, (head, tail), grounded=head in text and tail in text) for r, head, tail in triples)
        return Answer(written, facts, _content(triples))

    @cached_property
    def _item(self) -> re.Pattern[str]:
        words = "|".join(re.escape(word) for word in sorted(self.relations.values(), key=len, reverse=True))
        return re.compile(rf"(?P<relation>{words}): (?P<head>{_PARTY}), (?P<tail>{_PARTY})(?P<end>; |\Z)")

    def grammar(self, text: str) -> str:
        """Return the grammar of all answers to a text; each party is a piece of it."""
        language = self.language(text)
        words = " | ".join(_quoted(f"{word}: ") for word in self.relations.values())
        return (
            f"start: {_quoted(_NOTHING[language])} | ANSWER\n"
            f'ANSWER: ITEM ("; " ITEM)* {_quoted(_STOP[language])}\nITEM: ({words}) PARTY ", " PARTY\n'
            + substring("PARTY", text, shape=_PARTY)
        )

    def by_heart(self, known: Sequence[Answer]) -> Callable[[str], frozenset[Fact]]:
        """Return what states each known pair of parties in its most frequent relation, where a text names both."""
        counts: dict[tuple[str | int, ...], Counter[str]] = {}
        for fact in (fact for answer in known for fact in answer.facts):
            counts.setdefault(fact.said, Counter())[fact.kind] += 1
        pairs = [Fact(kinds.most_common(1)[0][0], said) for said, kinds in counts.items()]
        return lambda text: frozenset(fact for fact in pairs if all(str(party) in text for party in fact.said))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _content(triples: Sequence[tuple[str, str, str]]) -> list[dict[str, str]]:
    return [{"relation": relation, "head": head, "tail": tail} for relation, head, tail in triples]
