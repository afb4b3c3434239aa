"""Relations of two parties, written out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingpt_lora.tasks.base import Answer, Fact
from fingpt_lora.tasks.relation_extraction import RelationExtractionTask

TASK = RelationExtractionTask({"own": "owns", "own_by": "owned by"}, "en")
ZH = RelationExtractionTask({"收购": "收购", "被收购": "被收购"}, "zh")
# Commas and semicolons stay within; at an end or before a space they would part it from what follows.
PARTY = st.from_regex(r"[AB.&'京1-]([AB .&'京1\n-]|[,;][AB1])*[AB&'京1]", fullmatch=True)


@pytest.mark.parametrize("task", [TASK, ZH])
@given(data=st.data())
def test_reading_undoes_writing(task: RelationExtractionTask, data: st.DataObject) -> None:
    triples = data.draw(st.lists(st.tuples(st.sampled_from(task.labels), PARTY, PARTY), max_size=3, unique=True))
    text = " and ".join(f"{head} {tail}" for _, head, tail in triples)
    read = task.read(task.write(triples, task.languages[0]), text)
    assert read is not None
    assert [(one["relation"], one["head"], one["tail"]) for one in read.content] == triples
    assert all(fact.grounded for fact in read.facts)
    assert task.gold(read.content, text) == read


@pytest.mark.parametrize(
    "miss",
    ["", "none.", "None", "owns: A, B", "owns: A.", "owns: A, B, C.", "owns A, B.", "has: A, B.", "owns: A, B; .",
     "owns: A,B.", "owns:A, B.", "owns: , B.", " owns: A, B.", "owns: A, B. ", "owns: A, B;owns: B, A."],
)  # fmt: skip
def test_no_near_miss_is_read(miss: str) -> None:
    assert TASK.read(miss, "A B C") is None


def test_files_of_fingpt_load() -> None:
    text = "ACME owns Rival, which Beta sold."
    found = TASK.gold("owns: ACME, Rival; owned by: Rival, Beta", text)
    assert isinstance(found, Answer)
    assert set(found.facts) == {Fact("own", ("ACME", "Rival")), Fact("own_by", ("Rival", "Beta"))}
    assert TASK.gold([["own", "ACME", "Rival"], ["own_by", "Rival", "Beta"]], text) == found
    assert TASK.gold("none", text) == TASK.gold([], text)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ([["sold", "A", "B"]], "a relation 'sold'"),
        ([["own", "A", "Z"]], "'Z' does not stand in the text"),
        ([["own", "A"]], "not a list of {relation, head, tail}"),
        ([["own", "A, B", "C"]], "cannot be told apart"),
        ("A owns B", "does not name relations"),
        (3, "not a list"),
    ],
)
def test_what_cannot_be_used_says_why(raw: object, reason: str) -> None:
    found = TASK.gold(raw, "A, B C")
    assert isinstance(found, str) and reason in found


def test_known_pairs_are_the_baseline() -> None:
    known = [TASK.gold([["own", "A", "B"]], "A B"), TASK.gold([["own", "A", "C"]], "A C")]
    find = TASK.by_heart([answer for answer in known if isinstance(answer, Answer)])
    assert find("B and A") == {Fact("own", ("A", "B"))}
