"""What is wrong with a value of a recipe, in one sentence: where it stands, what it must be, and what it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from pydantic import BaseModel, ValidationError

from fingpt_lora.errors import RecipeError, did_you_mean
from fingpt_lora.sections import (
    DataSection,
    EvaluationSection,
    MarketSection,
    MixturePart,
    MixtureSection,
    ModelSection,
    Recipe,
    SplitSection,
    TaskSection,
)
from fingpt_lora.validation import Written

_SECTIONS: dict[str, type[BaseModel]] = {
    "task": TaskSection,
    "model": ModelSection,
    "data": DataSection,
    "split": SplitSection,
    "market": MarketSection,
    "evaluation": EvaluationSection,
    "mixture": MixtureSection,
    "tasks": MixturePart,
}
# pydantic's types of error -> what the value must be.
_KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "dict_type": "a mapping",
}
_LIMITS = {
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be below {lt:g}",
    "string_too_short": "must not be empty",
    "too_short": "must name at least {min_length}, not {actual_length}",
    "string_pattern_mismatch": "must be a day, such as 2024-05-31",  # the one text with a pattern
}
_LONGEST = 60  # characters of a value that are repeated


def translated(error: ValidationError, source: Written) -> RecipeError:
    """Return pydantic's first error as one sentence with file, line and key, and the nearest valid key or value."""
    details: list[Any] = error.errors(include_url=False)
    path = _path(details[0])
    # Where a value may be of several kinds, each complains; one that was of the right kind knows more.
    same = [one for one in details if _path(one) == path]
    first = next((one for one in same if one["type"] not in _KINDS), same[0])
    given, kind = first.get("input"), first["type"]
    if kind == "extra_forbidden":
        section = f"section '{'.'.join(map(str, path[:-1]))}'" if path[:-1] else "a recipe"
        hint = did_you_mean(str(path[-1]), _model_at(path[:-1]).model_fields)
        return source.error(path, f"unknown key in {section}.{hint}")
    if kind == "missing":
        meaning = str(_model_at(path[:-1]).model_fields[str(path[-1])].description).rstrip(".")
        return source.error(path, f"is missing ({meaning}).")
    if kind == "literal_error":
        words = str(first["ctx"]["expected"])
        choices = [word.strip("'") for word in words.replace(" or ", ", ").split(", ") if word.startswith("'")]
        hint = did_you_mean(given, choices) if isinstance(given, str) else ""
        return source.error(path, f"must be {words}{_shown(given)}.{hint if hint.startswith(' Did') else ''}")
    if kind == "model_type":
        return source.error(path, _not_a_section(_model_at(path), given))
    if kind in _KINDS:
        wanted = " or ".join(_KINDS[one["type"]] for one in same)
        in_quotes = " Put it in quotes." if wanted == "text" and isinstance(given, int | float | date) else ""
        return source.error(path, f"must be {wanted}{_shown(given)}.{in_quotes}")
    if kind in _LIMITS:
        limit = _LIMITS[kind].format(**first["ctx"])
        return source.error(path, f"{limit}{'' if 'not' in limit else _shown(given)}.")
    message = first["msg"].removeprefix("Value error, ")
    shown = _shown(given) if isinstance(given, str | int | float) else ""  # what is wrong inside, the message says
    return source.error(path, f"{message[0].lower()}{message[1:]}{shown}.")


def _not_a_section(model: type[BaseModel], given: object) -> str:
    keys = list(model.model_fields)
    wanted = f"must be a mapping with {', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''}{_shown(given)}."
    try:
        model.model_validate({keys[0]: given})
    except ValidationError:
        return wanted
    return f"{wanted} Write {{{keys[0]}: {given}}}."  # the first key of a section is the one that is meant


def _shown(given: object) -> str:
    if isinstance(given, bool):
        return f" (it is {str(given).lower()})"
    if isinstance(given, str | int | float):
        words = repr(given)
        return f" (it is {words if len(words) <= _LONGEST else words[:_LONGEST] + '...'})"
    if isinstance(given, date):
        return f" (it is the date {given})"
    if given is None:
        return " (nothing is written there)"
    return f" (it is a {'mapping' if isinstance(given, Mapping) else 'list'})"


def _path(detail: Mapping[str, Any]) -> list[str | int]:
    return [part for part in detail["loc"] if not _is_union_branch(part)]


def _is_union_branch(part: str | int) -> bool:
    return isinstance(part, str) and (part in ("str", "int", "float", "bool") or "[" in part)


def _model_at(path: Sequence[str | int]) -> type[BaseModel]:
    model: type[BaseModel] = Recipe
    for part in path:
        model = _SECTIONS.get(str(part), model)
    return model
