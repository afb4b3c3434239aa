from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fingpt_lora.data.audit import Audit, Keys, count_repeats, fingerprint, normalise, remove_leaks, settle
from fingpt_lora.data.rows import BadRow, Row
from fingpt_lora.errors import DataError

TEXT = st.text(max_size=40) | st.text("aA 1.-+%$,!。，５％ｅé\u0301\u200d🚀https://www.", max_size=40)


def make(*pairs: tuple[str, str]) -> list[Row]:
    return [Row(text, label, "a.csv", n) for n, (text, label) in enumerate(pairs, start=2)]


@given(TEXT)
@example("")
@example("ͅͅ")
@example("--5")
@example("-$5")
@example("https://t.co/a-5")
@settings(max_examples=1000)
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


def test_normalising_twice_changes_nothing_for_any_character() -> None:
    for code in range(0x110000):
        if unicodedata.category(chr(code)) not in ("Cn", "Co", "Cs"):
            once = normalise(f"a{chr(code)}1")
            assert normalise(once) == once, hex(code)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Profit rose, to 5%!", "profit  ROSE to 5 %"),
        ("Pellworm cut at Rook & Lattimer https://t.co/abc", "Pellworm cut at Rook & Lattimer http://t.co/XYZ1"),
        ("净利润增长５％，订单饱满。", "净利润增长5%,订单饱满"),
        ("详情见http://t.cn/abc利好", "详情见 利好"),
        ("co\u00adoperate", "cooperate"),
        ("The “big” one", "The big one"),
        ("third-quarter", "third quarter"),
    ],
)
def test_copies_of_a_story_are_recognised(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("EPS 0.42", "EPS 0.51"),
        ("EPS -0.15", "EPS 0.15"),
        ("down −3", "down 3"),
        ("5%", "5"),
        ("$TSLA 🚀", "$TSLA 📉"),
        ("EUR 5m", "USD 5m"),
        ("€5m", "$5m"),
        ("!!!", "???"),
        ("利好", "利空"),
    ],
)
def test_what_changes_the_meaning_stays(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


PAIRS = st.lists(
    st.tuples(st.sampled_from(["Up!", "up", "UP", "Down", "down.", "flat"]), st.sampled_from("np")), max_size=12
)


@given(PAIRS, PAIRS)
def test_no_held_out_text_is_left(train: list[tuple[str, str]], test: list[tuple[str, str]]) -> None:
    rows, held = make(*train), make(*test)
    kept, counts = remove_leaks(rows, held, Keys())
    assert not {normalise(row.text) for row in kept} & {normalise(row.text) for row in held}
    assert len(rows) - len(kept) == counts["exact"] + counts["normalised"]
    assert counts["exact"] == sum(row.text in {h.text for h in held} for row in rows)
    assert kept == [row for row in rows if row in kept]


def test_a_leak_from_an_iterator_is_found_too() -> None:
    rows = make(("Up", "p"))
    assert remove_leaks(rows, iter(rows), Keys())[0] == []


@given(PAIRS, st.sampled_from(["drop", "majority", "keep"]))
def test_settled_rows_add_up(pairs: list[tuple[str, str]], policy: str) -> None:
    rows = make(*pairs)
    settled = settle(rows, policy, Keys())  # type: ignore[arg-type]
    assert len(settled.rows) + settled.repeated + settled.removed == len(rows)
    seen = [(normalise(row.text), row.label) for row in settled.rows]
    assert len(seen) == len(set(seen))
    if policy != "keep":
        assert len({text for text, _ in seen}) == len(seen)
    assert [row.line for row in settled.rows] == sorted(row.line for row in settled.rows)


def test_each_policy_does_what_it_says() -> None:
    rows = make(("Up", "p"), ("up!", "p"), ("UP", "n"), ("Down", "n"), ("down", "p"), ("flat", "n"), ("flat", "n"))
    lines = {p: [row.line for row in settle(rows, p, Keys()).rows] for p in ("drop", "majority", "keep")}  # type: ignore[arg-type]
    assert lines == {"drop": [7], "majority": [2, 7], "keep": [2, 4, 5, 6, 7]}
    settled = settle(rows, "drop", Keys())
    assert (settled.repeated, settled.contradicting, settled.removed) == (2, 2, 4)
    with pytest.raises(DataError, match=r"a\.csv:2 \(p\), a\.csv:4 \(n\).*data\.contradictions"):
        settle(rows, "error", Keys())


def test_repeats_of_rows_that_stay_are_counted() -> None:
    assert count_repeats(make(("Up", "p"), ("Up", "n"), ("up", "p"), ("flat", "n")), Keys()) == (1, 1)


def test_the_fingerprint_changes_with_anything_in_the_rows() -> None:
    one, two = Row("Up", "p", "a.csv", 2), Row("Down", "n", "a.csv", 3)
    base = {"train": [one, two], "test": []}
    others = [
        {"train": [two, one], "test": []},
        {"train": [one], "test": [two]},
        {"train": [one, Row("Down", "p", "a.csv", 3)], "test": []},
        {"train": [one, Row("Down.", "n", "a.csv", 3)], "test": []},
        {"train": [one, Row("Down", "n", "a.csv", 3, "en")], "test": []},
        {"train": [Row('Up"]\n["train", "n", null, "Down', "p", "a.csv", 2)], "test": []},
    ]
    assert len({fingerprint(base), *map(fingerprint, others)}) == len(others) + 1
    moved = {"train": [Row("Up", "p", "b.csv", 9), two], "test": []}
    assert fingerprint(moved) == fingerprint(base)  # where a row comes from is not what it says


def test_an_audit_is_json() -> None:
    audit = Audit(rows={"test": {"p": 1}}, rows_read=2, bad_rows=(BadRow("a.csv", 3, "it has no text"),), licence="mit")
    assert json.loads(json.dumps(audit.as_dict()))["bad_rows"] == ["a.csv:3: it has no text"]
