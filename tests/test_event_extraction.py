"""Events as JSON: schema, spans, and FewFC's own records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingpt_lora.data.load import load_labelled, load_splits
from fingpt_lora.errors import DataError
from fingpt_lora.facts import fact_metrics, fact_sets
from fingpt_lora.sections import DataSection
from fingpt_lora.tasks.base import Answer, Fact
from fingpt_lora.tasks.event_extraction import EventExtractionTask

ROLES = {"merger": ("buyer", "target", "price"), "pledge": ("sub-org", "number")}
TASK = EventExtractionTask(ROLES, "en")
WITHOUT = EventExtractionTask(ROLES, "en", triggers=False)
TEXT = 'Alpha "A" buys Beta for $5; 甲公司 pledges 300 shares.'
WORDS = ("Alpha", 'Alpha "A"', "buys", "Beta", "$5", "甲公司", "pledges", "300")


def gold(raw: object, text: str = TEXT) -> Answer:
    found = TASK.gold(raw, text)
    assert isinstance(found, Answer), found
    return found


@st.composite
def events(draw: st.DrawFn) -> list[dict[str, Any]]:
    found = []
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(tuple(ROLES)))
        event: dict[str, Any] = {"type": kind, "trigger": draw(st.sampled_from(WORDS))}
        for role in ROLES[kind]:
            if values := draw(st.lists(st.sampled_from(WORDS), max_size=2, unique=True)):
                event[role] = values
        found.append(event)
    return found


@given(events())
def test_reading_undoes_writing(drawn: list[dict[str, Any]]) -> None:
    answer = gold(drawn)
    read = TASK.read(answer.text, TEXT)
    assert read is not None and read.content == answer.content and set(read.facts) == set(answer.facts)
    unique = [event for place, event in enumerate(drawn) if event not in drawn[:place]]
    assert len(answer.content) <= len(unique)
    assert all(fact.grounded for fact in read.facts)


@given(events().filter(bool))
def test_no_near_miss_is_read(drawn: list[dict[str, Any]]) -> None:
    written = gold(drawn).text
    first = json.loads(written)[0]
    misses = [
        *(written[:-1], written[1:], written + "]", f"{{{written}}}", "", "null", "{}"),
        *(json.dumps(first), json.dumps([{**first, "type": "loan"}]), json.dumps([{**first, "extra": ["x"]}])),
        *(json.dumps([{**first, "trigger": None}]), json.dumps([{**first, "trigger": ""}])),
        *(json.dumps([{k: v for k, v in first.items() if k != "trigger"}]), json.dumps([{**first, "price": "5"}])),
    ]
    for miss in misses:
        assert TASK.read(miss, TEXT) is None, miss


@pytest.mark.parametrize(
    "miss",
    [
        '[{"type":"merger","trigger":"buys","buyer":null}]',
        '[{"type":"merger","trigger":"buys","trigger":"Beta"}]',
        " []",
        "[]\n",
        '[{"type":["merger"],"trigger":"buys"}]',
    ],
)
def test_almost_json_of_the_schema_is_not_read(miss: str) -> None:
    assert TASK.read(miss, TEXT) is None


def test_spans_of_other_shapes_do_not_hurt() -> None:
    mentions = [{"word": "buys", "span": "6", "role": "trigger"}, {"word": "Alpha", "span": [0, 5], "role": "buyer"}]
    assert gold([{"type": "merger", "mentions": mentions}]).content[0]["buyer"] == ["Alpha"]


def test_what_an_event_states() -> None:
    answer = gold([{"type": "merger", "trigger": "buys", "target": "Beta", "buyer": ["Alpha"]}])
    assert answer.text == '[{"type":"merger","trigger":"buys","buyer":["Alpha"],"target":["Beta"]}]'
    assert set(answer.facts) == {
        Fact("merger", ("trigger", "buys"), "trigger"),
        Fact("merger", ("buyer", "Alpha"), "role"),
        Fact("merger", ("target", "Beta"), "role"),
    }


def test_records_of_fewfc_load() -> None:
    mentions = [
        {"word": "300", "span": [37, 40], "role": "number"},
        {"word": "pledges", "span": [29, 36], "role": "trigger"},
        {"word": "甲公司", "span": [25, 28], "role": "sub-org"},
    ]
    answer = gold([{"type": "pledge", "mentions": mentions}])
    assert answer.content == [{"type": "pledge", "trigger": "pledges", "sub-org": ["甲公司"], "number": ["300"]}]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ([{"type": "loan", "trigger": "buys"}], "type 'loan', which task.roles does not name"),
        ([{"type": "pledge", "trigger": "pledges", "price": ["$5"]}], "role 'price'"),
        ([{"type": "pledge"}], "trigger"),
        ([{"type": "pledge", "trigger": "sells"}], "'sells' of its events does not stand in the text"),
        ("pledge", "not a list"),
        ([{"type": "merger", "trigger": "buys", "price": 5}], "'price' of an event is neither a text nor a list"),
        ([{"type": "merger", "trigger": "buys", "buyer": [{"text": "Alpha"}]}], "'buyer' of an event is neither"),
        ([{"type": "pledge", "mentions": None}], "the mentions of an event are not a list"),
        ([{"type": ["merger"], "trigger": "buys"}], "type '['merger']', which task.roles does not name"),
    ],
)
def test_what_cannot_be_used_says_why(raw: object, reason: str) -> None:
    found = TASK.gold(raw, TEXT)
    assert isinstance(found, str) and reason in found


def test_the_schema_names_types_and_roles() -> None:
    written = json.dumps(TASK.json_schema())
    assert all(json.dumps(role) in written for roles in ROLES.values() for role in roles)


def test_known_values_count_where_a_trigger_of_their_type_stands() -> None:
    find = TASK.by_heart([gold([{"type": "merger", "trigger": "buys", "target": ["Beta"]}])])
    assert find("Gamma buys Beta.") == {
        Fact("merger", ("trigger", "buys"), "trigger"),
        Fact("merger", ("target", "Beta"), "role"),
    }
    assert find("Beta rose.") == frozenset()


@given(events())
def test_without_triggers_reading_undoes_writing_too(drawn: list[dict[str, Any]]) -> None:
    answer = WITHOUT.gold(drawn, TEXT)
    assert isinstance(answer, Answer) and "trigger" not in answer.text
    read = WITHOUT.read(answer.text, TEXT)
    assert read is not None and read.content == answer.content and set(read.facts) == set(answer.facts)
    types = {(fact.kind, fact.part) for fact in read.facts if fact.said == ("type",)}
    assert types == {(event["type"], "type") for event in drawn}
    if drawn:  # the trigger that it does not ask for is none of its answers
        assert WITHOUT.read(gold(drawn).text, TEXT) is None


def test_a_type_copies_no_words() -> None:
    answer = WITHOUT.gold([{"type": "pledge", "number": "300"}], TEXT)
    assert isinstance(answer, Answer)
    figures = fact_metrics(fact_sets(("pledge",), [answer], [answer]), bootstrap=10)
    assert figures["type_f1"] == figures["role_f1"] == figures["grounded_rate"] == 1.0
    wrong = WITHOUT.read('[{"type":"pledge","number":["301"]}]', TEXT)
    figures = fact_metrics(fact_sets(("pledge",), [answer], [wrong]), bootstrap=10)
    assert (figures["type_f1"], figures["role_f1"], figures["grounded_rate"]) == (1.0, 0.0, 0.0)


def test_known_values_name_their_type_without_triggers() -> None:
    known = WITHOUT.gold([{"type": "merger", "target": ["Beta"]}], TEXT)
    assert isinstance(known, Answer)
    find = WITHOUT.by_heart([known])
    assert find("Beta rose.") == {Fact("merger", ("target", "Beta"), "role"), Fact("merger", ("type",), "type")}
    assert find("Gamma rose.") == frozenset()


@pytest.mark.parametrize(
    ("cells", "events"),
    [
        ({"type": "pledge", "number": "300"}, [{"type": "pledge", "number": ["300"]}]),
        ({"type": "other", "number": "NaN"}, []),
        ({"type": "other", "number": float("nan"), "sub-org": ""}, []),
        ({"type": "pledge", "number": None, "sub-org": "甲公司"}, [{"type": "pledge", "sub-org": ["甲公司"]}]),
        ({"type": "pledge"}, [{"type": "pledge"}]),  # no column of a role is named
        ({"type": ""}, []),
    ],
)
def test_the_cells_of_a_row_tell_an_event_or_none(cells: dict[str, Any], events: list[dict[str, Any]]) -> None:
    answer = WITHOUT.gold(cells, TEXT)
    assert isinstance(answer, Answer) and answer.content == events


def test_rows_of_one_text_tell_its_events(tmp_path: Path) -> None:
    rows = [("1", TEXT, "pledge", "300"), ("2", "Nothing happened.", "other", "NaN"), ("3", TEXT, "merger", "")]
    rows += [("4", TEXT, "pledge", "甲公司"), ("5", "Gamma pledges 7.", "pledge", "7")]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    section: dict[str, Any] = {"path": str(path), "fields": {"text": "2", "type": "3", "number": "4"}}
    found, _ = load_labelled(str(path), DataSection.model_validate(section), WITHOUT)
    assert [row.text for row in found] == [TEXT, "Nothing happened.", "Gamma pledges 7."]
    assert all(isinstance(row.label, Answer) for row in found)
    assert [row.label.content for row in found if isinstance(row.label, Answer)] == [
        [{"type": "pledge", "number": ["300"]}, {"type": "pledge", "number": ["甲公司"]}],
        [],
        [{"type": "pledge", "number": ["7"]}],
    ]
    with pytest.raises(DataError, match="no column '9' \\(data.fields.number\\)"):
        load_splits(
            DataSection.model_validate(
                {**section, "fields": {**section["fields"], "number": "9"}, "split": {"method": "random"}}
            ),
            WITHOUT,
        )
    with pytest.raises(DataError, match="'price_' is no field of a row. Did you mean 'price'"):
        load_labelled(str(path), DataSection.model_validate({"path": str(path), "fields": {"price_": "3"}}), WITHOUT)
