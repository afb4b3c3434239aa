"""Questions: calculations are ours, spans are the text's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingpt_lora.tasks.base import Answer, Fact
from fingpt_lora.tasks.question import SCALES, QuestionTask, ask

TASK = QuestionTask("en")
TEXT = ask("| 2019 | 2018\nSales | 1,250.5 | $1,000\nMargin | 12.5% | (3.2)\nThe group's plants are in Oulu.", "What?")
SPANS = st.text(st.sampled_from("ab1 $%,.()é京"), min_size=1, max_size=10).map(str.strip).filter(bool)


def gold(raw: object, text: str = TEXT) -> Answer:
    found = TASK.gold(raw, text)
    assert isinstance(found, Answer), found
    return found


@given(st.lists(SPANS, min_size=1, max_size=3), st.sampled_from(("", *SCALES)))
def test_reading_undoes_writing(values: list[str], scale: str) -> None:
    written = TASK.write(values, scale)
    read = TASK.read(written, TEXT)
    assert read is not None and read.content["values"] == values and read.content["scale"] in (scale, "percent")


def calculations() -> st.SearchStrategy[str]:
    numbers, signs = st.sampled_from(("1,250.5", "1,000", "12.5%", "2", "3.2")), st.sampled_from("+-*/")

    def extend(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return st.builds("{} {} {}".format, inner, signs, inner) | st.builds("({} {} {})".format, inner, signs, inner)

    return st.recursive(numbers, extend, max_leaves=5)


@given(calculations(), st.sampled_from(("", *SCALES)))
def test_a_calculation_is_computed(calculation: str, scale: str) -> None:
    try:
        worth = eval(calculation.replace(",", "").replace("%", "/100").replace("12.5/100", "(12.5/100)"))
    except ZeroDivisionError:
        worth = None
    read = TASK.read(TASK.write_calculation(calculation, scale), TEXT)
    if worth is None:
        assert read is None
        return
    assert read is not None and read.facts[0].grounded
    stated = float(read.content["values"][0])
    assert stated == pytest.approx(100 * worth if scale == "percent" else worth, abs=0.0051)


@pytest.mark.parametrize(
    "miss",
    [
        "",
        " ",
        "=2",
        "= ",
        "= 1 +",
        "= (1",
        "= 1 / 0",
        "= two",
        "= 1 ** 2",
        "= 1 // 2",
        "a |  b",
        "| a",
        "a | ",
        " a",
        "a ",
        "= 1+2",
        "= 1 + 2 ",
        "= 1,2 + 3",
        "= 1 / (2",
        "x|y",
    ],
)
def test_no_near_miss_is_read(miss: str) -> None:
    assert TASK.read(miss, TEXT) is None


@pytest.mark.parametrize("other", ["12.5%", "= 12.5% (percent)", "= 25% / 2 (percent)", "12.5 (percent)"])
def test_one_number_has_many_spellings(other: str) -> None:
    read = TASK.read(other, TEXT)
    assert read is not None and read.facts[0] == Fact("number", ("12.5", "percent"))


def test_accountants_write_losses_in_brackets() -> None:
    assert gold("(3.2)").facts == (Fact("number", ("-3.2", "")),)
    assert gold("$1,000").facts == (Fact("number", ("1000", "")),)


def test_a_list_of_years_is_no_number_and_small_numbers_differ() -> None:
    years = TASK.read("2018, 2019", TEXT)
    assert years is not None and years.facts[0].kind == "words"
    one, other = TASK.read("0.0012", TEXT), TASK.read("0.004", TEXT)
    assert one is not None and other is not None and one.facts != other.facts


def test_words_and_lists_are_compared_but_for_their_form() -> None:
    one, other = TASK.read("the Group's plants", TEXT), TASK.read("group's plants.", TEXT)
    assert one is not None and other is not None and one.facts == other.facts
    first, second = TASK.read("Oulu | Sales", TEXT), TASK.read("Sales | Oulu", TEXT)
    assert first is not None and second is not None and first.facts == second.facts


@pytest.mark.parametrize(
    ("raw", "written"),
    [
        ({"answer": 25.05, "scale": "percent", "derivation": "(1,250.5-$1,000)/$1,000", "answer_type": "arithmetic"},
         "= (1,250.5 - 1,000) / 1,000 (percent)"),
        ({"answer": 2.1, "scale": "percent", "derivation": "4.00 - 1.90 ", "answer_type": "arithmetic"},
         "= (4.00 - 1.90) / 100 (percent)"),
        ({"answer": 172, "scale": "million", "derivation": "[(166+178)]/2", "answer_type": "arithmetic"},
         "= ((166 + 178)) / 2 (million)"),
        ({"answer": 7, "scale": "", "derivation": "steps that say something else", "answer_type": "arithmetic"}, "= 7"),
        ({"answer": 2, "scale": "", "derivation": "2018##2017", "answer_type": "count"}, "= 2"),
        ({"answer": ["Oulu"], "scale": "", "derivation": "", "answer_type": "span"}, "Oulu"),
        ({"answer": ["Oulu", "Sales"], "scale": "", "answer_type": "multi-span"}, "Oulu | Sales"),
        ({"answer": "12.5%", "exe_ans": 0.125, "program": "subtract(45, 40), divide(#0, 40)"},
         "= (45 - 40) / 40 (percent)"),
        ({"answer": "80", "program": "add(50, 30)"}, "= 50 + 30"),
        ({"answer": "53%", "exe_ans": 0.53106, "program": "divide(607, 1143)"}, "= 607 / 1143 (percent)"),
        ({"answer": 5829, "scale": "", "derivation": "5828.2", "answer_type": "arithmetic"}, "= 5829"),
    ],
)  # fmt: skip
def test_answers_of_tatqa_and_finqa(raw: object, written: str) -> None:
    assert gold(raw).text == written


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (None, "no answer"),
        ({"answer": ""}, "no answer"),
        ({"answer": "5", "scale": "dozen"}, "scale 'dozen'"),
        ("= x", "cannot be told apart"),
        ("five (million)", "cannot be told apart"),
    ],
)
def test_what_cannot_be_used_says_why(raw: object, reason: str) -> None:
    found = TASK.gold(raw, TEXT)
    assert isinstance(found, str) and reason in found


def test_numbers_from_nowhere_are_not_grounded() -> None:
    for written, grounded in (
        ("= 1,250.5 / 2", True),
        ("= 1250.5 / 2", True),
        ("= 25 / 2", False),
        ("= 777 / 2", False),
        ("Turku", False),
        ("oulu", True),
    ):
        read = TASK.read(written, TEXT)
        assert read is not None and read.facts[0].grounded is grounded, written


def test_the_question_is_the_last_line() -> None:
    assert ask("a\nb\n", "What\n is it?") == "a\nb\nWhat is it?"


def test_the_most_frequent_answer_is_the_baseline() -> None:
    known = [gold("Oulu"), gold("Oulu"), gold("12.5%")]
    assert TASK.by_heart(known)("anything") == frozenset(known[0].facts)
