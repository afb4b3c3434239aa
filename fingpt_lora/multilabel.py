"""Texts to which any number of labels applies: predictions, thresholds, figures, baselines."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from fingpt_lora.metrics import divide, expected_calibration_error, f1_figures, interval, per_label

_MIN_ROWS = 10  # held-out rows of a label from which a threshold of its own can be told
HALF = 0.5


@dataclass(frozen=True)
class LabelSets:
    """What was said about rows that carry any number of labels.

    Attributes:
        labels: the task's labels, in its order.
        gold: the right labels of each row.
        probabilities: of each label by itself.  # (rows, labels)
        thresholds: probability from which a label counts as given.  # (labels,)
    """

    labels: tuple[str, ...]
    gold: tuple[tuple[str, ...], ...]
    probabilities: np.ndarray
    thresholds: np.ndarray

    def __post_init__(self) -> None:
        """Check that rows, labels and probabilities lie side by side."""
        if self.probabilities.shape != (len(self.gold), len(self.labels)) or not self.gold:
            raise ValueError(f"probabilities of shape {self.probabilities.shape} for {len(self.gold)} rows")

    @cached_property
    def truth(self) -> np.ndarray:
        """Which labels apply.  # (rows, labels), bool"""
        return np.array([[label in own for label in self.labels] for own in self.gold])

    @cached_property
    def given(self) -> np.ndarray:
        """Which labels were given.  # (rows, labels), bool"""
        return self.probabilities >= self.thresholds

    @cached_property
    def predicted(self) -> tuple[tuple[str, ...], ...]:
        """The labels given to each row, in the task's order."""
        return tuple(applying(row, self.labels) for row in self.given)

    def parted(self, rows: int) -> tuple[LabelSets, LabelSets | None]:
        """Return the first rows, and the others where there are any."""
        rest = self.gold[rows:]
        return (
            replace(self, gold=self.gold[:rows], probabilities=self.probabilities[:rows]),
            replace(self, gold=rest, probabilities=self.probabilities[rows:]) if rest else None,
        )

    def with_thresholds(self, thresholds: np.ndarray) -> LabelSets:
        """Return the same answers read by other thresholds."""
        return replace(self, thresholds=thresholds)


def applying(given: np.ndarray, labels: Sequence[str]) -> tuple[str, ...]:
    """Return the labels whose place in ``given`` is true."""
    return tuple(label for label, is_given in zip(labels, given, strict=True) if is_given)


def half(labels: Sequence[str]) -> np.ndarray:
    """Return the thresholds of whoever has nothing to tune them on."""
    return np.full(len(labels), HALF)


def tuned_thresholds(held_out: LabelSets) -> np.ndarray:
    """Return per label the threshold of the best F1 on rows that are neither trained on nor tested.

    A label with fewer than ten such rows takes the one threshold that is best for the micro-F1 of all labels.
    """
    truth, probabilities = held_out.truth, held_out.probabilities
    common = _best_threshold(truth.ravel(), probabilities.ravel())
    return np.array(
        [
            _best_threshold(truth[:, i], probabilities[:, i]) if truth[:, i].sum() >= _MIN_ROWS else common
            for i in range(len(held_out.labels))
        ]
    )


def _best_threshold(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the middle of the gap between two probabilities where F1 is best; 0.5 where no row has the label."""
    if not truth.any():
        return HALF
    order = np.argsort(-probabilities, kind="stable")
    hits = np.cumsum(truth[order])
    f1 = 2 * hits / (np.arange(1, len(truth) + 1) + truth.sum())
    ordered = probabilities[order]
    # A threshold cannot part equal probabilities.
    f1[:-1][ordered[:-1] == ordered[1:]] = -1
    last = int(f1.argmax())
    below = ordered[last + 1] if last + 1 < len(ordered) else 0.0
    return float((ordered[last] + below) / 2)


def multilabel_metrics(
    sets: LabelSets, *, bootstrap: int = 1000, confidence: float = 0.95, seed: int = 0
) -> dict[str, Any]:
    """Return all figures as JSON types.

    ``accuracy`` counts rows whose labels are all right and none too many. F1s are scikit-learn's for label sets;
    macro-F1 is over labels that occur in gold or answers. ``question_f1`` reads each label as a question of its own:
    the mean over labels of the weighted F1 of yes and no, FinGPT's figure for headlines. Intervals are percentiles
    over resampled rows (Efron 1979). ECE, Brier score and negative log-likelihood are those of yes against no, over
    all labels of all rows.

    Returns:
        ``rows``, ``accuracy``, ``micro_f1``, ``macro_f1``, ``weighted_f1``, ``question_f1``, ``invalid_rate`` (0: none
        is possible), ``per_class`` (label -> precision, recall, f1, support, threshold), ``intervals``,
        ``confidence``, ``ece``, ``brier``, ``nll``.
    """
    truth, given = sets.truth, sets.given
    rows = len(truth)
    draws = np.random.default_rng(seed).multinomial(rows, np.full(rows, 1 / rows), size=bootstrap)
    once = np.ones((1, rows), dtype=draws.dtype)
    hits, gold, answers = ((part.sum(axis=0)) for part in (truth & given, truth, given))
    said = np.clip(np.where(truth, sets.probabilities, 1 - sets.probabilities), np.finfo(np.float64).eps, None)
    return {
        "rows": rows,
        **{name: float(values[0]) for name, values in _figures(truth, given, once).items()},
        "invalid_rate": 0.0,
        "per_class": {
            label: {**own, "threshold": threshold}
            for (label, own), threshold in zip(
                per_label(sets.labels, hits, gold, answers).items(), sets.thresholds.tolist(), strict=True
            )
        },
        "intervals": {name: interval(values, confidence) for name, values in _figures(truth, given, draws).items()},
        "confidence": confidence,
        "ece": expected_calibration_error(sets.probabilities.ravel(), truth.ravel()),
        "brier": float(((sets.probabilities - truth) ** 2).mean()),
        "nll": float(-np.log(said).mean()),
    }


def _figures(truth: np.ndarray, given: np.ndarray, draws: np.ndarray) -> dict[str, np.ndarray]:
    """Return the figures of each draw, which says how often it holds each row.  # (draws,) each"""
    rows = draws.sum(axis=1, keepdims=True)
    hits, gold, answers = (draws @ part.astype(np.int64) for part in (truth & given, truth, given))  # (draws, labels)
    f1 = divide(2 * hits, gold + answers)
    no_f1 = divide(2 * (rows - gold - answers + hits), 2 * rows - gold - answers)
    return {
        "accuracy": divide(draws @ (truth == given).all(axis=1), rows[:, 0]),
        **f1_figures(hits, gold, answers),
        "question_f1": ((f1 * gold + no_f1 * (rows - gold)) / rows).mean(axis=1),
    }


def majority_sets(
    train: Sequence[tuple[str, ...]], gold: Sequence[tuple[str, ...]], labels: tuple[str, ...]
) -> LabelSets:
    """Give every row each label with its share of the training rows: no label that most of them lack."""
    shares = np.array([sum(label in own for own in train) / len(train) for label in labels])
    return LabelSets(labels, tuple(gold), np.tile(shares, (len(gold), 1)), half(labels))


def tfidf_sets(
    train_texts: Sequence[str],
    train: Sequence[tuple[str, ...]],
    texts: Sequence[str],
    gold: Sequence[tuple[str, ...]],
    labels: tuple[str, ...],
) -> LabelSets:
    """Ask one logistic regression per label, on the features of :func:`fingpt_lora.baselines.tfidf_baseline`."""
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # scikit-learn requires it

    from fingpt_lora.baselines import tfidf_features, tfidf_regression

    truth = np.array([[label in own for label in labels] for own in train])
    model = make_pipeline(tfidf_features(), OneVsRestClassifier(tfidf_regression()))
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a label that no, or every, training row has
        model.fit(list(train_texts), truth.astype(int))
        # Of a single label, scikit-learn gives yes and no.
        probabilities = model.predict_proba(list(texts))[:, -len(labels) :]
    return LabelSets(labels, tuple(gold), probabilities, half(labels))
