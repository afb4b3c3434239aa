"""Collation: rows of one task share a long token prefix, so it is computed once per batch.

Three layouts of the same mathematics, chosen by ``training.batching``:

- ``shared_prefix``: the longest common prefix of the batch, then every row's own tokens, as one sequence without
  padding (see :mod:`fingpt_lora.attention`); rows are grouped by language and length;
- ``length``: whole rows, padded, grouped by length;
- ``padded``: whole rows, padded, in random order.

Only the positions that carry a loss reach the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from fingpt_lora import attention
from fingpt_lora.attention import Layout
from fingpt_lora.prompts import IGNORED

# What two layouts of the same rows may differ by, as a share of the logits' spread over the vocabulary, by whether
# they are computed in float32. Rounding alone reaches 1e-5 there and in bfloat16 0.025 in the mean of a row's last
# tokens, at any length (a single one of a thousand tokens 0.06); a quarter of a thousand tokens unseen makes 0.08.
SAME_LOGITS = {True: 1e-4, False: 0.05}
_LAST = 32  # tokens of a row that look back the furthest
Progress = Callable[[int], None]  # told how many rows were done
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


class _Path(NamedTuple):
    """Tokens in a line, and for each of them the id that is to come next, or -100 where nobody asks."""

    ids: list[int]
    targets: list[int]


class _Row(NamedTuple):
    """A row as the layers see it: a trunk, and branches that see the trunk and themselves."""

    trunk: _Path
    branches: list[_Path]


def _row(example: Mapping[str, Any]) -> _Row:
    """Cut an example into trunk and branches. The last token of each path is only asked for, never run."""
    ids, labels = list(example["input_ids"]), list(example["labels"])
    starts = list(example.get("branches") or ())
    if not starts:
        return _Row(_Path(ids[:-1], labels[1:]), [])
    ends = [*starts[1:], len(ids)]
    branches = [_Path(ids[a : b - 1], labels[a + 1 : b]) for a, b in zip(starts, ends, strict=True)]
    return _Row(_Path(ids[: starts[0]], [IGNORED] * starts[0]), branches)


@dataclass(frozen=True)
class Collator:
    """Turns examples (``input_ids``, ``labels``, and ``branches`` where there are any) into the tensors of one step."""

    pad_id: int
    share_prefix: bool

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Return ``input_ids``, ``labels`` (what each position is to predict) and what the layout needs beside them.

        One sequence: ids and labels (1, tokens), ``position_ids`` (1, tokens), and ``grid``, ``places`` and, with
        branches, ``allowed`` of :class:`fingpt_lora.attention.Layout`. Padded: all (rows, longest), with an
        ``attention_mask``; every branch is a row, with the trunk before it.
        """
        rows = [_row(example) for example in examples]
        if self.share_prefix:
            return _one_sequence(rows)
        paths = [
            _Path(row.trunk.ids + branch.ids, row.trunk.targets + branch.targets)
            for row in rows
            for branch in row.branches or [_Path([], [])]
        ]
        # Padded on the left, so that the answers of a batch stand in the same last columns.
        return {
            "input_ids": pad_left([path.ids for path in paths], self.pad_id),
            "attention_mask": pad_left([[1] * len(path.ids) for path in paths], 0),
            "labels": pad_left([path.targets for path in paths], IGNORED),
        }


def _one_sequence(rows: Sequence[_Row]) -> dict[str, torch.Tensor]:
    # A token that is asked about stays in its row: its logits carry the loss.
    shared = common_prefix([row.trunk.ids[: _first_asked(row.trunk) + 1] for row in rows])
    ids, targets, positions = list(rows[0].trunk.ids[:shared]), [IGNORED] * shared, list(range(shared))
    lengths = []
    for row in rows:
        before = len(ids)
        for path, start in ((row.trunk, 0), *((branch, len(row.trunk.ids)) for branch in row.branches)):
            skipped = shared if path is row.trunk else 0
            ids += path.ids[skipped:]
            targets += path.targets[skipped:]
            positions += range(start + skipped, start + len(path.ids))
        lengths.append(len(ids) - before)
    branches = [[len(branch.ids) for branch in row.branches] for row in rows]
    layout = attention.layout(lengths, branches if any(branches) else None, start=shared)
    batch = {"input_ids": torch.tensor([ids]), "position_ids": torch.tensor([positions])}
    batch |= {"labels": torch.tensor([targets]), "grid": layout.grid, "places": layout.places}
    return batch if layout.allowed is None else batch | {"allowed": layout.allowed}


def _first_asked(path: _Path) -> int:
    """Return the first position whose next id is supervised; the last one where none is."""
    asked = (place for place, target in enumerate(path.targets) if target != IGNORED)
    return next(asked, len(path.ids) - 1)


def rows_of(batch: Mapping[str, torch.Tensor]) -> list[list[int]]:
    """Return the token ids of each row of a collated batch; of a shared prefix, only what follows it."""
    ids = batch["input_ids"]
    if "grid" in batch:
        flat = ids[0].tolist()
        rows, width = batch["grid"].shape
        lengths = torch.bincount(batch["places"] // width, minlength=rows).tolist()
        return [[flat[place] for place in row[:n]] for row, n in zip(batch["grid"].tolist(), lengths, strict=True)]
    mask = batch["attention_mask"].bool()
    return [row[kept].tolist() for row, kept in zip(ids, mask, strict=True)]


def supervised_logits(model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Run a collated batch and return the logits of the supervised positions and their target ids.

    A batch with a shared prefix needs a model that attends by ``attention.NAME``.

    Returns:
        logits of shape (supervised tokens, vocabulary) and targets of shape (supervised tokens,).
    """
    labels = batch["labels"]
    columns = (labels != IGNORED).any(dim=0).nonzero().squeeze(1)
    inputs: dict[str, Any] = {"input_ids": batch["input_ids"], "use_cache": False, "logits_to_keep": columns}
    if "grid" in batch:
        layout = Layout(batch["grid"], batch["places"], batch.get("allowed"))
        inputs |= {"position_ids": batch["position_ids"], "layout": layout}
    else:
        mask = batch["attention_mask"]
        inputs |= {"attention_mask": mask, "position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0)}
    logits = model(**inputs).logits  # (rows or 1, columns, vocabulary)
    targets = labels[:, columns]
    kept = targets != IGNORED
    return logits[kept], targets[kept]


def cannot_share(model: Any, examples: Sequence[Mapping[str, Any]], pad_id: int) -> str | None:
    """Try on real rows whether a model computes the same with a shared prefix, and return why not.

    Sliding windows, recurrent layers, attention sinks, soft-capped scores and attention code outside transformers'
    interface all show here, without a list of names. The longest and the shortest row are compared.

    Args:
        model: any causal model, with or without adapter.
        examples: rows with ``input_ids`` and ``labels``.
        pad_id: id to pad with.
    """
    ordered = sorted(examples, key=lambda row: len(row["input_ids"]))
    rows = [ordered[-1], ordered[0]]
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()

    def spread(share_prefix: bool) -> torch.Tensor:
        batch = {key: value.to(device) for key, value in Collator(pad_id, share_prefix)(rows).items()}
        logits = supervised_logits(model, batch)[0].float()
        return logits - logits.mean(dim=-1, keepdim=True)

    try:
        with torch.inference_mode():
            padded = spread(share_prefix=False)
            with attention.using(model, attention.NAME):
                shared = spread(share_prefix=True)
    except Exception as error:  # whatever a model's own code does with arguments that it does not know
        return f"the model refuses it ({type(error).__name__})"
    finally:
        model.train(was_training)
    differences = (shared - padded).norm(dim=-1) / padded.norm(dim=-1)
    of_longest = int((Collator(pad_id, share_prefix=True)(rows[:1])["labels"] != IGNORED).sum())
    means = [part[-_LAST:].mean() for part in (differences[:of_longest], differences[of_longest:])]
    difference = torch.stack(means).max().item()
    if difference <= SAME_LOGITS[model.dtype == torch.float32]:  # false for NaN, too
        return None
    return f"this model computes something else with it (logits differ by {difference:.1%} of their spread)"


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
