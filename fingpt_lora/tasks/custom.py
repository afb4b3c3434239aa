"""A task of one's own: a class in a Python file beside the recipe, named by it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fingpt_lora.errors import RecipeError
from fingpt_lora.tasks.base import Labelled, Written

_PARTS: tuple[str, ...] = ("name", "fields", "columns", "labels", "several", "aliases")
_PARTS += ("languages", "language", "instruction")
_WRITTEN = ("gold", "read", "grammar", "by_heart")


def custom_task(place: str, options: Mapping[str, Any]) -> Labelled | Written:
    """Return the task that ``module:Class`` makes of the options.

    The module is found as Python finds any, the current folder too. Whoever runs a recipe runs the code that it names.

    Raises:
        RecipeError: there is no such class, it refuses the options, or what it makes is no task.
    """
    module, colon, name = place.partition(":")
    if not colon or not name:
        raise RecipeError(f"task.python: write it as module:Class, e.g. my_tasks:Urgency, not '{place}'.")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # a console script does not look there by itself
    try:
        made: Any = getattr(importlib.import_module(module), name)(**options)
    except Exception as error:  # whatever the code of somebody else does
        raise RecipeError(f"task.python: '{place}' cannot be used: {type(error).__name__}: {error}.") from None
    wanted = _PARTS
    if any(hasattr(made, part) for part in _WRITTEN):
        wanted += _WRITTEN
    else:
        wanted += ("answer",) if getattr(made, "several", False) else ("answer", "parse")
    missing = [part for part in wanted if not hasattr(made, part)]
    if missing:
        raise RecipeError(f"task.python: '{place}' is no task: it lacks {', '.join(missing)}.")
    for part in ("fields", "labels"):
        if not isinstance(getattr(made, part), tuple):
            raise RecipeError(f"task.python: '{place}': its {part} are to be a tuple of texts.")
    task: Labelled | Written = made
    return task
