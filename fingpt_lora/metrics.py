"""Figures that do not flatter: accuracy, F1s, MCC, calibration, invalid answers, intervals. Imports no scikit-learn.

The point figures are scikit-learn's (the tests hold them to it); they are computed here from counts, because
then a thousand bootstrap draws cost one array operation instead of a thousand calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fingpt_lora.errors import ModelError

INVALID = "invalid"  # heading of the confusion matrix's column of answers that are not one
_BINS = 15  # equal-width confidence bins, as in Guo et al. 2017 (arXiv 1706.04599)


@dataclass(frozen=True)
class Predictions:
    """What was said about labelled rows.

    Attributes:
        labels: the task's labels, in its order.
        gold: the right label of each row.
        predicted: the answer to each row; ``None`` is an answer that is not one: wrong, and counted.
        probabilities: shape (rows, labels), or None where the model was not asked for them.

    Raises:
        ValueError: rows, answers and probabilities do not lie side by side, or a label is not the task's.
        ModelError: the model gave probabilities that are not numbers.
    """

    labels: tuple[str, ...]
    gold: tuple[str, ...]
    predicted: tuple[str | None, ...]
    probabilities: np.ndarray | None = None  # (rows, labels)

    def __post_init__(self) -> None:
        """Check that the parts fit together."""
        rows = len(self.gold)
        if not rows == len(self.predicted) > 0:
            raise ValueError(f"{rows} rows but {len(self.predicted)} answers")
        unknown = (set(self.gold) | (set(self.predicted) - {None})) - set(self.labels)
        if unknown:
            raise ValueError(f"labels {sorted(map(str, unknown))} are not among {list(self.labels)}")
        if self.probabilities is None:
            return
        if self.probabilities.shape != (rows, len(self.labels)):
            raise ValueError(f"probabilities of shape {self.probabilities.shape} for {rows} rows")
        bad = int((~np.isfinite(self.probabilities)).any(axis=1).sum())
        if bad:
            # argmax of NaN is the first label: without this, a broken model would look like a one-sided one.
            raise ModelError(
                f"The model's label probabilities are not numbers for {bad} of {rows} rows. "
                "Set model.dtype: float32 and run again."
            )

    def confusion(self) -> np.ndarray:
        """Return counts, gold in rows, answers in columns, the last column invalid.  # (labels, labels + 1)"""
        place: dict[str | None, int] = {label: i for i, label in enumerate((*self.labels, None))}
        counts = np.zeros((len(self.labels), len(self.labels) + 1), dtype=np.int64)
        np.add.at(counts, ([place[label] for label in self.gold], [place[label] for label in self.predicted]), 1)
        return counts


def classification_metrics(
    predictions: Predictions, *, bootstrap: int = 1000, confidence: float = 0.95, seed: int = 0
) -> dict[str, Any]:
    """Return all figures as JSON types.

    Conventions:
        - An invalid answer is a miss for its gold label and a prediction of no label. So it lowers accuracy and
          that label's recall as any wrong answer does; unlike a wrong answer it does not lower the precision of
          another label, hence an F1 can stand above accuracy where ``invalid_rate`` is above 0. That is
          scikit-learn's ``f1_score(..., labels=labels)``. MCC counts invalid as a class of its own.
        - Weighted F1 weighs labels by their gold rows. Macro-F1 averages over the labels that occur in gold or
          answers: a label that nobody mentions is no evidence.
        - Intervals are percentiles over resampled rows (Efron 1979). Resampling rows and drawing the cells of
          the confusion matrix from a multinomial are the same thing. At a perfect score they shrink to a point.
        - With probabilities: ECE over 15 equal-width bins of the largest probability (Guo et al. 2017), the
          Brier score summed over labels (0 to 2; Brier 1950), mean negative log-likelihood in nats, and the
          accuracy of the most confident share of rows (El-Yaniv & Wiener 2010), rows of equal confidence
          counting alike.

    Args:
        predictions: answers beside gold labels.
        bootstrap: number of resamples.
        confidence: level of the intervals.
        seed: seed of the resampling; the same predictions give the same intervals.

    Returns:
        ``rows``, ``accuracy``, ``weighted_f1``, ``macro_f1``, ``mcc``, ``invalid_rate``, ``per_class`` (label ->
        precision, recall, f1, support), ``confusion_matrix`` (``gold`` and ``predicted`` headings, ``counts``),
        ``intervals`` (figure -> [low, high]), ``confidence``; with probabilities also ``ece``, ``brier``,
        ``nll``, ``reliability`` (per filled bin: confidence, accuracy, rows) and ``coverage``.
    """
    counts = predictions.confusion()
    rows = len(predictions.gold)
    draws = np.random.default_rng(seed).multinomial(rows, counts.ravel() / rows, size=bootstrap)
    invalid = int(counts[:, -1].sum())
    columns = [*predictions.labels, INVALID] if invalid else list(predictions.labels)
    result: dict[str, Any] = {
        "rows": rows,
        **{name: float(value[0]) for name, value in _figures(counts[None]).items()},
        "invalid_rate": invalid / rows,
        "per_class": per_label(
            predictions.labels, np.diagonal(counts[:, :-1]), counts.sum(axis=1), counts.sum(axis=0)[:-1]
        ),
        "confusion_matrix": {
            "gold": list(predictions.labels),
            "predicted": columns,
            "counts": counts[:, : len(columns)].tolist(),
        },
        "intervals": {
            name: interval(value, confidence)
            for name, value in _figures(draws.reshape(bootstrap, *counts.shape)).items()
        },
        "confidence": confidence,
    }
    if predictions.probabilities is not None:
        result |= _calibration(predictions, predictions.probabilities)
    return result


def _figures(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Accuracy, weighted and macro F1, MCC of many confusion matrices at once.  # (draws, labels, labels + 1)"""
    counts = counts.astype(np.float64)
    total = counts.sum(axis=(1, 2))
    hits = np.diagonal(counts[:, :, :-1], axis1=1, axis2=2)  # (draws, labels)
    gold, predicted = counts.sum(axis=2), counts.sum(axis=1)  # (draws, labels), (draws, labels + 1)
    mentions = gold + predicted[:, :-1]
    f1 = divide(2 * hits, mentions)
    # Matthews correlation for many classes (Gorodkin 2004); gold has no invalid class.
    correct = hits.sum(axis=1)
    covariance = correct * total - (gold * predicted[:, :-1]).sum(axis=1)
    spread = (total**2 - (predicted**2).sum(axis=1)) * (total**2 - (gold**2).sum(axis=1))
    return {
        "accuracy": correct / total,
        "weighted_f1": (f1 * gold).sum(axis=1) / total,
        "macro_f1": divide(f1.sum(axis=1), (mentions > 0).sum(axis=1)),
        "mcc": divide(covariance, np.sqrt(spread)),
    }


def divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Divide, with 0 where there is nothing to divide by (scikit-learn's ``zero_division=0``)."""
    shares = np.zeros(np.broadcast(above, below).shape)
    np.divide(above, below, out=shares, where=below > 0)
    return shares


def interval(values: np.ndarray, confidence: float) -> list[float]:
    """Return the percentile interval of bootstrap draws."""
    tail = (1 - confidence) / 2
    return [float(bound) for bound in np.quantile(values, [tail, 1 - tail])]


def f1_figures(hits: np.ndarray, gold: np.ndarray, answers: np.ndarray) -> dict[str, np.ndarray]:
    """Return micro, macro and weighted F1 of counts per label; macro is over labels in gold or answers.

    # (draws, labels) each -> (draws,) each
    """
    f1 = divide(2 * hits, gold + answers)
    return {
        "micro_f1": divide(2 * hits.sum(axis=1), (gold + answers).sum(axis=1)),
        "macro_f1": divide(f1.sum(axis=1), (gold + answers > 0).sum(axis=1)),
        "weighted_f1": divide((f1 * gold).sum(axis=1), gold.sum(axis=1)),
    }


def per_label(
    labels: tuple[str, ...], hits: np.ndarray, gold: np.ndarray, answers: np.ndarray
) -> dict[str, dict[str, float]]:
    """Return precision, recall, F1 and support of each label, of counts.  # (labels,) each"""
    columns = (divide(hits, answers), divide(hits, gold), divide(2 * hits, gold + answers))
    return {
        label: {"precision": float(precision), "recall": float(recall), "f1": float(f1), "support": int(support)}
        for label, precision, recall, f1, support in zip(labels, *columns, gold, strict=True)
    }


def _calibration(predictions: Predictions, probabilities: np.ndarray) -> dict[str, Any]:
    """ECE, Brier score, negative log-likelihood, reliability bins, and accuracy against coverage."""
    rows = len(predictions.gold)
    gold = np.array([predictions.labels.index(label) for label in predictions.gold])
    right = np.array([a == g for a, g in zip(predictions.predicted, predictions.gold, strict=True)], dtype=float)
    confidence = probabilities.max(axis=1)
    reliability = _reliability(confidence, right)
    # Rows of one confidence share their accuracy: otherwise the order of the file would decide who is kept.
    _, tied = np.unique(confidence, return_inverse=True)
    expected = (np.bincount(tied, weights=right) / np.bincount(tied))[tied]
    kept = np.cumsum(expected[np.argsort(-confidence, kind="stable")]) / np.arange(1, rows + 1)
    shares = [i / 10 for i in range(1, 11)]
    truth = np.eye(len(predictions.labels))[gold]
    said = probabilities[np.arange(rows), gold]
    return {
        "ece": expected_calibration_error(confidence, right),
        "brier": float(((probabilities - truth) ** 2).sum(axis=1).mean()),
        # A label held to be impossible is surprising, not infinitely so: clipped as in sklearn.metrics.log_loss.
        "nll": float(-np.log(np.clip(said, np.finfo(np.float64).eps, None)).mean()),
        "reliability": reliability,
        "coverage": {
            "coverage": shares,
            "accuracy": [float(kept[max(1, round(share * rows)) - 1]) for share in shares],
        },
    }


def _reliability(confidence: np.ndarray, right: np.ndarray) -> list[dict[str, float]]:
    """Return the filled bins of equal width: mean confidence, share that was right, rows."""
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    return [
        {
            "confidence": float(confidence[bins == b].mean()),
            "accuracy": float(right[bins == b].mean()),
            "rows": int((bins == b).sum()),
        }
        for b in np.unique(bins)
    ]


def expected_calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Return the mean distance of confidence and accuracy over 15 bins of equal width (Guo et al. 2017).

    # (n,), (n,)
    """
    bins = _reliability(confidence, right)
    return sum(abs(b["confidence"] - b["accuracy"]) * b["rows"] for b in bins) / len(confidence)


class Answered(Protocol):
    """Gold labels beside answers."""

    @property
    def gold(self) -> tuple[Any, ...]:
        """The right label, or labels, of each row."""

    @property
    def predicted(self) -> tuple[Any, ...]:
        """The answer to each row."""


def paired_bootstrap(
    one: Answered, other: Answered, *, bootstrap: int = 1000, confidence: float = 0.95, seed: int = 0
) -> dict[str, Any]:
    """Compare the accuracy of two predictions of the same rows.

    Rows are resampled together (Efron 1979; for this use Koehn 2004), so the shared difficulty of a row cancels
    and the interval is narrower than the two intervals apart. McNemar's exact test (McNemar 1947) looks at the
    rows on which only one of the two is right.

    Returns:
        ``accuracy_difference`` (one minus other) with its ``interval``; ``share_better``, the share of draws in
        which ``one`` is strictly better; ``only_one_right`` and ``only_other_right`` in rows; ``mcnemar_p``, two-sided.

    Raises:
        ValueError: the two are not of the same rows.
    """
    if one.gold != other.gold:
        raise ValueError("the two predictions are not of the same rows")
    from scipy.stats import binomtest

    pairs = zip(one.predicted, other.predicted, one.gold, strict=True)
    gains = np.array([(a == g) - (b == g) for a, b, g in pairs], dtype=int)
    rows, lost, won = len(gains), int((gains == -1).sum()), int((gains == 1).sum())
    cells = np.array([lost, rows - lost - won, won]) / rows
    draws = np.random.default_rng(seed).multinomial(rows, cells, size=bootstrap)
    differences = (draws[:, 2] - draws[:, 0]) / rows
    return {
        "accuracy_difference": float(gains.mean()),
        "interval": interval(differences, confidence),
        "share_better": float((differences > 0).mean()),
        "only_one_right": won,
        "only_other_right": lost,
        "mcnemar_p": float(binomtest(won, won + lost).pvalue) if won + lost else 1.0,
    }
