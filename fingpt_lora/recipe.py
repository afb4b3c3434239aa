"""A recipe: YAML in, a typed and frozen description of one job out.

Our own sections are pydantic models (``sections``). ``adapter``, ``training`` and a spelled-out
``model.quantization`` take the field names of ``peft``, ``trl`` and ``transformers``; they are checked against the
installed versions by :mod:`fingpt_lora.installed`, which reads their source and therefore needs no torch.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError

from fingpt_lora import installed
from fingpt_lora.errors import RecipeError, did_you_mean
from fingpt_lora.sections import DataSection, EvaluationSection, ModelSection, Recipe, SplitSection, TaskSection

# Ours, beside the fields of trl.SFTConfig.
OWN_TRAINING_FIELDS: dict[str, installed.Field] = {
    "batching": installed.Field("batching", (str,), ("shared_prefix", "length", "padded"), "shared_prefix"),
    "early_stopping_patience": installed.Field("early_stopping_patience", (int, type(None)), (), None),
    "early_stopping_threshold": installed.Field("early_stopping_threshold", (int, float), (), 0.0),
}

# What SFTConfig offers but this toolkit decides, and where to say it instead.
_DECIDED: dict[str, str] = {
    "output_dir": "write 'output' at the top level",
    "do_train": "remove it; training always trains",
    "do_eval": "set 'training.eval_strategy' and 'data.validation_share'",
    "do_predict": "remove it; the test split is always evaluated",
    "dataset_text_field": "map columns with 'data.fields'",
    "dataset_kwargs": "remove it; rows reach the trainer as token ids",
    "dataset_num_proc": "remove it; rows reach the trainer as token ids",
    "remove_unused_columns": "remove it; rows reach the trainer as token ids",
    "completion_only_loss": "remove it; only the answer is ever supervised",
    "assistant_only_loss": "remove it; only the answer is ever supervised",
    "packing": "choose 'training.batching'",
    "eval_packing": "choose 'training.batching'",
    "packing_strategy": "choose 'training.batching'",
    "padding_free": "choose 'training.batching'",
    "pad_to_multiple_of": "choose 'training.batching'",
    "train_sampling_strategy": "choose 'training.batching'",
    "length_column_name": "remove it; lengths are known from the token ids",
    "truncation_mode": "remove it; the article is shortened, never the instruction or the answer",
    "trust_remote_code": "remove it; code from model repositories is never run",
    "model_init_kwargs": "use the 'model' section",
    "chat_template_path": "use 'model.prompt'",
    "eos_token": "remove it; the model's own template ends the answer",
    "pad_token": "remove it; padding is masked, never supervised",
    "loss_type": "remove it; the loss is the negative log-likelihood of the answer",
    "label_smoothing_factor": "remove it; it would blur the calibration that the report measures",
    "use_liger_kernel": "remove it; only the supervised positions reach the vocabulary already",
    "liger_kernel_config": "remove it; only the supervised positions reach the vocabulary already",
    "resume_from_checkpoint": "run the same command again; it continues by itself",
    "auto_find_batch_size": "set 'training.per_device_train_batch_size'",
    "push_to_hub": "upload the run folder when you have read its report",
    "hub_token": "never write a token into a recipe; use 'hf auth login'",
}

# Names that older guides and other toolkits use, too far from today's for spelling to find them.
_RENAMED: dict[str, str] = {
    "lr": "learning_rate",
    "epochs": "num_train_epochs",
    "batch_size": "per_device_train_batch_size",
    "max_seq_length": "max_length",
    "evaluation_strategy": "eval_strategy",
    "warmup_ratio": "warmup_steps (a number below 1 is a share of all steps)",
    "group_by_length": "batching: length",
    "no_cuda": "use_cpu",
    "load_in_4bit": "model.quantization: nf4",
    "tokenizer": "model.base",
    "logging_dir": "output",
}

_POSITIVE = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps", "r")
_ABOVE_ZERO = ("learning_rate", "num_train_epochs", "max_length", "early_stopping_patience")
_NOT_NEGATIVE = ("weight_decay", "warmup_steps", "max_grad_norm", "lora_alpha", "save_total_limit")


class _Source:
    """Where each key was written, so that a mistake can be shown at its line."""

    def __init__(self, name: str, tree: Mapping[str, Any], overrides: Mapping[str, str]) -> None:
        self.name, self.tree, self.overrides = name, tree, overrides

    def place(self, path: Sequence[str | int]) -> str:
        """Return ``file:line: key`` for a path of keys, or the ``--set`` that wrote it."""
        dotted = ".".join(str(part) for part in path)
        for key, text in self.overrides.items():
            if dotted == key or dotted.startswith(key + ".") or key.startswith(dotted + "."):
                return f"--set {text}: {dotted}"
        node: Any = self.tree
        line = None
        for part in path:
            if isinstance(node, CommentedMap) and part in node:
                line = node.lc.key(part)[0] + 1
            try:
                node = node[part]
            except (KeyError, IndexError, TypeError):
                break
        return f"{self.name}:{line}: {dotted}" if line else f"{self.name}: {dotted}"

    def error(self, path: Sequence[str | int], problem: str) -> RecipeError:
        """Return the error to raise for what stands at ``path``."""
        return RecipeError(f"{self.place(path)}: {problem}")


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
    return parse_recipe(text, overrides, name=str(path))


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
    source = _Source(name, tree, written)
    plain = _plain(tree)
    for section, field in Recipe.model_fields.items():
        if section in plain and plain[section] is None and field.annotation is not str:
            plain[section] = {}  # "training:" with nothing under it
    try:
        recipe = Recipe.model_validate(plain)
    except ValidationError as error:
        raise _translate(error, source) from None
    _check_passed_through(recipe, source)
    _check_together(recipe, source)
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """Return the recipe as YAML that :func:`parse_recipe` reads back to an equal recipe."""
    stream = io.StringIO()
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.allow_unicode = True
    writer.dump(recipe.as_dict(), stream)
    return stream.getvalue()


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a recipe, with the installed versions' fields, for editors that complete YAML."""
    schema = Recipe.model_json_schema()
    training = {**installed.sft_fields(), **OWN_TRAINING_FIELDS}
    for section, fields in (("adapter", installed.peft_fields("LORA")), ("training", training)):
        known = {key: _field_schema(field) for key, field in fields.items() if key not in _DECIDED}
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
    except (ValueError, RecursionError, AttributeError, TypeError) as error:
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


def _translate(error: ValidationError, source: _Source) -> RecipeError:
    """Turn pydantic's first error into one sentence with file, line, key and the nearest valid key."""
    first = error.errors(include_url=False)[0]
    path = [part for part in first["loc"] if not _is_union_branch(part)]
    if first["type"] == "extra_forbidden":
        model = _model_at(path[:-1])
        section = f"section '{'.'.join(map(str, path[:-1]))}'" if path[:-1] else "a recipe"
        return source.error(path, f"unknown key in {section}.{did_you_mean(str(path[-1]), model.model_fields)}")
    message = first["msg"].removeprefix("Value error, ")
    given = first.get("input")
    shown = f" (it is {given!r})" if isinstance(given, (str, int, float, bool)) and first["type"] != "missing" else ""
    if first["type"] == "literal_error":
        expected = str(first["ctx"]["expected"])
        hint = (
            did_you_mean(given, [word.strip("'") for word in expected.replace(" or ", ", ").split(", ")])
            if isinstance(given, str)
            else ""
        )
        return source.error(path, f"must be {expected}{shown}.{hint if hint.startswith(' Did') else ''}")
    return source.error(path, message[0].lower() + message[1:] + shown + ".")


def _is_union_branch(part: str | int) -> bool:
    return isinstance(part, str) and (part in ("str", "int", "float", "bool") or "[" in part)


def _model_at(path: Sequence[str | int]) -> type[BaseModel]:
    model: type[BaseModel] = Recipe
    nested: dict[str, type[BaseModel]] = {
        "task": TaskSection,
        "model": ModelSection,
        "data": DataSection,
        "evaluation": EvaluationSection,
    }
    for part in path:
        model = SplitSection if part == "split" else nested.get(str(part), model)
    return model


def _check_passed_through(recipe: Recipe, source: _Source) -> None:
    """Check the sections that carry the fields of peft, trl and transformers against the installed versions."""
    if recipe.peft_type != "LORA" and recipe.peft_type not in installed.peft_methods():
        hint = did_you_mean(recipe.peft_type, installed.peft_methods())
        raise source.error(["adapter", "peft_type"], f"the installed peft has no method '{recipe.peft_type}'.{hint}")
    training = {**installed.sft_fields(), **OWN_TRAINING_FIELDS}
    sections = [
        ("adapter", recipe.adapter, installed.peft_fields(recipe.peft_type)),
        ("training", recipe.training, training),
    ]
    for section, values, fields in sections:
        _check_fields([section], values, fields, source)
    if isinstance(recipe.model.quantization, dict):
        _check_fields(["model", "quantization"], recipe.model.quantization, installed.bits_and_bytes_fields(), source)


def _check_fields(
    path: list[str], values: Mapping[str, Any], fields: Mapping[str, installed.Field], source: _Source
) -> None:
    for key, value in values.items():
        if path == ["training"] and key in _DECIDED:
            raise source.error([*path, key], f"this is decided for you: {_DECIDED[key]}.")
        if path == ["training"] and key in _RENAMED:
            raise source.error([*path, key], f"unknown key in section 'training'; write {_RENAMED[key]}.")
        if key not in fields:
            raise source.error([*path, key], f"unknown key in section '{'.'.join(path)}'.{did_you_mean(key, fields)}")
        problem = fields[key].problem(value) or _range_problem(key, value)
        if problem:
            raise source.error([*path, key], f"{problem}.")


def _range_problem(key: str, value: object) -> str | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if key in _POSITIVE and value < 1:
        return f"must be at least 1, not {value}"
    if key in _ABOVE_ZERO and not 0 < value < float("inf"):
        return f"must be greater than 0, not {value}"
    if key in _NOT_NEGATIVE and not 0 <= value < float("inf"):
        return f"must be 0 or more, not {value}"
    if key == "lora_dropout" and not 0 <= value < 1:
        return f"must be at least 0 and below 1, not {value}"
    return None


def _check_together(recipe: Recipe, source: _Source) -> None:
    """Check what only shows when two keys are read together."""
    data, training, adapter = recipe.data, recipe.training, recipe.adapter
    wants_validation = training.get("early_stopping_patience") or training.get("load_best_model_at_end")
    evaluates = training.get("eval_strategy", "no") != "no"
    if wants_validation and not evaluates:
        key = "early_stopping_patience" if training.get("early_stopping_patience") else "load_best_model_at_end"
        raise source.error(
            ["training", key], "needs 'training.eval_strategy: epoch' (or steps) to have something to go by."
        )
    if evaluates and not (data.validation or data.validation_share) and data.path == "sample":
        raise source.error(
            ["training", "eval_strategy"],
            "needs validation rows: set 'data.validation_share: 0.1' or 'data.validation'.",
        )
    if training.get("bf16") and training.get("fp16"):
        raise source.error(["training", "fp16"], "bf16 and fp16 exclude each other; keep one.")
    initial = str(adapter.get("init_lora_weights", ""))
    if recipe.model.quantization != "none" and (initial.startswith("pissa") or initial in ("loftq", "corda")):
        raise source.error(
            ["adapter", "init_lora_weights"],
            f"'{initial}' starts from the full-precision weights; set 'model.quantization: none'"
            + (" (LoftQ then quantizes by 'adapter.loftq_config')." if initial == "loftq" else "."),
        )
