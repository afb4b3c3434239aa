"""Whether a model made from a run answers as the trained one does: both are asked the same held-out rows."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from fingpt_lora.console import progress_bar
from fingpt_lora.context import put_before
from fingpt_lora.data import Row, load_labelled
from fingpt_lora.errors import RunError
from fingpt_lora.evaluate import predict_rows
from fingpt_lora.multilabel import applying
from fingpt_lora.perplexity import foretold
from fingpt_lora.plan import splits_of, texts
from fingpt_lora.predict import Predictor
from fingpt_lora.prompts import Example, PromptEncoder
from fingpt_lora.runs import Run
from fingpt_lora.tasks import TextTask
from fingpt_lora.tasks.base import Answer

ROWS, SEED = 256, 0  # of the sample
_FLOOR = 1e-300  # a probability that rounds to nothing still has a logarithm


@dataclass(frozen=True)
class Answered:
    """What a model says of probe rows.

    Attributes:
        said: per row its label, set of labels or written answer; None is an invalid one. Of raw text, per token the
            one that the model holds for the most probable.
        log_probs: of every label for every row (of yes, where several may apply); of the right tokens, where answers
            are written or text is raw.  # (rows, labels) or (tokens,)
        right: per row whether it is the right answer; None of raw text.
        seconds: that it took.
    """

    said: Sequence[Any]
    log_probs: np.ndarray
    right: Sequence[bool] | None
    seconds: float


@dataclass(frozen=True)
class Agreement:
    """How near one model's answers are to another's.

    Attributes:
        agreement: share of the answers that are the same, from 0 to 1.
        near_ties: share that differ where the trained model is as good as undecided.
        mean_drift: mean absolute difference of the log-probabilities, in nats.
        max_drift: the largest one.
        moved: share of the probability that went to other answers, from 0 to 1, a mean over rows (labels, tokens).
    """

    agreement: float
    near_ties: float
    mean_drift: float
    max_drift: float
    moved: float

    @property
    def kept(self) -> float:
        """Share of the answers of which nothing says that they are lost."""
        return self.agreement + self.near_ties


@dataclass(frozen=True)
class Trained:
    """A trained model's answers, and what of them is chance.

    It is asked twice, in other batches: in half precision their sums round otherwise, and a near tie falls the other
    way. No other model can be asked to keep what it does not keep itself.

    Attributes:
        first: the answers.
        second: the same, asked again.
        labels: the task's.
        thresholds: probability from which each applies, where several may.
    """

    first: Answered
    second: Answered
    labels: Sequence[str]
    thresholds: np.ndarray | None

    @cached_property
    def noise(self) -> float:
        """Largest change of a log-probability from one asking to the next, in nats."""
        return float(np.abs(self.first.log_probs - self.second.log_probs).max())

    def near_tie(self, row: int, said: Any) -> bool:
        """Return whether another answer is one that the model itself was as near to."""
        own, scores = self.first.said[row], self.first.log_probs
        if same_answer(said, self.second.said[row]):
            return True
        if scores.ndim != 2 or said is None or own is None:
            return False
        place = {label: i for i, label in enumerate(self.labels)}
        if self.thresholds is not None:
            changed = [place[label] for label in {*own} ^ {*said}]
            gaps = np.abs(scores[row, changed] - np.log(np.maximum(self.thresholds[changed], _FLOOR)))
            return bool((gaps <= self.noise).all())
        return bool(scores[row, place[own]] - scores[row, place[said]] <= self.noise)

    def agreement(self, said: Sequence[Any]) -> tuple[float, float]:
        """Return the shares of another model's answers that are the same, and that are another at a near tie."""
        same = [same_answer(a, b) for a, b in zip(self.first.said, said, strict=True)]
        ties = [self.near_tie(row, other) for row, other in enumerate(said) if not same[row]]
        return float(np.mean(same)), sum(ties) / len(same)

    def compare(self, other: Answered) -> Agreement:
        """Measure how near another model's answers are."""
        drift = np.abs(self.first.log_probs - other.log_probs)
        moved = np.abs(np.exp(self.first.log_probs) - np.exp(other.log_probs))
        if moved.ndim == 2 and self.thresholds is None:  # one of the labels is right: what one loses another gets
            moved = moved.sum(axis=1) / 2
        return Agreement(*self.agreement(other.said), float(drift.mean()), float(drift.max()), float(moved.mean()))


def probe_rows(run: Run, encoder: PromptEncoder, data: str | None = None, rows: int = ROWS) -> list[Row]:
    """Return rows that a run was not trained on: a sample of its test rows, or of a labelled file.

    Raises:
        FingptLoraError: the rows cannot be read, or there are none.
    """
    section = run.recipe.data
    found = splits_of(run.recipe).test if data is None else load_labelled(data, section, encoder.task)[0]
    if not found:
        raise RunError(f"'{run.folder}' has no held-out rows to prove it on. Name a labelled file: --data FILE.")
    chosen = sorted(random.Random(SEED).sample(range(len(found)), min(rows, len(found))))
    return put_before([found[i] for i in chosen], section.context, encoder)


def answers(predictor: Predictor, rows: Sequence[Row], what: str) -> Answered:
    """Ask a run about probe rows, as ``fingpt-lora predict`` would.

    Args:
        predictor: the run, with the model that is to answer.
        rows: from :func:`probe_rows`.
        what: shown beside a progress bar.
    """
    encoder, section = predictor.encoder, predictor.run.recipe.evaluation
    asked = texts(rows)
    began = time.perf_counter()
    if isinstance(encoder.task, TextTask):
        said, log_probs = _foretold(predictor, [chunk for text in asked for chunk in encoder.chunks(text)])
        return Answered(said, log_probs, None, time.perf_counter() - began)
    with progress_bar(what, len(rows)) as progress:
        found, probabilities = predict_rows(predictor.model, encoder, asked, section, progress)
    if probabilities is None:
        _, log_probs = _foretold(predictor, encoder.examples(asked, [row.label or "" for row in rows]))
    else:
        log_probs = np.log(np.maximum(probabilities, _FLOOR))
    labels: Sequence[Any] = found
    if predictor.thresholds is not None and probabilities is not None:
        labels = [applying(row >= predictor.thresholds, encoder.contract.labels) for row in probabilities]
    right = [same_answer(own, row.label) for own, row in zip(labels, rows, strict=True)]
    return Answered(labels, log_probs, right, time.perf_counter() - began)


def asked_twice(predictor: Predictor, rows: Sequence[Row], what: str) -> Trained:
    """Ask a trained model about probe rows, and again in other batches.

    Args:
        predictor: the run, with its model.
        rows: from :func:`probe_rows`.
        what: shown beside progress bars.
    """
    first = answers(predictor, rows, what)
    second = first
    if first.right is not None:  # raw text is batched by its lengths alone
        section = predictor.run.recipe.evaluation
        smaller = section.model_copy(update={"batch_size": max(1, section.batch_size // 4)})
        recipe = predictor.run.recipe.model_copy(update={"evaluation": smaller})
        second = answers(replace(predictor, run=replace(predictor.run, recipe=recipe)), rows, f"{what}, again")
    return Trained(first, second, predictor.encoder.contract.labels, predictor.thresholds)


def same_answer(one: Any, other: Any) -> bool:
    """Return whether two answers say the same."""
    # Labels that apply, and facts that are stated, have no order; reasons may be worded otherwise.
    if isinstance(one, tuple) and isinstance(other, tuple):
        return set(one) == set(other)
    if isinstance(one, Answer) and isinstance(other, Answer):
        return Counter(one.facts) == Counter(other.facts)
    return bool(one == other)


def _foretold(predictor: Predictor, examples: Sequence[Example]) -> tuple[list[int], np.ndarray]:
    """Return, over all rows, the most probable token at each supervised place and the right one's log-probability."""
    found = sorted(foretold(predictor.model, examples, predictor.encoder.contract.pad_id), key=lambda one: one[0])
    tops = [int(top) for _, _, own in found for top in own]
    return tops, -np.concatenate([losses for _, losses, _ in found])
