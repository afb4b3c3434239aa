"""Collation: rows of one task share a long token prefix, so it is computed once per batch.

Three layouts of the same mathematics, chosen by ``training.batching``:

- ``shared_prefix``: the longest common prefix of the batch runs once; its keys and values are given to every
  row as ``past_key_values`` and gradients flow through them; rows are grouped by language and length;
- ``length``: whole rows, grouped by length;
- ``padded``: whole rows in random order.

Rows are padded on the left, so that the answers of a batch stand in the same last columns and only those reach
the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from fingpt_lora.prompts import IGNORED

_WINDOW = 50  # batches among which rows are sorted by length; enough to leave little padding, few enough to stay random


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """Return how many leading ids all rows share, leaving at least one id of each row outside."""
    first, last = min(map(list, rows)), max(map(list, rows))  # lexicographic extremes share what all share
    limit = min(len(row) for row in rows) - 1
    for position in range(limit):
        if first[position] != last[position]:
            return position
    return max(limit, 0)


def pad_left(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """Return the rows as one tensor, shorter ones filled on the left.  # (rows, longest)"""
    longest = max(len(row) for row in rows)
    return torch.tensor([[value] * (longest - len(row)) + list(row) for row in rows])


@dataclass(frozen=True)
class Collator:
    """Turns examples (``input_ids``, ``labels``) into the tensors of one step."""

    pad_id: int
    share_prefix: bool

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Return ``prefix_ids`` (1, shared), ``input_ids``, ``attention_mask`` and ``labels`` (rows, longest rest)."""
        # The token before the first supervised one must stay in the row: its logits carry the loss.
        prompts = [row["input_ids"][: _answer_start(row["labels"])] for row in examples]
        shared = common_prefix(prompts) if self.share_prefix else 0
        rows = [row["input_ids"][shared:] for row in examples]
        return {
            "prefix_ids": torch.tensor([examples[0]["input_ids"][:shared]], dtype=torch.long),
            "input_ids": pad_left(rows, self.pad_id),
            "attention_mask": pad_left([[1] * len(row) for row in rows], 0),
            "labels": pad_left([row["labels"][shared:] for row in examples], IGNORED),
        }


def _answer_start(labels: Sequence[int]) -> int:
    return next(position for position, label in enumerate(labels) if label != IGNORED)


def prefix_cache(model: torch.nn.Module, prefix_ids: torch.Tensor) -> DynamicCache:
    """Run the shared prefix once and return its keys and values.  # per layer (1, heads, shared, head size)"""
    cache: DynamicCache = model(input_ids=prefix_ids, use_cache=True, logits_to_keep=1).past_key_values
    return cache


def expand_cache(cache: DynamicCache, rows: int) -> DynamicCache:
    """Return the prefix's keys and values for ``rows`` rows, as views; the given cache is left untouched."""
    layers = [(layer.keys, layer.values) for layer in cache.layers]
    return DynamicCache([(k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)) for k, v in layers])


def supervised_logits(model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Run a collated batch and return the logits of the supervised positions and their target ids.

    Returns:
        logits of shape (supervised tokens, vocabulary) and targets of shape (supervised tokens,).
    """
    prefix, ids, labels = batch["prefix_ids"], batch["input_ids"], batch["labels"]
    mask = batch["attention_mask"]
    shared = prefix.shape[1]
    columns = (labels != IGNORED).any(dim=0).nonzero().squeeze(1)
    inputs: dict[str, Any] = {
        "input_ids": ids,
        "attention_mask": torch.cat([mask.new_ones(len(ids), shared), mask], dim=1),
        "position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0) + shared,
        "use_cache": False,
        "logits_to_keep": columns - 1,  # position t predicts t + 1
    }
    if shared:
        inputs["past_key_values"] = expand_cache(prefix_cache(model, prefix), len(ids))
        inputs["use_cache"] = True
    logits = model(**inputs).logits  # (rows, columns, vocabulary)
    targets = labels[:, columns]
    kept = targets != IGNORED
    return logits[kept], targets[kept]


class GroupedSampler(torch.utils.data.Sampler[int]):
    """Orders rows so that a batch holds rows of one group and near length, in an order drawn anew each epoch.

    The order depends on seed and epoch alone, so a continued run sees the rows that it would have seen, and
    every process of a distributed run draws the same order.
    """

    def __init__(self, lengths: Sequence[int], groups: Sequence[int], batch_size: int, seed: int) -> None:
        """Args: row lengths in tokens, row groups (language or task), rows per batch over all processes, seed."""
        self.lengths, self.groups, self.batch_size, self.seed = lengths, groups, batch_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch; the Trainer calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        """Yield row numbers."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        window = self.batch_size * _WINDOW
        batches: list[list[int]] = []
        for start in range(0, len(order), window):
            rows = sorted(order[start : start + window], key=lambda row: (self.groups[row], self.lengths[row]))
            batches += [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]
        # A short last batch must stay last: the data loader cuts the stream every batch_size rows.
        full = [batch for batch in batches if len(batch) == self.batch_size]
        rest = [row for batch in batches if len(batch) < self.batch_size for row in batch]
        for index in torch.randperm(len(full), generator=generator).tolist():
            yield from full[index]
        yield from rest
