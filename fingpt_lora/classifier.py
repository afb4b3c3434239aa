"""The BERT way: an encoder, or a causal model, with a classification head instead of written answers.

A text goes in between the tokenizer's own special tokens, without instruction, and the head gives one number per
label (Devlin et al. 2019, arXiv 1810.04805): shares of all labels, or yes against no for each where several may apply.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fingpt_lora.batching import Progress
from fingpt_lora.errors import ModelError
from fingpt_lora.prompts import PromptEncoder


@dataclass(frozen=True)
class ClassCollator:
    """Pads rows on the right, as encoders are trained, and keeps the class, or yes and no of each label, beside."""

    pad_id: int
    several: bool

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Return ``input_ids`` and ``attention_mask`` (rows, longest), ``labels`` (rows,) or (rows, labels)."""
        labels = [list(row["labels"]) for row in examples]
        found = torch.tensor(labels, dtype=torch.float) if self.several else torch.tensor([own for (own,) in labels])
        return {**_padded([row["input_ids"] for row in examples], self.pad_id), "labels": found}


def _padded(rows: Sequence[Sequence[int]], pad_id: int) -> dict[str, torch.Tensor]:
    longest = max(map(len, rows))
    ids = [[*row, *[pad_id] * (longest - len(row))] for row in rows]
    mask = [[*[1] * len(row), *[0] * (longest - len(row))] for row in rows]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def class_loss(model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
    """Return the summed negative log-likelihood of a collated batch and how many answers it is over."""
    labels = batch["labels"]
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()
    if labels.is_floating_point():
        total = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
    else:
        total = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    return total, labels.numel()


def score_classes(
    model: torch.nn.Module,
    encoder: PromptEncoder,
    texts: Sequence[str],
    *,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> np.ndarray:
    """Return log-probabilities of the labels, as :func:`fingpt_lora.scoring.score_labels` does.  # (texts, labels)

    Raises:
        ModelError: the model's output is no number.
    """
    prompts = [prompt.ids for prompt in encoder.prompts(texts)]
    order = sorted(range(len(texts)), key=lambda i: len(prompts[i]))
    scores = np.zeros((len(texts), len(encoder.contract.labels)))
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(order), batch_size):
                part = order[start : start + batch_size]
                batch = _padded([prompts[i] for i in part], encoder.contract.pad_id)
                logits = model(**{key: value.to(device) for key, value in batch.items()}).logits.double()
                several = encoder.task.several
                log_probs = torch.nn.functional.logsigmoid(logits) if several else torch.log_softmax(logits, dim=1)
                scores[part] = log_probs.cpu().numpy()
                if progress:
                    progress(len(part))
    finally:
        model.train(was_training)
    if not np.isfinite(scores).all():
        raise ModelError("The model's label probabilities are not numbers. Set model.dtype: float32 and run again.")
    return scores
