"""One family of errors: each is a sentence that says what is wrong, where, and what to do.

The command line prints the sentence and leaves with ``exit_code``; a traceback is for our mistakes only.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class FingptLoraError(Exception):
    """Base of every error that a user can mend. ``exit_code`` is the status of the command line."""

    exit_code = 2


class RecipeError(FingptLoraError):
    """A recipe that cannot be read, or a key or value in it that cannot be used."""


class DataError(FingptLoraError):
    """Rows that cannot be read, mapped, labelled or split as the recipe asks."""


class ModelError(FingptLoraError):
    """A base model, tokenizer or adapter that is missing, unreadable or of the wrong kind."""


class PromptError(FingptLoraError):
    """A row that cannot become a prompt, or a prompt contract that does not match."""


class RunError(FingptLoraError):
    """A run folder that is missing, incomplete or belongs to another recipe."""


class MergeError(FingptLoraError):
    """A merged model that does not answer as the trained one does; nothing of it is kept."""

    exit_code = 3


class ExportError(FingptLoraError):
    """An export that cannot be made, or does not answer as the run does; nothing of it is kept."""

    exit_code = 3


class DivergenceError(FingptLoraError):
    """Training whose loss became NaN, infinite or ran away; the last good checkpoint is kept."""

    exit_code = 4


def did_you_mean(word: str, valid: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest valid word, or the valid words when few and none is near."""
    options = list(dict.fromkeys(valid))
    near = get_close_matches(word, options, n=1, cutoff=0.6)
    if near:
        return f" Did you mean '{near[0]}'?"
    if len(options) <= 12:
        return f" Valid here: {', '.join(options)}."
    return ""
