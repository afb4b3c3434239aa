"""Entities: what is written is what is read, and spans come back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingpt_lora.tasks.base import Answer, Fact
from fingpt_lora.tasks.entity import EntityTask

TASK = EntityTask({"PER": "person", "ORG": "organization", "LOC": "location"}, "en")
ZH = EntityTask({"PER": "人物", "ORG": "机构"}, "zh")
NAMES = st.text(st.sampled_from("AB &.,'-ab1京东"), min_size=1, max_size=8).map(str.strip).filter(bool)


def gold(raw: object, text: str, task: EntityTask = TASK) -> Answer:
    found = task.gold(raw, text)
    assert isinstance(found, Answer), found
    return found


@pytest.mark.parametrize(("task", "kinds"), [(TASK, ("PER", "ORG", "LOC")), (ZH, ("PER", "ORG"))])
@given(data=st.data())
def test_reading_undoes_writing(task: EntityTask, kinds: tuple[str, ...], data: st.DataObject) -> None:
    named = data.draw(st.lists(st.tuples(NAMES, st.sampled_from(kinds)), max_size=4, unique=True))
    language = task.languages[0]
    text = " ; ".join(words for words, _ in named) or "nothing"
    written = task.write(named, language)
    read = task.read(written, text)
    assert read is not None and [(one["text"], one["type"]) for one in read.content] == named
    assert all(fact.grounded for fact in read.facts)


@given(st.lists(st.tuples(NAMES, st.sampled_from(("PER", "ORG"))), min_size=1, max_size=3, unique=True), st.data())
def test_no_near_miss_is_read(named: list[tuple[str, str]], data: st.DataObject) -> None:
    written = TASK.write(named, "en")
    text = " ".join(words for words, _ in named)
    for miss in (written[:-1], written + ".", written + " ", " " + written, written.replace(" is ", " was ")):
        assert TASK.read(miss, text) is None, miss
    assert TASK.read(data.draw(st.sampled_from(["None", "none.", "", "no", "无"])), text) is None


def test_words_stand_for_each_of_their_places_and_longer_ones_go_first() -> None:
    text = "Bank of Ohio and Bank: Bank of Ohio lends. Bankers do not."
    read = TASK.read("Bank is an organization, Bank of Ohio is an organization.", text)
    assert read is not None
    assert set(read.facts) == {
        Fact("ORG", ("Bank of Ohio", 0)),
        Fact("ORG", ("Bank of Ohio", 23)),
        Fact("ORG", ("Bank", 17)),
    }


def test_what_is_not_in_the_text_is_not_grounded() -> None:
    read = TASK.read("Nokia is an organization.", "Ericsson rose.")
    assert read is not None and [fact.grounded for fact in read.facts] == [False]


def test_spans_of_a_file_are_kept() -> None:
    text = "the Bank and a bank; the Bank"
    raw = [{"type": "ORG", "text": "Bank", "start": 4, "end": 8}]
    assert gold(raw, text).facts == (Fact("ORG", ("Bank", 4)),)
    assert gold(raw, text).text == "Bank is an organization."


def test_spans_count_from_the_start_of_the_files_text() -> None:
    answer = gold([{"type": "ORG", "start": 2, "end": 7}], "\n Nokia rose.")
    read = TASK.read(answer.text, "Nokia rose.")
    assert read is not None and read.facts == answer.facts


def test_finetuning_files_of_fingpt_load() -> None:
    text = "Nokia hired Pekka Lundmark."
    found = gold("Nokia is an organization, Pekka Lundmark is a person.", text)
    assert found.content == [{"type": "ORG", "text": "Nokia"}, {"type": "PER", "text": "Pekka Lundmark"}]
    assert gold("Nokia is an organization, Pekka Lundmark is a person", text) == found
    assert gold([], text).text == "none" and gold("none", text) == gold([], text)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ([{"type": "MISC", "text": "Nokia"}], "type 'MISC'"),
        ([{"type": "ORG", "text": "Ericsson"}], "'Ericsson' does not stand in the text"),
        ("Nokia, a firm", "does not name entities"),
        (3, "not a list"),
    ],
)
def test_what_cannot_be_used_says_why(raw: object, reason: str) -> None:
    found = TASK.gold(raw, "Nokia rose.")
    assert isinstance(found, str) and reason in found


def test_known_names_are_found() -> None:
    known = [gold([{"type": "ORG", "text": "Nokia"}], "Nokia rose."), gold([], "Nothing.")]
    assert TASK.by_heart(known)("Yesterday Nokia fell; Ericsson rose.") == {Fact("ORG", ("Nokia", 10))}
