"""How well a model foretells held-out documents."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fingpt_lora.batching import Collator, Progress, supervised_logits
from fingpt_lora.metrics import interval
from fingpt_lora.prompts import IGNORED, Example, PromptEncoder

_TOKENS = 4096  # of a forward: each needs room for the whole vocabulary


@dataclass(frozen=True)
class TextLosses:
    """What documents cost.

    Attributes:
        nll: summed negative log-likelihood of each, in nats.  # (documents,)
        tokens: that were foretold.  # (documents,)
        sizes: of the texts in UTF-8 bytes.  # (documents,)
    """

    nll: np.ndarray
    tokens: np.ndarray
    sizes: np.ndarray

    def only(self, documents: Sequence[int]) -> TextLosses:
        """Return the same of some documents."""
        return TextLosses(self.nll[documents], self.tokens[documents], self.sizes[documents])


def score_documents(
    model: torch.nn.Module, encoder: PromptEncoder, texts: Sequence[str], progress: Progress | None = None
) -> TextLosses:
    """Return the losses of documents, each token foretold from those before it in its chunk.

    Args:
        model: base or adapted model.
        encoder: cuts the documents.
        texts: documents.
        progress: told how many documents were scored.
    """
    chunks = [(place, chunk) for place, text in enumerate(texts) for chunk in encoder.chunks(text)]
    nll, tokens = np.zeros(len(texts)), np.zeros(len(texts), dtype=int)
    left = np.bincount([place for place, _ in chunks], minlength=len(texts))
    for number, losses, _ in foretold(model, [chunk for _, chunk in chunks], encoder.contract.pad_id):
        place = chunks[number][0]
        nll[place] += losses.sum()
        tokens[place] += len(losses)
        left[place] -= 1
        if progress and not left[place]:
            progress(1)
    return TextLosses(nll, tokens, np.array([len(text.encode()) for text in texts]))


def foretold(
    model: torch.nn.Module, rows: Sequence[Example], pad_id: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield of each row, in the order of computation, how well its supervised tokens were foretold.

    The model is in evaluation mode meanwhile.

    Yields:
        number of the row, negative log-likelihoods in nats (tokens,), and the most probable token at each place
        (tokens,).
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        for part in _batches(rows):
            given = [{"input_ids": rows[i].ids, "labels": rows[i].labels} for i in part]
            batch = {k: v.to(device) for k, v in Collator(pad_id, False)(given).items()}
            with torch.inference_mode():
                logits, targets = supervised_logits(model, batch)
                losses = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
            tops = logits.argmax(dim=-1)
            counts = [sum(label != IGNORED for label in rows[i].labels[1:]) for i in part]
            for i, own, top in zip(part, torch.split(losses, counts), torch.split(tops, counts), strict=True):
                yield i, own.double().cpu().numpy(), top.cpu().numpy()
    finally:
        model.train(was_training)


def _batches(rows: Sequence[Example]) -> Iterator[list[int]]:
    """Yield the places of rows of near lengths, as many as have room together."""
    part: list[int] = []
    for place in sorted(range(len(rows)), key=lambda i: len(rows[i].ids)):
        if part and (len(part) + 1) * len(rows[place].ids) > _TOKENS:
            yield part
            part = []
        part.append(place)
    if part:
        yield part


def text_metrics(
    losses: TextLosses, *, bootstrap: int = 1000, confidence: float = 0.95, seed: int = 0
) -> dict[str, Any]:
    """Return all figures as JSON types.

    Perplexity is the exponential of the mean loss per token, and depends on the tokenizer; bits per byte do not. The
    intervals are percentiles over resampled documents (Efron 1979).

    Returns:
        ``rows`` (documents), ``tokens``, ``nll`` (per token, nats), ``perplexity``, ``bits_per_byte``, ``intervals``,
        ``confidence``.
    """
    rows = len(losses.nll)
    draws = np.random.default_rng(seed).multinomial(rows, np.full(rows, 1 / rows), size=bootstrap)

    def figures(weights: np.ndarray) -> dict[str, np.ndarray]:
        total = weights @ losses.nll
        return {
            "perplexity": np.exp(total / (weights @ losses.tokens)),
            "bits_per_byte": total / math.log(2) / (weights @ losses.sizes),
        }

    return {
        "rows": rows,
        "tokens": int(losses.tokens.sum()),
        "nll": float(losses.nll.sum() / losses.tokens.sum()),
        **{name: float(values[0]) for name, values in figures(np.ones((1, rows))).items()},
        "intervals": {name: interval(values, confidence) for name, values in figures(draws).items()},
        "confidence": confidence,
    }
