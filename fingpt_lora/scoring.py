"""The only place where logits become labels: the log-probability of every possible answer, exactly.

The prefix that all prompts share is computed once per call. A batch is one sequence without padding: each row's own
tokens, then the tokens of all candidate answers as branches of a tree (positions restarted, each attending to its row
and itself). So an answer of several tokens costs no more than its tokens.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from fingpt_lora import attention
from fingpt_lora.batching import SAME_LOGITS, Progress, common_prefix, pad_left
from fingpt_lora.console import note
from fingpt_lora.errors import ModelError
from fingpt_lora.prompts import PromptEncoder
from fingpt_lora.tasks.base import Language

Rows = Sequence[Sequence[int]]

_USUAL = 5.0  # nats by which the logits of a vocabulary lie apart, roughly
# Longest prompt with which a model was found to compute the same in one sequence; -1 where it does not.
_PROVEN: weakref.WeakKeyDictionary[torch.nn.Module, int] = weakref.WeakKeyDictionary()


def score_labels(
    model: torch.nn.Module,
    encoder: PromptEncoder,
    texts: Sequence[str],
    *,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> np.ndarray:
    """Return log-probabilities of the labels.  # (texts, labels), float64

    They are normalised over the labels; of a task with several labels, each one over yes and no.

    The model is left in the mode (training or evaluation) in which it came.

    Raises:
        ModelError: the model's output is no number.
    """
    scores = np.zeros((len(texts), len(encoder.contract.labels)))
    prompts = [prompt.ids for prompt in encoder.prompts(texts)]
    languages = [encoder.task.language(text) for text in texts]
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for language in dict.fromkeys(languages):
                answers = _answers(encoder, language)
                # Near lengths together: attention is as wide as a batch's longest row.
                rows = sorted((i for i, own in enumerate(languages) if own == language), key=lambda i: len(prompts[i]))
                own = [prompts[i] for i in rows]
                one_sequence = len(own) > 1 and _computes_the_same(model, own, answers, encoder.contract.pad_id)
                batches = (
                    _one_sequence(model, own, answers, batch_size)
                    if one_sequence
                    else _padded(model, own, answers, batch_size, encoder.contract.pad_id)
                )
                done = 0
                for found in batches:
                    part = rows[done : done + len(found)]
                    scores[part] = _normalised(found, several=encoder.task.several)
                    done += len(found)
                    if progress:
                        progress(len(found))
    finally:
        model.train(was_training)
    return scores


def _answers(encoder: PromptEncoder, language: Language) -> list[list[int]]:
    asked = list(encoder.answer_ids(language).values())
    if encoder.task.several:
        return [[*question, *verdict] for question in asked for verdict in encoder.verdict_ids(language)]
    return discriminating_ids(asked, encoder.contract.stop_ids)


def _normalised(totals: torch.Tensor, *, several: bool) -> np.ndarray:
    if several:  # yes and no of each label stand side by side
        totals = torch.log_softmax(totals.view(len(totals), -1, 2), dim=2)[:, :, 0]
    else:
        totals = torch.log_softmax(totals, dim=1)
    result: np.ndarray = totals.cpu().numpy()
    if not np.isfinite(result).all():
        # The largest of NaNs is the first label: a broken model would look like a one-sided one.
        raise ModelError("The model's label probabilities are not numbers. Set model.dtype: float32 and run again.")
    return result


def discriminating_ids(answers: Rows, stop_ids: Sequence[int]) -> list[list[int]]:
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


def _computes_the_same(model: torch.nn.Module, prompts: Rows, answers: Rows, pad_id: int) -> bool:
    """Try the longest and the shortest prompt both ways, once per model and again for much longer prompts."""
    proven, longest = _PROVEN.get(model, 0), max(map(len, prompts))
    if proven < 0 or longest <= proven:
        return proven > 0
    rows = [min(prompts, key=len), max(prompts, key=len)]
    answers = answers[:: -(-len(answers) // 4)]  # of many labels a few: every padded row has the whole prompt
    padded = torch.cat(list(_padded(model, rows, answers, 2, pad_id)))
    try:
        difference = (torch.cat(list(_one_sequence(model, rows, answers, 1))) - padded).abs()
        # An answer that is far from likely differs by more, since its logit is far from the others.
        share = (difference / (_USUAL + padded.abs())).max().item()
        reason = f"log-probabilities would differ by {difference.max().item():.2g}"
    except Exception as error:  # whatever a model's own code does with arguments that it does not know
        share, reason = float("nan"), f"the model refuses one sequence: {type(error).__name__}"
    same = share <= SAME_LOGITS[model.dtype == torch.float32]  # false for NaN, too
    # Not only as long as these: otherwise every chunk of a file with one longer row would be tried again.
    _PROVEN[model] = longest * 5 // 4 if same else -1
    if not same and torch.isfinite(padded).all():
        note(f"scoring computes whole padded rows  ({reason})")
    return same


def _padded(model: torch.nn.Module, prompts: Rows, answers: Rows, rows: int, pad_id: int) -> Iterator[torch.Tensor]:
    """Yield, batch by batch, the log-probabilities of the answers by whole sequences.  # (rows, answers), float64"""
    device = next(model.parameters()).device
    branches = _branches(answers)
    for batch in _batches(prompts, max(1, rows // len(branches))):
        sequences = [[*prompt, *branch] for prompt in batch for branch in branches]
        mask = pad_left([[1] * len(sequence) for sequence in sequences], 0).to(device)
        longest = max(map(len, answers))
        logits = model(
            input_ids=pad_left(sequences, pad_id).to(device),
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
            logits_to_keep=longest,
            use_cache=False,
        ).logits
        # A sequence ends before the last token of its answers, so its last positions predict them.
        ends = [(branches.index(list(answer[:-1])) + 1) * longest for answer in answers]
        places = [range(end - len(answer), end) for end, answer in zip(ends, answers, strict=True)]
        own = logits.view(len(batch), len(branches) * longest, -1)
        yield _totals(own, places, answers)


def _one_sequence(model: torch.nn.Module, prompts: Rows, answers: Rows, rows: int) -> Iterator[torch.Tensor]:
    """Yield, batch by batch, the log-probabilities of the answers by the prefix and one sequence.

    # (rows, answers), float64
    """
    device = next(model.parameters()).device
    shared = common_prefix(prompts)
    prefix = None
    if shared:
        ids = torch.tensor([prompts[0][:shared]], device=device)
        prefix = model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
    branches = _branches(answers)
    with attention.using(model, attention.NAME):
        for batch in _batches(prompts, rows):
            yield _score_batch(model, prefix, shared, [row[shared:] for row in batch], branches, answers)


def _branches(answers: Rows) -> list[list[int]]:
    """Return what has to be run of the answers, each once: all tokens but the last, whose logits nobody asks for."""
    return [list(branch) for branch in dict.fromkeys(tuple(answer[:-1]) for answer in answers)]


def _batches(rows: Rows, size: int) -> Iterator[Rows]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _score_batch(
    model: torch.nn.Module, prefix: DynamicCache | None, shared: int, rests: Rows, branches: Rows, answers: Rows
) -> torch.Tensor:
    device = next(model.parameters()).device
    tree = [token for branch in branches for token in branch]
    depth = [place for branch in branches for place in range(len(branch))]
    positions = [shared + place for rest in rests for place in (*range(len(rest)), *(len(rest) + d for d in depth))]
    lengths = [len(rest) + len(tree) for rest in rests]
    # Logits of each row's last own token, then of its branches.
    ends = itertools.accumulate(lengths)
    keep = [place for end in ends for place in range(end - len(tree) - 1, end)]
    layout = attention.layout(lengths, [[len(branch) for branch in branches]] * len(rests) if tree else None)
    inputs: dict[str, Any] = {}
    if prefix is not None:
        # A forward adds its own keys and values to the cache that it is given.
        inputs = {"past_key_values": DynamicCache([(layer.keys, layer.values) for layer in prefix.layers])}
    logits = model(
        input_ids=torch.tensor([[t for rest in rests for t in (*rest, *tree)]], device=device),
        position_ids=torch.tensor([positions], device=device),
        layout=layout.to(device),
        logits_to_keep=torch.tensor(keep, device=device),
        use_cache=prefix is not None,
        **inputs,
    ).logits.view(len(rests), 1 + len(tree), -1)
    starts = dict(zip(map(tuple, branches), itertools.accumulate(map(len, branches), initial=1), strict=False))
    # The first token is predicted by the row's last position, the others by their branch.
    places = [[0, *range(starts[tuple(a[:-1])], starts[tuple(a[:-1])] + len(a) - 1)] for a in answers]
    return _totals(logits, places, answers)


def _totals(logits: torch.Tensor, places: Rows, answers: Rows) -> torch.Tensor:
    """Return the log-probability of each answer, its tokens predicted by the logits of its places.

    Row by row, and without the log-probability of every token of the vocabulary: of many answers these would be
    gigabytes, and take longer than the model.

    # (rows, places, vocabulary) -> (rows, answers), float64
    """
    at, ids = (torch.tensor(list(itertools.chain(*lists)), device=logits.device) for lists in (places, answers))
    found = torch.stack([row[at, ids].double() - row.float().logsumexp(dim=-1).double()[at] for row in logits])
    return torch.stack([part.sum(dim=1) for part in torch.split(found, [len(a) for a in answers], dim=1)], dim=1)
