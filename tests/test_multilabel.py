from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from fingpt_lora.metrics import paired_bootstrap
from fingpt_lora.multilabel import (
    LabelSets,
    half,
    majority_sets,
    multilabel_metrics,
    tfidf_sets,
    tuned_thresholds,
)

LABELS = ("profit", "debt", "deal")


def sets(truth: np.ndarray, probabilities: np.ndarray) -> LabelSets:
    gold = tuple(tuple(label for label, own in zip(LABELS, row, strict=True) if own) for row in truth)
    return LabelSets(LABELS, gold, probabilities, half(LABELS))


def random_sets(seed: int, rows: int = 60) -> LabelSets:
    rng = np.random.default_rng(seed)
    truth = rng.random((rows, len(LABELS))) < [0.5, 0.2, 0.02]
    return sets(truth, np.clip(truth * 0.3 + rng.random(truth.shape) * 0.7, 0, 1))


@pytest.mark.parametrize("seed", range(5))
def test_the_figures_are_scikit_learns(seed: int) -> None:
    answers = random_sets(seed)
    truth, given = answers.truth, answers.given
    metrics = multilabel_metrics(answers, bootstrap=100)
    occurring = (truth | given).any(axis=0)
    for average, value in (
        ("micro", metrics["micro_f1"]),
        ("weighted", metrics["weighted_f1"]),
    ):
        assert value == pytest.approx(f1_score(truth, given, average=average, zero_division=0))
    macro = f1_score(truth[:, occurring], given[:, occurring], average="macro", zero_division=0)
    assert metrics["macro_f1"] == pytest.approx(macro)
    assert metrics["accuracy"] == pytest.approx(accuracy_score(truth, given))
    questions = [f1_score(truth[:, i], given[:, i], average="weighted", zero_division=0) for i in range(len(LABELS))]
    assert metrics["question_f1"] == pytest.approx(np.mean(questions))
    for figure in ("accuracy", "micro_f1", "macro_f1", "question_f1"):
        low, high = metrics["intervals"][figure]
        assert low <= metrics[figure] <= high
    assert metrics == multilabel_metrics(answers, bootstrap=100)


def test_calibration_is_that_of_yes_against_no() -> None:
    truth = np.array([[1, 0, 0], [0, 0, 0]], dtype=bool)
    metrics = multilabel_metrics(sets(truth, truth.astype(float)), bootstrap=100)
    assert metrics["ece"] == metrics["brier"] == 0 and metrics["nll"] < 1e-9
    metrics = multilabel_metrics(sets(truth, np.full(truth.shape, 0.5)), bootstrap=100)
    assert metrics["brier"] == pytest.approx(0.25) and metrics["nll"] == pytest.approx(np.log(2))
    assert metrics["ece"] == pytest.approx(0.5 - 1 / 6)


@given(st.integers(0, 10_000))
def test_a_tuned_threshold_is_never_worse_where_it_was_tuned(seed: int) -> None:
    answers = random_sets(seed)
    tuned = answers.with_thresholds(tuned_thresholds(answers))
    for i in range(len(LABELS)):
        if answers.truth[:, i].sum() >= 10:
            before, after = (f1_score(a.truth[:, i], a.given[:, i], zero_division=0) for a in (answers, tuned))
            assert after >= before - 1e-12
    # Nothing is learnt from a handful of rows: such labels share one threshold.
    rare = [i for i in range(len(LABELS)) if answers.truth[:, i].sum() < 10]
    assert len({tuned.thresholds[i] for i in rare}) <= 1


def test_equal_probabilities_stay_on_one_side() -> None:
    truth = np.zeros((40, 3), dtype=bool)
    truth[:20, 0] = True
    probabilities = np.full(truth.shape, 0.3)
    tuned = tuned_thresholds(sets(truth, probabilities))
    assert tuned[0] < 0.3  # all yes: F1 2/3; no threshold can part them


def test_no_row_of_any_label_leaves_the_half() -> None:
    answers = sets(np.zeros((4, 3), dtype=bool), np.full((4, 3), 0.2))
    assert tuned_thresholds(answers).tolist() == [0.5, 0.5, 0.5]
    assert multilabel_metrics(answers, bootstrap=100)["micro_f1"] == 0


def test_a_text_is_right_where_all_its_labels_are() -> None:
    one, other = random_sets(1), random_sets(1).with_thresholds(np.full(3, 1.1))
    compared = paired_bootstrap(one, other, bootstrap=100)
    difference = np.mean(
        [(a == g) - (b == g) for a, b, g in zip(one.predicted, other.predicted, one.gold, strict=True)]
    )  # type: ignore[operator]
    assert compared["accuracy_difference"] == pytest.approx(difference)


def test_baselines() -> None:
    texts = ["profit rose", "debt grew", "profit and debt", "nothing", "profit fell", "a day like any other"] * 4
    gold = [("profit",), ("debt",), ("profit", "debt"), (), ("profit",), ()] * 4
    majority = majority_sets(gold, gold, LABELS)
    assert majority.probabilities[0].tolist() == [0.5, pytest.approx(1 / 3), 0]
    learned = tfidf_sets(texts, gold, ["profit rose again", "more debt"], [("profit",), ("debt",)], LABELS)
    assert learned.predicted == (("profit",), ("debt",))
    assert learned.probabilities[:, 2].tolist() == [0, 0]  # a label that no training row has
    own, held_out = learned.parted(1)
    assert held_out is not None and own.gold == (("profit",),) and held_out.gold == (("debt",),)
    assert own.parted(1)[1] is None


def test_rows_and_probabilities_must_fit() -> None:
    with pytest.raises(ValueError, match="shape"):
        LabelSets(LABELS, ((),), np.zeros((2, 3)), half(LABELS))
