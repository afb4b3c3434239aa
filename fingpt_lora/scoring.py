"""The only place where logits become labels: the log-probability of every possible answer, exactly.

For a batch, the shared prefix is computed once; each row's remainder and the tokens of all candidate answers run
in one forward, the answers side by side as branches of a tree (positions restarted, attention masked to the row
and the branch itself). So an answer of several tokens costs no more than its tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from fingpt_lora.batching import common_prefix, pad_left
from fingpt_lora.errors import ModelError
from fingpt_lora.prompts import Prompt, PromptEncoder

Progress = Callable[[int], None]


def score_labels(
    model: torch.nn.Module,
    encoder: PromptEncoder,
    texts: Sequence[str],
    *,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> np.ndarray:
    """Return log-probabilities of the labels, normalised over the labels.  # (texts, labels), float64

    The model is left in the mode (training or evaluation) in which it came.
    """
    scores = np.zeros((len(texts), len(encoder.contract.labels)))
    prompts = encoder.prompts(texts)
    languages = [encoder.task.language(text) for text in texts]
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for language in dict.fromkeys(languages):
                answers = discriminating_ids(list(encoder.answer_ids(language).values()), encoder.contract.stop_ids)
                rows = [i for i, own in enumerate(languages) if own == language]
                # Near lengths together: a batch is as wide as its longest row.
                rows.sort(key=lambda i: len(prompts[i].ids))
                shared = common_prefix([prompts[i].ids for i in rows])
                prefix = prefix_cache(model, _ids(model, [prompts[rows[0]].ids[:shared]])) if shared else None
                for start in range(0, len(rows), batch_size):
                    part = rows[start : start + batch_size]
                    scores[part] = _score_batch(model, prefix, shared, [prompts[i] for i in part], answers, encoder)
                    if progress:
                        progress(len(part))
    finally:
        model.train(was_training)
    return scores


def discriminating_ids(answers: Sequence[Sequence[int]], stop_ids: Sequence[int]) -> list[list[int]]:
    """Drop the end of turn from the answers where they differ without it.

    Where no answer is the beginning of another, the probability of an answer is already told by its own tokens;
    where one is ("neutral" and "neutral positive"), its end belongs to it.
    """
    bare = [[token for token in answer if token not in stop_ids] for answer in answers]
    for one in bare:
        for other in bare:
            if one is not other and other[: len(one)] == one:
                return [list(answer) for answer in answers]
    return bare


def prefix_cache(model: torch.nn.Module, prefix_ids: torch.Tensor) -> DynamicCache:
    """Run the shared prefix once and return its keys and values.  # per layer (1, heads, shared, head size)"""
    cache: DynamicCache = model(input_ids=prefix_ids, use_cache=True, logits_to_keep=1).past_key_values
    return cache


def expand_cache(cache: DynamicCache, rows: int) -> DynamicCache:
    """Return the prefix's keys and values for ``rows`` rows, as views; the given cache is left untouched."""
    layers = [(layer.keys, layer.values) for layer in cache.layers]
    return DynamicCache([(k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)) for k, v in layers])


def _ids(model: torch.nn.Module, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.long, device=next(model.parameters()).device)


def _score_batch(
    model: torch.nn.Module,
    prefix: DynamicCache | None,
    shared: int,
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[int]],
    encoder: PromptEncoder,
) -> np.ndarray:
    """Score one batch.  # (rows, answers)"""
    device = next(model.parameters()).device
    rests = [prompt.ids[shared:] for prompt in prompts]
    width = max(len(rest) for rest in rests)
    # Branches: every token of an answer but its last, whose logits nobody asks for.
    branches = [list(answer[:-1]) for answer in answers]
    tree = [token for branch in branches for token in branch]
    ids = torch.cat(
        [
            pad_left(rests, encoder.contract.pad_id),
            torch.tensor([tree] * len(rests), dtype=torch.long).view(len(rests), -1),
        ],
        dim=1,
    ).to(device)
    real = pad_left([[1] * len(rest) for rest in rests], 0).to(device)
    lengths = real.sum(dim=1, keepdim=True)
    depth = torch.tensor([d for branch in branches for d in range(len(branch))], dtype=torch.long, device=device)
    positions = torch.cat([(real.cumsum(dim=1) - 1).clamp(min=0), lengths + depth], dim=1) + shared
    allowed = _tree_attention(real, branches, shared)
    inputs: dict[str, Any] = {"input_ids": ids, "position_ids": positions, "attention_mask": _additive(allowed, model)}
    if prefix is not None:
        inputs |= {"past_key_values": expand_cache(prefix, len(rests)), "use_cache": True}
    keep = torch.arange(width - 1, width + len(tree), device=device)
    logits = model(**inputs, logits_to_keep=keep).logits  # (rows, 1 + tree, vocabulary)
    log_probs = torch.log_softmax(logits.double(), dim=-1)
    totals, branch_start = [], 1
    for answer in answers:
        # The first token is predicted by the row's last position, the others by their branch.
        sources = [0, *range(branch_start, branch_start + len(answer) - 1)]
        totals.append(log_probs[:, sources, list(answer)].sum(dim=1))
        branch_start += len(answer) - 1
    result: np.ndarray = torch.log_softmax(torch.stack(totals, dim=1), dim=1).cpu().numpy()
    if not np.isfinite(result).all():
        # The largest of NaNs is the first label: a broken model would look like a one-sided one.
        raise ModelError("The model's label probabilities are not numbers. Set model.dtype: float32 and run again.")
    return result


def _tree_attention(real: torch.Tensor, branches: Sequence[Sequence[int]], shared: int) -> torch.Tensor:
    """Return who may look at whom.  # (rows, 1, width + tree, shared + width + tree), true = may"""
    rows, width = real.shape
    size = width + sum(len(branch) for branch in branches)
    allowed = torch.zeros(rows, size, size, dtype=torch.bool, device=real.device)
    allowed[:, :width, :width] = torch.ones(width, width, dtype=torch.bool, device=real.device).tril()
    allowed[:, :, :width] &= real[:, None, :].bool()
    allowed[:, width:, :width] = real[:, None, :].bool()
    start = width
    for branch in branches:
        stop = start + len(branch)
        allowed[:, start:stop, start:stop] = torch.ones(len(branch), len(branch), dtype=torch.bool).tril()
        start = stop
    # A padded position looks at itself, so that its softmax has something to sum.
    allowed |= torch.eye(size, dtype=torch.bool, device=real.device)
    prefix = allowed.new_ones(rows, size, shared)
    return torch.cat([prefix, allowed], dim=2)[:, None]


def _additive(allowed: torch.Tensor, model: torch.nn.Module) -> torch.Tensor:
    dtype = getattr(model, "dtype", torch.float32)
    bias = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return bias.masked_fill(~allowed, torch.finfo(dtype).min)
