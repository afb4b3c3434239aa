"""The figures agree with scikit-learn, and no invalid answer, order of rows or tie can flatter them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from fingpt_lora.errors import ModelError
from fingpt_lora.metrics import Predictions, classification_metrics, paired_bootstrap

LABELS = ("negative", "neutral", "positive")
Pairs = list[tuple[str, str | None]]
valid_pairs = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=60)
any_pairs = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from([*LABELS, None])), min_size=1, max_size=60)


def made(pairs: Pairs, probabilities: np.ndarray | None = None) -> Predictions:
    gold, predicted = zip(*pairs, strict=True)
    return Predictions(LABELS, gold, predicted, probabilities)


def figures(pairs: Pairs) -> dict[str, Any]:
    return classification_metrics(made(pairs), bootstrap=100)


@pytest.mark.filterwarnings("ignore:A single label was found:UserWarning")
@given(any_pairs)
def test_point_figures_are_scikit_learns(pairs: Pairs) -> None:
    gold = [g for g, _ in pairs]
    predicted = ["invalid" if p is None else p for _, p in pairs]
    ours = figures(pairs)
    present = [label for label in LABELS if label in {*gold, *predicted}]
    options: dict[str, Any] = {"labels": present, "zero_division": 0}
    assert ours["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(gold, predicted))
    for average in ("weighted", "macro"):
        theirs = sklearn_metrics.f1_score(gold, predicted, average=average, **options)
        assert ours[f"{average}_f1"] == pytest.approx(theirs)
    assert ours["mcc"] == pytest.approx(sklearn_metrics.matthews_corrcoef(gold, predicted), abs=1e-12)
    columns = sklearn_metrics.precision_recall_fscore_support(gold, predicted, labels=list(LABELS), zero_division=0)
    for i, label in enumerate(LABELS):
        own = ours["per_class"][label]
        theirs = [column[i] for column in columns]
        assert [own["precision"], own["recall"], own["f1"], own["support"]] == pytest.approx(theirs)
    matrix = sklearn_metrics.confusion_matrix(gold, predicted, labels=[*LABELS, "invalid"])[:3]
    width = len(ours["confusion_matrix"]["predicted"])
    assert ours["confusion_matrix"]["counts"] == matrix[:, :width].tolist()
    assert width == 3 + any(p is None for _, p in pairs)


@given(st.data(), st.integers(1, 50))
def test_probability_figures_are_scikit_learns(data: st.DataObject, rows: int) -> None:
    cells = data.draw(st.lists(st.floats(0.01, 1), min_size=rows * 3, max_size=rows * 3))
    probabilities = np.array(cells).reshape(rows, 3)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    gold = data.draw(st.lists(st.sampled_from(LABELS), min_size=rows, max_size=rows))
    predicted = [LABELS[i] for i in probabilities.argmax(axis=1)]
    ours = classification_metrics(made(list(zip(gold, predicted, strict=True)), probabilities), bootstrap=100)
    assert ours["nll"] == pytest.approx(sklearn_metrics.log_loss(gold, probabilities, labels=list(LABELS)))
    brier = sklearn_metrics.brier_score_loss(gold, probabilities, labels=list(LABELS), scale_by_half=False)
    assert ours["brier"] == pytest.approx(brier)
    assert sum(b["rows"] for b in ours["reliability"]) == rows
    assert 0 <= ours["ece"] <= 1
    assert ours["coverage"]["accuracy"][-1] == pytest.approx(ours["accuracy"])


@given(any_pairs, st.data())
def test_turning_a_wrong_answer_into_an_invalid_one_wins_neither_accuracy_nor_recall(
    pairs: Pairs, data: st.DataObject
) -> None:
    wrong = [i for i, (g, p) in enumerate(pairs) if p not in (g, None)]
    if not wrong:
        return
    changed = data.draw(st.sampled_from(wrong))
    before = figures(pairs)
    after = figures([(g, None) if i == changed else (g, p) for i, (g, p) in enumerate(pairs)])
    assert after["accuracy"] == before["accuracy"]
    for label in LABELS:
        assert after["per_class"][label]["recall"] == before["per_class"][label]["recall"]
        # Precision rises for the label that is no longer wrongly named, and for no other.
        if label != pairs[changed][1]:
            assert after["per_class"][label] == before["per_class"][label]


@given(any_pairs, st.data())
def test_an_invalid_answer_never_beats_a_right_one(pairs: Pairs, data: st.DataObject) -> None:
    changed = data.draw(st.integers(0, len(pairs) - 1))
    gold = pairs[changed][0]
    invalid = figures([(g, None) if i == changed else (g, p) for i, (g, p) in enumerate(pairs)])
    right = figures([(g, g) if i == changed else (g, p) for i, (g, p) in enumerate(pairs)])
    for name in ("accuracy", "weighted_f1", "macro_f1"):
        assert invalid[name] < right[name]
    assert invalid["per_class"][gold]["f1"] < right["per_class"][gold]["f1"]


def test_all_answers_invalid_is_zero_throughout() -> None:
    result = figures([(label, None) for label in LABELS * 5])
    assert [result[name] for name in ("accuracy", "weighted_f1", "macro_f1", "mcc")] == [0, 0, 0, 0]
    assert result["invalid_rate"] == 1
    assert result["confusion_matrix"]["predicted"] == [*LABELS, "invalid"]


def test_macro_f1_leaves_out_labels_that_nobody_mentions() -> None:
    result = figures([("negative", "negative"), ("positive", "positive")])
    assert result["macro_f1"] == 1
    assert result["per_class"]["neutral"] == {"precision": 0, "recall": 0, "f1": 0, "support": 0}


@given(valid_pairs)
def test_intervals_hold_the_draws_and_the_result_is_json(pairs: Pairs) -> None:
    result = classification_metrics(made(pairs), bootstrap=200)
    for low, high in result["intervals"].values():
        assert -1 <= low <= high <= 1
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert classification_metrics(made(pairs), bootstrap=200) == result


def test_intervals_are_those_of_resampled_rows() -> None:
    generator = np.random.default_rng(1)
    gold = generator.choice(LABELS, size=300)
    predicted = np.where(generator.random(300) < 0.7, gold, generator.choice(LABELS, size=300))
    result = classification_metrics(Predictions(LABELS, tuple(gold), tuple(predicted)), bootstrap=4000)
    drawn: dict[str, list[float]] = {"accuracy": [], "macro_f1": []}
    for _ in range(400):
        rows = generator.integers(0, 300, size=300)
        drawn["accuracy"].append(float((gold[rows] == predicted[rows]).mean()))
        drawn["macro_f1"].append(sklearn_metrics.f1_score(gold[rows], predicted[rows], average="macro"))
    for name, values in drawn.items():
        assert result["intervals"][name] == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.015)


def test_a_wider_level_gives_a_wider_interval() -> None:
    pairs: Pairs = [("negative", "negative"), ("positive", "neutral")] * 50
    narrow = classification_metrics(made(pairs), confidence=0.8)["intervals"]["accuracy"]
    wide = classification_metrics(made(pairs), confidence=0.99)["intervals"]["accuracy"]
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_calibration_of_a_hand_computed_case() -> None:
    probabilities = np.array([[0.9, 0.1, 0], [0.9, 0.1, 0], [0.6, 0.4, 0], [0.6, 0.4, 0]])
    pairs: Pairs = [
        ("negative", "negative"),
        ("neutral", "negative"),
        ("negative", "negative"),
        ("negative", "negative"),
    ]
    result = classification_metrics(made(pairs, probabilities))
    # Two bins of two rows: |0.9 - 0.5| and |0.6 - 1|.
    assert result["ece"] == pytest.approx(0.4)
    assert result["brier"] == pytest.approx((0.02 + 1.62 + 0.32 + 0.32) / 4)
    # The two most confident rows tie, one of them right, whichever the file names first.
    assert result["coverage"]["accuracy"][:5] == pytest.approx([0.5] * 5)
    assert result["coverage"]["accuracy"][-1] == 0.75


@given(st.permutations(range(12)))
def test_the_order_of_rows_changes_nothing(order: list[int]) -> None:
    pairs: Pairs = [(LABELS[i % 3], LABELS[(i * 5) % 3]) for i in range(12)]
    probabilities = np.tile([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]], (6, 1))
    before = classification_metrics(made(pairs, probabilities))
    after = classification_metrics(made([pairs[i] for i in order], probabilities[order]))
    assert after["coverage"]["accuracy"] == pytest.approx(before["coverage"]["accuracy"])
    assert after["intervals"] == before["intervals"]
    assert after["ece"] == pytest.approx(before["ece"])


def test_a_thousand_draws_of_three_thousand_rows_take_well_under_a_second() -> None:
    generator = np.random.default_rng(0)
    gold = tuple(generator.choice(LABELS, size=3000))
    predictions = Predictions(LABELS, gold, gold[::-1], generator.dirichlet(np.ones(3), size=3000))
    start = time.process_time()
    classification_metrics(predictions, bootstrap=1000)
    assert time.process_time() - start < 1  # about 0.03 s


@pytest.mark.parametrize(
    "parts",
    [
        (("negative",), ()),
        ((), ()),
        (("upbeat",), ("negative",)),
        (("negative",), ("upbeat",)),
        (("negative",), ("negative",), np.ones((1, 2))),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=r"answers|among|shape"):
        Predictions(LABELS, *parts)


def test_probabilities_that_are_not_numbers_are_refused_with_advice() -> None:
    with pytest.raises(ModelError, match=r"1 of 2 rows.*float32"):
        made([("negative", "negative")] * 2, np.array([[0.2, 0.3, 0.5], [np.nan] * 3]))


def test_paired_bootstrap_of_equal_predictions_finds_no_difference() -> None:
    one = made([("negative", "negative"), ("neutral", "positive")])
    assert paired_bootstrap(one, one) == {
        "accuracy_difference": 0,
        "interval": [0, 0],
        "share_better": 0,
        "only_one_right": 0,
        "only_other_right": 0,
        "mcnemar_p": 1,
    }


def test_paired_bootstrap_finds_a_difference_and_its_sign() -> None:
    gold = [LABELS[i % 3] for i in range(300)]
    good = made([(g, g if i % 10 else "neutral") for i, g in enumerate(gold)])
    poor = made([(g, g if i % 3 else None) for i, g in enumerate(gold)])
    result = paired_bootstrap(good, poor)
    low, high = result["interval"]
    assert 0 < low < result["accuracy_difference"] < high
    assert result["share_better"] == 1
    assert result["mcnemar_p"] < 1e-6
    back = paired_bootstrap(poor, good)
    assert back["accuracy_difference"] == -result["accuracy_difference"]
    assert (back["only_one_right"], back["only_other_right"]) == (
        result["only_other_right"],
        result["only_one_right"],
    )
    assert json.dumps(result)


def test_paired_bootstrap_refuses_other_rows() -> None:
    with pytest.raises(ValueError, match="same rows"):
        paired_bootstrap(made([("negative", None)]), made([("neutral", None)]))


def test_importing_the_module_loads_nothing_heavy() -> None:
    code = "import sys, fingpt_lora.metrics; print({'sklearn', 'scipy', 'torch'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "set()"
