"""Figures that do not flatter: accuracy, F1s, MCC, calibration, invalid answers, intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

INVALID = "invalid"
_BINS = 15  # equal-width confidence bins (Guo et al. 2017, arXiv 1706.04599)


@dataclass(frozen=True)
class Predictions:
    """What was said about labelled rows. ``None`` is an answer that is not one: wrong, and counted."""

    labels: tuple[str, ...]
    gold: tuple[str, ...]
    predicted: tuple[str | None, ...]
    probabilities: np.ndarray | None = None  # (rows, labels)

    def __post_init__(self) -> None:
        """Refuse rows and answers that do not lie side by side."""
        if not len(self.gold) == len(self.predicted) > 0:
            raise ValueError(f"{len(self.gold)} rows but {len(self.predicted)} answers")
        if self.probabilities is not None and self.probabilities.shape != (len(self.gold), len(self.labels)):
            raise ValueError(f"probabilities of shape {self.probabilities.shape} for {len(self.gold)} rows")

    def confusion(self) -> np.ndarray:
        """Return counts, gold in rows, answers in columns, the last column invalid.  # (labels, labels + 1)"""
        place = {label: i for i, label in enumerate(self.labels)}
        counts = np.zeros((len(self.labels), len(self.labels) + 1), dtype=np.int64)
        for gold, answer in zip(self.gold, self.predicted, strict=True):
            counts[place[gold], len(self.labels) if answer is None else place[answer]] += 1
        return counts


def classification_metrics(
    predictions: Predictions, *, bootstrap: int = 1000, confidence: float = 0.95, seed: int = 0
) -> dict[str, Any]:
    """Return all figures as JSON types.

    An invalid answer is a miss for its gold label and no prediction of any label, so no F1 can gain recall by
    it; MCC treats it as a class of its own. Macro-F1 averages over the labels that occur in gold or answers.
    Intervals are percentiles over resampled rows (drawing confusion cells from a multinomial is the same thing).
    """
    counts = predictions.confusion()
    figures = {name: float(value[0]) for name, value in _figures(counts[None]).items()}
    draws = np.random.default_rng(seed).multinomial(
        int(counts.sum()), counts.ravel() / counts.sum(), size=bootstrap
    )
    tail = (1 - confidence) / 2
    intervals = {
        name: [float(x) for x in np.quantile(value, [tail, 1 - tail])]
        for name, value in _figures(draws.reshape(bootstrap, *counts.shape)).items()
    }
    invalid = int(counts[:, -1].sum())
    columns = [*predictions.labels, INVALID] if invalid else list(predictions.labels)
    result: dict[str, Any] = {
        "rows": len(predictions.gold),
        **figures,
        "invalid_rate": invalid / len(predictions.gold),
        "per_class": _per_class(predictions.labels, counts),
        "confusion_matrix": {
            "gold": list(predictions.labels),
            "predicted": columns,
            "counts": counts[:, : len(columns)].tolist(),
        },
        "intervals": intervals,
        "confidence": confidence,
    }
    if predictions.probabilities is not None:
        result |= _calibration(predictions)
    return result


def _figures(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Accuracy, weighted and macro F1, MCC of many confusion matrices at once.  # (draws, labels, labels + 1)"""
    counts = counts.astype(np.float64)
    total = counts.sum(axis=(1, 2))
    hits = np.diagonal(counts[:, :, :-1], axis1=1, axis2=2)  # (draws, labels)
    gold, predicted = counts.sum(axis=2), counts.sum(axis=1)  # (draws, labels), (draws, labels + 1)
    f1 = _divide(2 * hits, gold + predicted[:, :-1])
    present = (gold + predicted[:, :-1]) > 0
    # Matthews correlation for many classes (Gorodkin 2004); gold has no invalid class.
    correct = hits.sum(axis=1)
    covariance = correct * total - (gold * predicted[:, :-1]).sum(axis=1)
    spread = (total**2 - (predicted**2).sum(axis=1)) * (total**2 - (gold**2).sum(axis=1))
    return {
        "accuracy": correct / total,
        "weighted_f1": (f1 * gold).sum(axis=1) / total,
        "macro_f1": _divide((f1 * present).sum(axis=1), present.sum(axis=1)),
        "mcc": _divide(covariance, np.sqrt(spread)),
    }


def _divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=below > 0)


def _per_class(labels: tuple[str, ...], counts: np.ndarray) -> dict[str, dict[str, float]]:
    hits = np.diagonal(counts[:, :-1]).astype(np.float64)
    gold, predicted = counts.sum(axis=1), counts.sum(axis=0)[:-1]
    precision, recall, f1 = _divide(hits, predicted), _divide(hits, gold), _divide(2 * hits, gold + predicted)
    return {
        label: {
            "precision": float(precision[i]),
            "recall": float(recall[i]),
            "f1": float(f1[i]),
            "support": int(gold[i]),
        }
        for i, label in enumerate(labels)
    }


def _calibration(predictions: Predictions) -> dict[str, Any]:
    """ECE, Brier score, negative log-likelihood, reliability bins, and accuracy against coverage."""
    probabilities = predictions.probabilities
    assert probabilities is not None
    place = {label: i for i, label in enumerate(predictions.labels)}
    gold = np.array([place[label] for label in predictions.gold])
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == gold
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    reliability = [
        {
            "confidence": float(confidence[bins == b].mean()),
            "accuracy": float(right[bins == b].mean()),
            "rows": int((bins == b).sum()),
        }
        for b in range(_BINS)
        if (bins == b).any()
    ]
    rows = len(gold)
    truth = np.eye(len(predictions.labels))[gold]
    by_confidence = right[np.argsort(-confidence, kind="stable")]
    shares = [i / 10 for i in range(1, 11)]
    kept = [max(1, round(share * rows)) for share in shares]
    return {
        "ece": sum(abs(b["confidence"] - b["accuracy"]) * b["rows"] for b in reliability) / rows,
        "brier": float(((probabilities - truth) ** 2).sum(axis=1).mean()),
        "nll": float(-np.log(np.clip(probabilities[np.arange(rows), gold], 1e-300, None)).mean()),
        "reliability": reliability,
        "coverage": {"coverage": shares, "accuracy": [float(by_confidence[:k].mean()) for k in kept]},
    }


def paired_bootstrap(
    one: Predictions, other: Predictions, *, bootstrap: int = 1000, confidence: float = 0.95, seed: int = 0
) -> dict[str, Any]:
    """Compare two predictions of the same rows: difference in accuracy, its interval, the share of draws above 0."""
    if one.gold != other.gold:
        raise ValueError("the two predictions are not of the same rows")
    gains = np.array(
        [(a == g) - (b == g) for a, b, g in zip(one.predicted, other.predicted, one.gold, strict=True)], dtype=int
    )
    cells = np.array([(gains == -1).mean(), (gains == 0).mean(), (gains == 1).mean()])
    draws = np.random.default_rng(seed).multinomial(len(gains), cells, size=bootstrap)
    differences = (draws[:, 2] - draws[:, 0]) / len(gains)
    tail = (1 - confidence) / 2
    return {
        "accuracy_difference": float(gains.mean()),
        "interval": [float(x) for x in np.quantile(differences, [tail, 1 - tail])],
        "share_better": float((differences > 0).mean()),
    }


def headline(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the figures that tables show, in their order."""
    return {name: metrics.get(name) for name in ("accuracy", "weighted_f1", "macro_f1", "mcc", "ece")}
