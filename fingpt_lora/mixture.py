"""Several tasks in one adapter: each keeps its own recipe, splits, words and report; only training rows are mixed."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from fingpt_lora.data import Row, Splits
from fingpt_lora.data.audit import normalise
from fingpt_lora.data.rows import labels_of
from fingpt_lora.errors import RecipeError
from fingpt_lora.recipe import load_recipe
from fingpt_lora.runs import TASKS
from fingpt_lora.sections import MixturePart, MixtureSection, Recipe

Item = TypeVar("Item")


def part_recipes(recipe: Recipe, mixture: MixtureSection) -> dict[str, Recipe]:
    """Return name -> recipe of each task: task, data and evaluation are its own, the rest the mixture's.

    Raises:
        RecipeError: a part's recipe cannot be used, or is a mixture itself.
    """
    shared = {key: getattr(recipe, key) for key in ("model", "adapter", "training")}
    found = {}
    for name, part in mixture.tasks.items():
        idle = next(
            (text for text in part.set if text.split(".")[0].strip() not in ("task", "data", "evaluation")), None
        )
        if idle is not None:
            raise RecipeError(
                f"mixture.tasks.{name}.set: '{idle}' has no effect; a part brings task, data and evaluation, and the "
                "rest is the mixture's."
            )
        own = load_recipe(part.recipe, part.set)
        if own.mixture is not None:
            raise RecipeError(f"mixture.tasks.{name}: '{part.recipe}' is a mixture itself; name a recipe of one task.")
        found[name] = own.model_copy(update={**shared, "output": f"{recipe.output}/{TASKS}/{name}"})
    return found


def kept_apart(splits: Mapping[str, Splits]) -> dict[str, Splits]:
    """Return the splits without training rows whose text another task holds out."""
    result = {}
    for name, own in splits.items():
        others = [row for other, s in splits.items() if other != name for row in (*s.test, *s.validation)]
        held_out = {key for row in others for key in _articles(row)}
        train = [row for row in own.train if held_out.isdisjoint(_articles(row))]
        counts = Counter(label for row in train for label in labels_of(row))
        audit = replace(
            own.audit,
            rows={**own.audit.rows, "train": {label: counts[label] for label in own.audit.rows.get("train", {})}},
            totals={**own.audit.totals, "train": len(train)},
            duplicates={**own.audit.duplicates, "other_tasks": len(own.train) - len(train)},
        )
        if not train:
            raise RecipeError(f"mixture.tasks.{name}: other tasks hold out every one of its training texts.")
        result[name] = replace(own, train=tuple(train), audit=audit)
    return result


def _articles(row: Row) -> set[str]:
    """Return the texts by which rows of two tasks are known for the same, however each task frames its article.

    Relations put their parties on a line before it, questions ask on a line behind it.
    """
    lines = row.text.splitlines()
    return {normalise("\n".join(part)) for part in (lines, lines[1:], lines[:-1]) if part}


def copies(sizes: Mapping[str, int], mixture: MixtureSection) -> dict[str, int]:
    """Return how many training rows each task gets: none of its own is left out, the scarce ones are repeated.

    The shares follow the weights where there are any, else size ** (1 / temperature): 1 leaves the sizes as they are,
    and the higher, the more equal (Devlin et al. 2018, as multilingual BERT draws its languages).
    """
    trained = {name: size for name, size in sizes.items() if mixture.tasks[name].train}
    shares = {
        name: mixture.tasks[name].weight or float(size) ** (1 / mixture.temperature) for name, size in trained.items()
    }
    scale = max(trained[name] / shares[name] for name in trained)
    return {name: round(scale * shares[name]) if name in trained else 0 for name in sizes}


def repeated(items: Sequence[Item], count: int, seed: int) -> list[Item]:
    """Return the items over and over, the last round drawn without repeats."""
    whole, rest = divmod(count, len(items))
    return [*items] * whole + random.Random(seed).sample(list(items), rest)


def identity(mixture: MixtureSection, parts: Mapping[str, str]) -> str:
    """Hash what a mixture computes: the identities of its parts and how they are mixed."""
    how = {name: {**part.model_dump(), "recipe": "", "set": []} for name, part in mixture.tasks.items()}
    # Lists: the order of the tasks is that of the training rows.
    content = [mixture.temperature, [[name, how[name], parts[name]] for name in mixture.tasks]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check(recipe: Recipe, mixture: MixtureSection) -> None:
    """Check what only shows of all tasks together.

    Raises:
        RecipeError: no task is trained, some have weights and others none, or a head of one task's classes is wanted.
    """
    if recipe.model.head == "classification":
        raise RecipeError("model.head: the tasks of a mixture have classes of their own; leave the head out.")
    trained: list[MixturePart] = [part for part in mixture.tasks.values() if part.train]
    if not trained:
        raise RecipeError("mixture.tasks: none of them is trained; leave out train: false in one.")
    if len({part.weight is None for part in trained}) > 1:
        raise RecipeError("mixture.tasks: either every trained task has a weight, or none.")
