from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingpt_lora.data.columnar import ClassName
from fingpt_lora.data.labels import LabelMap
from fingpt_lora.errors import DataError
from fingpt_lora.sections import DataSection

WORDS = {"negative": "negative", "neg": "negative", "负面": "negative", "neutral": "neutral", "positive": "positive"}
LABELS = ["negative", "neutral", "positive"]
TFNS = {"0": "negative", "1": "positive", "2": "neutral"}


@given(
    st.sampled_from(sorted(WORDS)), st.sampled_from([str.upper, str.title, str.lower]), st.sampled_from(["", " ", "."])
)
def test_the_tasks_words_are_matched_without_case(word: str, case: Any, end: str) -> None:
    assert LabelMap({}, WORDS).canonical(f" {case(word)}{end}") == WORDS[word]


@pytest.mark.parametrize("word", ["not positive", "positive news", "unpositive", "positiv", "+", "posit ive"])
def test_words_are_never_found_inside_others(word: str) -> None:
    assert LabelMap({}, WORDS).canonical(word) is None


@given(st.integers(-3, 9), st.sampled_from([int, float, str, lambda n: f"{n}.0", lambda n: f" {n} "]))
def test_spellings_of_a_number_are_alike(number: int, spell: Any) -> None:
    written = DataSection.model_validate({"labels": {number: "positive"}}).labels
    labels = LabelMap(written, WORDS)
    assert labels.canonical(spell(number)) == "positive"
    assert labels.canonical(spell(number + 1)) is None


@pytest.mark.parametrize(("key", "raw"), [(True, True), (True, "True"), (False, "false"), ("Buy", "buy"), (0.5, 0.5)])
def test_keys_of_the_map_may_be_of_any_kind(key: Any, raw: Any) -> None:
    assert LabelMap(DataSection.model_validate({"labels": {key: "neutral"}}).labels, WORDS).canonical(raw) == "neutral"


def test_a_map_may_use_the_tasks_other_words_and_does_not_unlearn_them() -> None:
    labels = LabelMap({"-1": "Neg"}, WORDS)
    assert [labels.canonical(raw) for raw in (-1, "neutral", "负面", 1)] == ["negative", "neutral", "negative", None]


def test_the_map_goes_before_the_words() -> None:
    assert LabelMap({"positive": "neutral"}, WORDS).canonical("positive") == "neutral"


def test_a_map_to_nowhere_or_to_two_places_is_an_error() -> None:
    with pytest.raises(DataError, match=r"no label 'postive'.*'positive'"):
        LabelMap({"1": "postive"}, WORDS)
    with pytest.raises(DataError, match="written twice"):
        LabelMap({"1": "positive", "1.0": "negative"}, WORDS)


def test_class_numbers_are_known_by_name_and_by_number() -> None:
    raw = ClassName("neg", 0)
    assert LabelMap({}, WORDS).canonical(raw) == "negative"
    assert LabelMap({"0": "positive"}, WORDS).canonical(raw) == "positive"


def test_problems_say_what_is_valid() -> None:
    plain, mapped = LabelMap({}, WORDS), LabelMap(TFNS, WORDS)
    assert plain.problem("postive") == "unknown label 'postive'. Did you mean 'positive'?"
    assert "negative, neutral, positive" in plain.problem("none")
    assert plain.problem(None) == plain.problem("  ") == plain.problem(float("nan")) == "it has no label"
    assert plain.problem(0.37) == "label 0.37 is a score, not a label; write labels into the file"
    assert mapped.problem(3) == "label 3 is not in data.labels (0, 1, 2)"
    assert len(plain.problem("An answer that goes on and on. " * 20)) < 200


def test_numbers_without_a_map_are_shown_and_never_guessed() -> None:
    labels = LabelMap({}, WORDS)
    assert labels.unmapped_number("2") and labels.unmapped_number(2.0) and not labels.unmapped_number(True)
    assert not LabelMap(TFNS, WORDS).unmapped_number("7")
    error = str(labels.numbers_error("a.csv", {"10": "Up.", "2": "Down.\n" * 50, "-1": "Flat."}))
    assert error.index("-1: Flat.") < error.index("2: Down.") < error.index("10: Up.")
    assert "data.labels: {-1: ..., 2: ..., 10: ...}, each one of negative, neutral, positive." in error


def test_endless_digits_are_no_label() -> None:
    assert LabelMap(TFNS, WORDS).canonical("9" * 5000) is None and len(LabelMap({}, WORDS).problem("9" * 5000)) < 200


@given(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.text(), max_size=2)))
def test_any_value_is_a_label_or_has_a_problem(raw: Any) -> None:
    labels = LabelMap(TFNS, WORDS)
    assert labels.canonical(raw) in LABELS or labels.problem(raw)


@pytest.mark.parametrize(
    ("raw", "labels"),
    [
        (["Positive", "neg"], ("negative", "positive")),
        (["neg", "negative"], ("negative",)),
        ("positive; negative", ("negative", "positive")),
        ([], ()),
        ("", ()),
        ("none", ()),
        (None, None),
        (["positive", "sideways"], None),
        (7, None),
    ],
)
def test_a_row_may_carry_several_labels(raw: object, labels: tuple[str, ...] | None) -> None:
    mapped = LabelMap({}, WORDS, several=True)
    assert mapped.canonical(raw) == labels
    if labels is None and raw is not None:
        assert "sideways" in mapped.problem(raw) or "not a list or text" in mapped.problem(raw)
