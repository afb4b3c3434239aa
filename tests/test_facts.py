"""Figures of written answers."""

from __future__ import annotations

import pytest

from fingpt_lora.facts import FactSets, fact_metrics
from fingpt_lora.tasks.base import Fact

A, B = Fact("org", ("Nokia", 0)), Fact("per", ("Pekka", 9))
INVENTED = Fact("org", ("Ericsson", -1), grounded=False)


def test_figures_by_hand() -> None:
    sets = FactSets(
        ("org", "per"),
        gold=(frozenset({A, B}), frozenset({A}), frozenset(), frozenset({B})),
        predicted=(frozenset({A, B}), frozenset({INVENTED}), frozenset(), None),
    )
    found = fact_metrics(sets, bootstrap=200)
    assert found["rows"] == 4
    assert found["accuracy"] == 0.5  # the unreadable answer is not the empty one
    # 2 of 3 stated are right, 2 of 4 are found
    assert found["micro_f1"] == pytest.approx(2 * 2 / (3 + 4))
    assert found["invalid_rate"] == 0.25
    assert found["grounded_rate"] == pytest.approx(2 / 3)
    assert found["per_class"]["org"]["support"] == 2 and found["per_class"]["per"]["recall"] == 0.5
    low, high = found["intervals"]["micro_f1"]
    assert low <= found["micro_f1"] <= high
    assert "role_f1" not in found


def test_an_unreadable_answer_is_never_right() -> None:
    found = fact_metrics(FactSets(("org",), (frozenset(), frozenset()), (None, frozenset())), bootstrap=100)
    assert found["accuracy"] == 0.5


def test_parts_have_figures_of_their_own() -> None:
    trigger, role = Fact("merger", ("trigger", "buys"), "trigger"), Fact("merger", ("buyer", "Alpha"), "role")
    wrong = Fact("merger", ("target", "Alpha"), "role")
    sets = FactSets(("merger",), (frozenset({trigger, role}),), (frozenset({trigger, wrong}),))
    found = fact_metrics(sets, bootstrap=100)
    assert found["trigger_f1"] == 1.0 and found["role_f1"] == 0.0


def test_rows_must_lie_side_by_side() -> None:
    with pytest.raises(ValueError, match="1 rows but 0 answers"):
        FactSets(("org",), (frozenset(),), ())
