"""What a user should know before the figures: the base model may have read the outcome, or cannot read the rows."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

from fingpt_lora import checkpoints
from fingpt_lora.data import Audit, Splits
from fingpt_lora.prompts import Example
from fingpt_lora.sections import Recipe

_UNKNOWN = 0.02  # share of unknown tokens that is more than a rare sign


def of_memory(splits: Splits, recipe: Recipe) -> Audit:
    """Say where the base model may have read what became of the test period."""
    cutoff = checkpoints.knowledge_cutoff(recipe.model.base, recipe.model.knowledge_cutoff)
    days = [str(row.fields["decided_at"])[:10] for row in splits.test if "decided_at" in row.fields]
    if not days:
        return splits.audit
    if cutoff is None:
        warning = "until when the base model's texts reach is not known (model.knowledge_cutoff)"
    elif min(days) <= cutoff.isoformat():
        warning = f"the base model's texts reach until {cutoff}, the test begins on {min(days)}"
    else:
        return splits.audit
    warning += ": it may have read the outcome of test rows, so the figures are no proof of foresight"
    return splits.audit.warned(warning)


def of_unknown(audit: Audit, train: Sequence[Example], tokenizer: Tokenizer) -> Audit:
    """Say where the base model cannot read the rows: its vocabulary lacks their characters."""
    unknown = tokenizer.token_to_id(getattr(tokenizer.model, "unk_token", None) or "<unk>")
    if unknown is None:  # bytes read everything
        return audit
    found = [row.ids.count(unknown) / len(row.ids) for row in train]
    share = sum(found) / max(1, len(found))
    if share < _UNKNOWN:
        return audit
    warning = (
        f"{share:.0%} of the tokens of the training rows are unknown to the base model; name one that was trained on "
        "their language"
    )
    return audit.warned(warning)
