"""Written answers: what they say, beside what they should have said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fingpt_lora.metrics import divide, f1_figures, interval, per_label
from fingpt_lora.tasks.base import Answer, Fact


@dataclass(frozen=True)
class FactSets:
    """What was said about rows.

    Attributes:
        labels: kinds of facts, in the task's order.
        gold: the right facts of each row.
        predicted: the facts of each answer; ``None`` is an answer that could not be read: it says nothing.
    """

    labels: tuple[str, ...]
    gold: tuple[frozenset[Fact], ...]
    predicted: tuple[frozenset[Fact] | None, ...]

    def __post_init__(self) -> None:
        """Check that the parts lie side by side."""
        if not len(self.gold) == len(self.predicted) > 0:
            raise ValueError(f"{len(self.gold)} rows but {len(self.predicted)} answers")


def fact_sets(labels: tuple[str, ...], gold: Sequence[Answer], predicted: Sequence[Answer | None]) -> FactSets:
    """Return what gold and read answers say."""
    return FactSets(
        labels,
        tuple(frozenset(answer.facts) for answer in gold),
        tuple(None if answer is None else frozenset(answer.facts) for answer in predicted),
    )


def fact_metrics(sets: FactSets, *, bootstrap: int = 1000, confidence: float = 0.95, seed: int = 0) -> dict[str, Any]:
    """Return all figures as JSON types.

    A fact is right where gold has one of the same kind that says the same. ``accuracy`` counts rows all of whose facts
    are right and none too many. ``grounded_rate`` is the share of stated facts whose words stand in the text;
    ``invalid_rate`` that of answers which could not be read. Intervals are percentiles over resampled rows (Efron
    1979). Of entities given by spans, micro-F1 is that of CoNLL-2003 and seqeval.

    Returns:
        ``rows``, ``accuracy``, ``micro_f1``, ``macro_f1``, ``weighted_f1``, ``invalid_rate``, ``grounded_rate``,
        ``per_class`` (label -> precision, recall, f1, support), ``intervals``, ``confidence``; where facts have parts,
        the micro-F1 of each, as ``trigger_f1``.
    """
    said = [facts or frozenset() for facts in sets.predicted]
    rows = len(said)
    right = [gold & own for gold, own in zip(sets.gold, said, strict=True)]
    # (rows, labels) each
    hits, gold, answers = (_counts(facts, sets.labels) for facts in (right, sets.gold, said))
    exact = np.array([one == other for one, other in zip(sets.gold, sets.predicted, strict=True)])
    draws = np.random.default_rng(seed).multinomial(rows, np.full(rows, 1 / rows), size=bootstrap)

    parts = {
        part: [
            np.array([sum(fact.part == part for fact in own) for own in facts]) for facts in (right, sets.gold, said)
        ]
        for part in sorted({fact.part for facts in (*sets.gold, *said) for fact in facts} - {""})
    }

    def figures(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "accuracy": weights @ exact / rows,
            **f1_figures(weights @ hits, weights @ gold, weights @ answers),
            **{
                f"{part}_f1": divide(2 * (weights @ hits), weights @ gold + weights @ answers)
                for part, (hits, gold, answers) in parts.items()
            },
        }

    stated = [fact.grounded for facts in said for fact in facts if fact.grounded is not None]
    return {
        "rows": rows,
        **{name: float(values[0]) for name, values in figures(np.ones((1, rows))).items()},
        "invalid_rate": sum(facts is None for facts in sets.predicted) / rows,
        "grounded_rate": sum(stated) / len(stated) if stated else 1.0,
        "per_class": per_label(sets.labels, hits.sum(axis=0), gold.sum(axis=0), answers.sum(axis=0)),
        "intervals": {name: interval(values, confidence) for name, values in figures(draws).items()},
        "confidence": confidence,
    }


def _counts(facts: Sequence[frozenset[Fact]], labels: tuple[str, ...]) -> np.ndarray:
    return np.array([[sum(fact.kind == label for fact in own) for label in labels] for own in facts])
