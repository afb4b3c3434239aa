"""Attention for a batch laid out as one sequence: a prefix that all rows share, then every row's own tokens.

Everything but attention treats tokens one by one, so one sequence without padding is all that the layers need to
see; only attention must know who belongs to whom. Each row attends to the prefix and to itself, the prefix to
itself. Registered with transformers' ``AttentionInterface`` under the name ``shared_prefix``.

Sharing a prompt within a preference pair or a rollout group is known (arXiv 2410.20305, 2605.15422); here it spans
the rows of a supervised batch.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn.functional import dropout as drop
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "shared_prefix"
_LONG = 384  # tokens of a row from which the fused kernel is quicker than plain products in training on a CPU


class Layout(NamedTuple):
    """Where the rows of a sequence stand.

    ``grid`` (rows, width) holds for each row the positions of its tokens in the sequence, shorter rows filled at the
    right; ``places`` (tokens after the prefix,) holds for each of these tokens its place in the flattened grid;
    ``allowed`` (rows, width, width), where a row branches, says which of its tokens look at which, and None that each
    looks at those before it. What the grid does not hold is the prefix: in the sequence, or in a key/value cache.
    """

    grid: torch.Tensor
    places: torch.Tensor
    allowed: torch.Tensor | None = None

    def to(self, device: torch.device) -> Layout:
        """Return the layout on a device."""
        allowed = None if self.allowed is None else self.allowed.to(device)
        return Layout(self.grid.to(device), self.places.to(device), allowed)


def layout(lengths: Sequence[int], branches: Sequence[Sequence[int]] | None = None, *, start: int = 0) -> Layout:
    """Lay rows out one after the other.

    Args:
        lengths: tokens of each row.
        branches: per row the tokens of each of its branches, which stand at the row's end; a branch sees what stands
            before the first one, and itself. None where no row has any.
        start: tokens of the sequence before the first row.
    """
    width, starts = max(lengths), list(itertools.accumulate(lengths[:-1], initial=start))
    grid = [[*range(first, first + n), *[0] * (width - n)] for first, n in zip(starts, lengths, strict=True)]
    places = [row * width + column for row, n in enumerate(lengths) for column in range(n)]
    allowed = None
    if branches is not None:
        allowed = torch.ones(len(lengths), width, width, dtype=torch.bool).tril()
        for row, (length, own) in enumerate(zip(lengths, branches, strict=True)):
            trunk = branch = length - sum(own)
            for tokens in own:
                allowed[row, branch : branch + tokens, trunk:branch] = False
                branch += tokens
    return Layout(torch.tensor(grid), torch.tensor(places), allowed)


def shared_prefix_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    layout: Layout,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within prefix and rows.

    Args:
        module: the attention layer, unused.
        query: (1, heads, tokens, head size).
        key: (1, key-value heads, cached and other tokens, head size), likewise ``value``.
        attention_mask: unused; the layout says it all.
        layout: see :class:`Layout`.
        scaling: factor of the scores; None is one over the root of the head size.
        dropout: dropout of the attention weights.

    Returns:
        (1, tokens, heads, head size) and None for the weights, as transformers expects.
    """
    grid, places, allowed = layout
    rows, width = grid.shape
    heads, tokens, size = query.shape[1:]
    ahead = tokens - places.shape[0]  # of the prefix, in this sequence
    shared = key.shape[2] - places.shape[0]
    cells = grid.flatten()

    def by_row(states: torch.Tensor) -> torch.Tensor:  # (1, heads, tokens, size) -> (rows, heads, width, size)
        return states[0].index_select(1, cells).view(-1, rows, width, size).transpose(0, 1)

    def with_prefix(states: torch.Tensor) -> torch.Tensor:  # (rows, heads, shared + width, size)
        return torch.cat([states[:, :, :shared].expand(rows, -1, -1, -1), by_row(states[:, :, -tokens:])], dim=2)

    own = _attend(by_row(query), with_prefix(key), with_prefix(value), scaling, dropout, allowed)
    own = own.transpose(0, 1).reshape(heads, rows * width, size).index_select(1, places)
    if ahead:
        prefix = _attend(query[:, :, :ahead], key[:, :, :shared], value[:, :, :shared], scaling, dropout)
        own = torch.cat([prefix[0], own], dim=1)
    return own.transpose(0, 1)[None], None


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    dropout: float,
    among: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention of the last positions to all, causal where ``among`` themselves does not say otherwise.

    Rows filled at the right need no mask of their own: no real token looks to its right.

    # (rows, heads, queries, size)
    """
    queries, keys = query.shape[2], key.shape[2]
    groups = query.shape[1] // key.shape[1]
    allowed = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)
    if among is not None:
        allowed = torch.cat([allowed[:, : keys - queries].expand(len(among), -1, -1), among], dim=2)[:, None]
    if query.is_cpu and queries >= _LONG and among is None and keys <= 2 * queries:
        # Causal without a mask is quicker still, and asks for as many queries as keys: nobody reads the first ones.
        padded = torch.cat([query.new_zeros(*query.shape[:2], keys - queries, query.shape[3]), query], dim=2)
        answers = scaled_dot_product_attention(
            padded, key, value, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=groups > 1
        )
        return answers[:, :, keys - queries :]
    if not query.is_cpu or not torch.is_grad_enabled() or queries >= _LONG:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        return scaled_dot_product_attention(query, key, value, attn_mask=allowed, dropout_p=dropout, scale=scaling)
    # On a CPU the fused kernel's backward pass with a mask is slower than the plain products of short rows.
    bias = torch.zeros_like(allowed, dtype=query.dtype).masked_fill(~allowed, torch.finfo(query.dtype).min)
    # Query heads of one key head, one after the other: (rows, key heads, groups * queries, size).
    folded = query.reshape(len(query), key.shape[1], groups * queries, query.shape[3])
    scores = folded @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    bias = torch.cat([bias] * groups, dim=-2)
    weights = torch.softmax(scores + bias, dim=-1, dtype=torch.float32).to(query.dtype)
    if dropout:
        weights = drop(weights, dropout)
    return (weights @ value).view(query.shape)


AttentionInterface.register(NAME, shared_prefix_attention)


@contextlib.contextmanager
def using(model: Any, implementation: str) -> Iterator[None]:
    """Let a transformers model attend by another implementation for as long as the context lasts."""
    before = model.config._attn_implementation
    model.set_attn_implementation(implementation)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
