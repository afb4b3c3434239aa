"""A recipe: YAML in, a typed and frozen description of one job out.

Our own sections are pydantic models (``sections``); what they cannot see is checked in ``validation``. Importing this
needs no torch.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError

from fingpt_lora import installed
from fingpt_lora.errors import RecipeError, did_you_mean
from fingpt_lora.mistakes import translated
from fingpt_lora.sections import Recipe
from fingpt_lora.validation import DECIDED, OWN_TRAINING_FIELDS, Written, check_passed_through, check_together


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a YAML recipe, apply ``section.key=value`` overrides and check every key and value.

    Raises:
        RecipeError: the file cannot be read, or a key or value cannot be used; it names file, line and key.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        beside = [p.name for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, beside) if beside else ""
        raise RecipeError(f"There is no recipe at '{path}'.{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"The recipe '{path}' cannot be read as UTF-8 text: {error}.") from None
    recipe = parse_recipe(text, overrides, name=str(path))
    if recipe.mixture is None:
        return recipe
    beside_it = {
        name: part.model_copy(update={"recipe": str((path.parent / part.recipe).resolve())})
        for name, part in recipe.mixture.tasks.items()
    }
    return recipe.model_copy(update={"mixture": recipe.mixture.model_copy(update={"tasks": beside_it})})


def parse_recipe(text: str, overrides: Sequence[str] = (), *, name: str = "recipe") -> Recipe:
    """Like :func:`load_recipe`, from YAML text; ``name`` stands for the file in error messages."""
    tree = _yaml(text, name)
    if tree is None:
        tree = CommentedMap()
    if not isinstance(tree, CommentedMap):
        raise RecipeError(
            f"{name}: a recipe is a mapping of sections ({', '.join(Recipe.model_fields)}), not a {_kind(tree)}."
        )
    written: dict[str, str] = {}
    for override in overrides:
        written[_apply(tree, override)] = override
    source = Written(name, tree, written)
    plain = _plain(tree)
    for section, field in Recipe.model_fields.items():
        if section in plain and plain[section] is None and field.annotation is not str:
            plain[section] = {}  # "training:" with nothing under it
    try:
        recipe = Recipe.model_validate(plain)
    except ValidationError as error:
        raise translated(error, source) from None
    check_passed_through(recipe, source)
    check_together(recipe, source)
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """Return the recipe as YAML that :func:`parse_recipe` reads back to an equal recipe."""
    stream = io.StringIO()
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.allow_unicode = True
    order: Any = False  # the order of labels is that of the recipe
    writer.sort_base_mapping_type_on_output = order
    writer.dump(recipe.as_dict(), stream)
    return stream.getvalue()


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a recipe, with the installed versions' fields, for editors that complete YAML."""
    schema = Recipe.model_json_schema()
    training = {**installed.sft_fields(), **OWN_TRAINING_FIELDS}
    for section, fields in (("adapter", installed.peft_fields("LORA")), ("training", training)):
        known = {key: _field_schema(field) for key, field in fields.items() if key not in DECIDED}
        schema["properties"][section] = {
            **schema["properties"][section],
            "properties": known,
            # Other PEFT methods have other fields; their names are checked when the recipe is loaded.
            "additionalProperties": section == "adapter",
        }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _field_schema(field: installed.Field) -> dict[str, Any]:
    names = {int: "integer", float: "number", bool: "boolean", str: "string", dict: "object", list: "array"}
    names |= {type(None): "null"}
    kinds = sorted({names[t] for t in field.types if t in names})
    schema: dict[str, Any] = {"type": kinds} if kinds else {}
    if field.choices and kinds == ["string"]:
        schema["enum"] = list(field.choices)
    return schema


def _kind(value: object) -> str:
    return {list: "list", str: "text", int: "number", float: "number", bool: "true/false"}.get(type(value), "value")


def _yaml(text: str, name: str) -> Any:
    try:
        return YAML(typ="rt", pure=True).load(text)  # round trip: safe, and it keeps line numbers
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark else name
        problem = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise RecipeError(f"{where}: this is not valid YAML: {problem}.") from None
    except (ValueError, RecursionError, AttributeError, TypeError, IndexError) as error:
        raise RecipeError(f"{name}: this is not valid YAML: {error}.") from None


def _apply(tree: CommentedMap, override: str) -> str:
    """Write one ``a.b=value`` into the tree and return its dotted key."""
    key, equals, value = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise RecipeError(f"--set {override}: write it as section.key=value, e.g. training.learning_rate=1e-4.")
    node: Any = tree
    for part in parts[:-1]:
        if not isinstance(node.get(part), CommentedMap):
            # A word such as "nf4" or "random" gives way to a mapping of fields.
            node[part] = CommentedMap()
        node = node[part]
    node[parts[-1]] = _yaml(value, f"--set {override}")
    return ".".join(parts)


def _plain(node: Any) -> Any:
    """Round-trip nodes -> plain Python values (ruamel's scalars are subclasses that keep their spelling)."""
    if isinstance(node, Mapping):
        return {_plain(key): _plain(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_plain(item) for item in node]
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node
