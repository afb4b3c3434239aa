"""CoNLL's columns: a token per line, its tag last, an empty line after each sentence.

Tags may be IO, IOB1, IOB2 or IOBES (BILOU): a span goes on while its type stays the same and no prefix begins or ends
one. Tokens are joined by spaces; the files do not tell where there were none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, TextIO

from fingpt_lora.data.rows import BadRow, Record

DOCUMENT = "-DOCSTART-"
_TAG = re.compile(r"(?P<prefix>[BIESLU])-(?P<type>\S+)")
_BEGINS, _ENDS = "BSU", "ELSU"


def read_conll(stream: TextIO, origin: str) -> Iterator[Record | BadRow]:
    """Yield a record ``{text, entities: [{type, text, start, end}], document}`` per sentence; places count characters.

    Documents are numbered by their ``-DOCSTART-``, so that their sentences can be kept together: ``data.split: {method:
    group, column: document}``. A sentence of bare words, without tags, has no ``entities``.
    """
    sentence: list[tuple[int, list[str]]] = []
    document = 0
    for number, line in enumerate(stream, start=1):
        cells = line.split()
        if cells and cells[0] != DOCUMENT:
            sentence.append((number, cells))
            continue
        if sentence:
            yield _record(sentence, origin, document)
            sentence = []
        document += bool(cells)
    if sentence:
        yield _record(sentence, origin, document)


def _record(sentence: list[tuple[int, list[str]]], origin: str, document: int) -> Record | BadRow:
    first = sentence[0][0]
    text = " ".join(cells[0] for _, cells in sentence)
    if all(len(cells) == 1 for _, cells in sentence):
        return Record({"text": text, "document": f"{origin}#{document}"}, origin, first)
    entities: list[dict[str, Any]] = []
    place, open_type = 0, None  # the type of the span that the last token may hand on
    for number, (token, *others) in sentence:
        tag = others[-1] if others else ""
        found = _TAG.fullmatch(tag)
        if found is None and tag != "O":
            return BadRow(origin, number, f"'{tag or token}' is no tag: neither O nor a type after B-, I-, E- or S-")
        end = place + len(token)
        if found is None:
            open_type = None
        else:
            if found["type"] == open_type and found["prefix"] not in _BEGINS:
                entities[-1] |= {"text": text[entities[-1]["start"] : end], "end": end}
            else:
                entities.append({"type": found["type"], "text": token, "start": place, "end": end})
            open_type = None if found["prefix"] in _ENDS else found["type"]
        place = end + 1
    return Record({"text": text, "entities": entities, "document": f"{origin}#{document}"}, origin, first)
