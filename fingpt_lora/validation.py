"""What pydantic cannot see of a recipe: fields of other libraries, and keys that only mean something together.

``adapter``, ``training`` and a spelled-out ``model.quantization`` take the field names of ``peft``, ``trl`` and
``transformers``; they are checked against the installed versions by :mod:`fingpt_lora.installed`, which reads their
source and therefore needs no torch. Every error names file, line and key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ruamel.yaml.comments import CommentedMap

from fingpt_lora import installed
from fingpt_lora.errors import RecipeError, did_you_mean
from fingpt_lora.sections import Recipe

# Ours, beside the fields of trl.SFTConfig.
OWN_TRAINING_FIELDS: dict[str, installed.Field] = {
    "batching": installed.Field("batching", (str,), ("shared_prefix", "length", "padded"), "shared_prefix"),
    "early_stopping_patience": installed.Field("early_stopping_patience", (int, type(None)), (), None),
    "early_stopping_threshold": installed.Field("early_stopping_threshold", (int, float), (), 0.0),
}

# What SFTConfig offers but this toolkit decides, and where to say it instead.
DECIDED: dict[str, str] = {
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


class Written:
    """Where each key was written, so that a mistake can be shown at its line."""

    def __init__(self, name: str, tree: Mapping[str, Any], overrides: Mapping[str, str]) -> None:
        """Args: the file's name, its YAML with line numbers, and dotted key -> the ``--set`` that wrote it."""
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


def check_passed_through(recipe: Recipe, source: Written) -> None:
    """Check the sections that carry the fields of peft, trl and transformers against the installed versions."""
    whole = recipe.peft_type == "NONE"
    if whole and len(recipe.adapter) > 1:
        key = next(key for key in recipe.adapter if key != "peft_type")
        raise source.error(["adapter", key], "belongs to an adapter, and peft_type: none trains the whole model.")
    if whole and recipe.model.quantization != "none":
        raise source.error(
            ["adapter", "peft_type"], "quantized weights cannot be trained; set model.quantization: none."
        )
    if not whole and recipe.peft_type != "LORA" and recipe.peft_type not in installed.peft_methods():
        hint = did_you_mean(recipe.peft_type, installed.peft_methods())
        raise source.error(["adapter", "peft_type"], f"the installed peft has no method '{recipe.peft_type}'.{hint}")
    training = {**installed.sft_fields(), **OWN_TRAINING_FIELDS}
    sections = [
        ("adapter", {} if whole else recipe.adapter, {} if whole else installed.peft_fields(recipe.peft_type)),
        ("training", recipe.training, training),
    ]
    for section, values, fields in sections:
        _check_fields([section], values, fields, source)
    if isinstance(recipe.model.quantization, dict):
        _check_fields(["model", "quantization"], recipe.model.quantization, installed.bits_and_bytes_fields(), source)


def _check_fields(
    path: list[str], values: Mapping[str, Any], fields: Mapping[str, installed.Field], source: Written
) -> None:
    for key, value in values.items():
        if path == ["training"] and key in DECIDED:
            raise source.error([*path, key], f"this is decided for you: {DECIDED[key]}.")
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


def check_together(recipe: Recipe, source: Written) -> None:
    """Check what only shows when two keys are read together."""
    data, training, adapter = recipe.data, recipe.training, recipe.adapter
    wants_validation = training.get("early_stopping_patience") or training.get("load_best_model_at_end")
    evaluates = training.get("eval_strategy", "no") != "no"
    if wants_validation and not evaluates:
        key = "early_stopping_patience" if training.get("early_stopping_patience") else "load_best_model_at_end"
        raise source.error(
            ["training", key], "needs 'training.eval_strategy: epoch' (or steps) to have something to go by."
        )
    if evaluates and not recipe.mixture and not (data.validation or data.validation_share) and data.path == "sample":
        raise source.error(
            ["training", "eval_strategy"],
            "needs validation rows: set 'data.validation_share: 0.1' or 'data.validation'.",
        )
    if recipe.model.head == "classification" and training.get("batching") == "shared_prefix":
        raise source.error(
            ["training", "batching"], "a classification head reads the text alone, so no prefix is shared; use length."
        )
    if recipe.model.adapters and (recipe.peft_type != "LORA" or recipe.model.head == "classification"):
        raise source.error(["model", "adapters"], "goes under a LoRA adapter of a language model only.")
    if training.get("bf16") and training.get("fp16"):
        raise source.error(["training", "fp16"], "bf16 and fp16 exclude each other; keep one.")
    initial = str(adapter.get("init_lora_weights", ""))
    if recipe.model.quantization != "none" and (initial.startswith("pissa") or initial in ("loftq", "corda")):
        raise source.error(
            ["adapter", "init_lora_weights"],
            f"'{initial}' starts from the full-precision weights; set 'model.quantization: none'"
            + (" (LoftQ then quantizes by 'adapter.loftq_config')." if initial == "loftq" else "."),
        )
