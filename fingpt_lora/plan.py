"""Everything that is decided before weights are needed: rows, prompts, settings, identity. Imports no torch.

``fingpt-lora check`` shows a plan; training carries it out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tokenizers import Tokenizer

from fingpt_lora import capability, cautions, checkpoints, context, earlier, mixture, runs
from fingpt_lora.capability import Filled, Machine
from fingpt_lora.chat_templates import tokenizer_settings
from fingpt_lora.contract import PromptContract, load_tokenizer, make_contract
from fingpt_lora.data import Row, Splits, load_splits
from fingpt_lora.data.point_in_time import market_rows
from fingpt_lora.errors import DataError, RecipeError
from fingpt_lora.installed import need_llguidance
from fingpt_lora.prompts import Article, Example, PromptEncoder
from fingpt_lora.sections import MixtureSection, Recipe
from fingpt_lora.tasks import ForecastTask, ReasonedForecastTask, Task, TextTask, Written, build_task
from fingpt_lora.tasks.base import Answer, Label

_DEFAULT_LENGTH = 1024
_END_OF_TURN = 8  # tokens, at most


@dataclass(frozen=True)
class Plan:
    """A recipe with all that follows from it."""

    recipe: Recipe  # resolved: every value filled in
    filled: list[Filled]
    machine: Machine
    task: Task
    checkpoint: Path
    splits: Splits
    contract: PromptContract
    encoder: PromptEncoder
    train: list[Example]
    groups: list[int]  # of each: what should lie together in a batch, such as its language
    identity: str
    world_size: int
    parts: Mapping[str, Plan] = field(default_factory=dict)  # of a mixture: its tasks, by name

    @property
    def tasks(self) -> Mapping[str, Plan]:
        """The tasks of a mixture by name, or this one alone under the empty name."""
        return self.parts or {"": self}

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        training = self.recipe.training
        if training.get("max_steps", -1) > 0:
            return int(training["max_steps"])
        batch = training["per_device_train_batch_size"] * self.world_size
        micro = math.ceil(len(self.train) / batch)
        per_epoch: int = max(1, math.ceil(micro / training.get("gradient_accumulation_steps", 1)))
        return math.ceil(per_epoch * float(training.get("num_train_epochs", 3.0)))

    @property
    def batching(self) -> str:
        """How rows are laid out in a batch, where the model can."""
        # A classification head reads the text alone: no prefix is shared.
        default = "length" if self.recipe.model.head == "classification" else "shared_prefix"
        return str(self.recipe.training.get("batching", default))

    def checkpointing(self, batching: str) -> Filled:
        """Return whether activations are computed again, with rows laid out in this way."""
        return capability.checkpointing(
            self.recipe,
            self.machine,
            [len(example.ids) for example in self.train],
            config=checkpoints.read_config(self.checkpoint),
            base_bytes=checkpoints.weights_bytes(self.checkpoint),
            padded=batching != "shared_prefix",
            world_size=self.world_size,
        )

    @property
    def shortened(self) -> int:
        """Training rows whose article had to be shortened."""
        return sum(example.shortened for example in self.train)


def make_plan(recipe: Recipe, *, world_size: int = 1) -> Plan:
    """Load rows and tokenizer, render prompts, fill in what the recipe leaves open.

    Raises:
        FingptLoraError: whatever in recipe, data or model stands in the way, in one sentence.
    """
    if recipe.mixture is not None:
        return _mixture_plan(recipe, recipe.mixture, world_size)
    splits = splits_of(recipe)
    _need_rows(splits, recipe)
    return _plan_of(recipe, splits, world_size)


def splits_of(recipe: Recipe) -> Splits:
    """Return the rows of a recipe of one task, without their context.

    Raises:
        FingptLoraError: the rows cannot be read, or not be asked about as the recipe wants it.
    """
    task = build_task(recipe.task)
    _mode(recipe, task)  # what cannot be asked need not be read
    splits = load_splits(recipe.data, task, build=_builder(recipe, task))
    if isinstance(task, ForecastTask | ReasonedForecastTask):
        splits = replace(splits, audit=cautions.of_memory(splits, recipe))
    if recipe.model.adapters:
        warning = (
            "what model.adapters learned before was not compared with the test rows; see to it that it is other text"
        )
        splits = replace(splits, audit=splits.audit.warned(warning))
    return splits


def _mixture_plan(recipe: Recipe, section: MixtureSection, world_size: int) -> Plan:
    """Return the first task's plan with the training rows of all."""
    mixture.check(recipe, section)
    recipes = mixture.part_recipes(recipe, section)
    splits = mixture.kept_apart({name: splits_of(part) for name, part in recipes.items()})
    parts = {name: _plan_of(part, splits[name], world_size) for name, part in recipes.items()}
    if recipe.training.get("eval_strategy", "no") != "no" and not any(own.validation for own in splits.values()):
        raise DataError("training.eval_strategy needs validation rows: set data.validation_share in a task's recipe.")
    counts = mixture.copies({name: len(part.train) for name, part in parts.items()}, section)
    seed = int(recipe.training.get("seed", 42))
    train: list[Example] = []
    groups: list[int] = []
    for number, (name, part) in enumerate(parts.items()):
        chosen = mixture.repeated(range(len(part.train)), counts[name], seed)
        train += [part.train[row] for row in chosen]
        groups += [2 * number + part.groups[row] for row in chosen]  # two languages at most
    first = next(iter(parts.values()))
    filled = capability.fill_in(
        recipe,
        first.machine,
        train_rows=len(train),
        world_size=world_size,
    )
    identity = mixture.identity(section, {name: part.identity for name, part in parts.items()})
    resolved = capability.resolve(recipe, filled)
    whole = replace(first, recipe=resolved, filled=filled, train=train, groups=groups, identity=identity, parts=parts)
    return _with_checkpointing(whole, recipe)


def _with_checkpointing(plan: Plan, recipe: Recipe) -> Plan:
    """Fill in what the recipe leaves open once the lengths of the rows are known."""
    if "gradient_checkpointing" in recipe.training:
        return plan
    item = plan.checkpointing(plan.batching)
    return replace(plan, recipe=capability.resolve(plan.recipe, [item]), filled=[*plan.filled, item])


def _plan_of(recipe: Recipe, splits: Splits, world_size: int) -> Plan:
    task = build_task(recipe.task)
    classifies = recipe.model.head == "classification"
    mode = _mode(recipe, task)
    checkpoint = checkpoints.find_checkpoint(recipe.model.base, recipe.model.revision, writes=not classifies)
    machine = capability.detect()
    filled = capability.fill_in(
        recipe,
        machine,
        train_rows=len(splits.train),
        world_size=world_size,
    )
    tokenizer, limit = load_tokenizer(checkpoint), _longest(checkpoint)
    filled += [mode] if recipe.evaluation.mode == "auto" else []
    answer_tokens = recipe.evaluation.max_new_tokens
    if isinstance(task, Written) and answer_tokens is None:
        answer_tokens = _room_for_answers(splits, tokenizer)
        filled.append(Filled("evaluation.max_new_tokens", answer_tokens, "the longest training answer, and a quarter"))
    if "max_length" not in recipe.training:
        length = min(_DEFAULT_LENGTH + (answer_tokens or 0), limit)
        filled.append(Filled("training.max_length", length, "articles beyond it are shortened and counted"))
    resolved = capability.resolve(recipe, filled)
    contract = make_contract(
        task,
        checkpoint,
        template="raw" if isinstance(task, TextTask) else "bare" if classifies else recipe.model.prompt,
        system=recipe.model.system,
        max_length=min(resolved.training["max_length"], limit),
        answer_tokens=answer_tokens,
        tokenizer=tokenizer,
    )
    encoder = PromptEncoder(contract, tokenizer, task)
    splits = context.in_splits(splits, recipe.data.context, encoder)
    if isinstance(task, TextTask):
        train = [chunk for row in splits.train for chunk in encoder.chunks(row.text)]
        groups = [0] * len(train)
    else:
        train = encoder.examples(texts(splits.train), [_label(row) for row in splits.train])
        groups = [list(contract.frames).index(task.language(row.text)) for row in splits.train]
    splits = replace(splits, audit=cautions.of_unknown(splits.audit, train, tokenizer))
    base = checkpoints.identity(checkpoint) + earlier.identity(recipe.model)
    identity = runs.fingerprint(resolved, splits.audit.fingerprint, contract, base)
    plan = Plan(
        resolved, filled, machine, task, checkpoint, splits, contract, encoder, train, groups, identity, world_size
    )
    return _with_checkpointing(plan, recipe)


def _mode(recipe: Recipe, task: Task) -> Filled:
    """Return how answers are got, and why.

    Raises:
        RecipeError: the recipe asks for a way that does not go with its task.
    """
    asked, written = recipe.evaluation.mode, isinstance(task, Written)
    if recipe.model.head == "classification":
        if written or isinstance(task, TextTask):
            raise RecipeError(f"model.head: the task '{task.name}' has no classes; leave the head out.")
        possible, why = ["score"], "a classification head writes nothing"
    elif isinstance(task, TextTask):
        possible, why = ["score"], "there is nothing to answer"
    elif task.several:
        possible, why = ["score"], f"'{task.name}' asks yes or no to each label"
    elif written:
        possible, why = ["generate", "constrained"], f"the answers of '{task.name}' are written"
    else:
        possible, why = ["score", "generate"], "the answers are listed"
    if asked not in ("auto", *possible):
        raise RecipeError(f"evaluation.mode: {why}; use {' or '.join(possible)}.")
    if recipe.evaluation.max_new_tokens and not written:
        raise RecipeError(f"evaluation.max_new_tokens: belongs to written answers, and {why}; remove it.")
    if asked == "constrained":
        need_llguidance()
    return Filled("evaluation.mode", possible[0] if asked == "auto" else asked, why)


def _longest(checkpoint: Path) -> int:
    """Return how many tokens the base model takes.

    Of some (RoBERTa) not all positions count, and their tokenizer knows better.
    """
    limits = (
        checkpoints.read_config(checkpoint).get("max_position_embeddings"),
        tokenizer_settings(checkpoint).get("model_max_length"),
    )
    return min((int(limit) for limit in limits if isinstance(limit, (int, float))), default=_DEFAULT_LENGTH)


def _room_for_answers(splits: Splits, tokenizer: Tokenizer) -> int:
    answers = tokenizer.encode_batch([str(row.label) for row in splits.train], add_special_tokens=False)
    return math.ceil(max(len(answer.ids) for answer in answers) * 1.25) + _END_OF_TURN


def _label(row: Row) -> Label:
    assert row.label is not None  # the rows of a split carry one
    return row.label


def _builder(recipe: Recipe, task: Task) -> Callable[[list[Path]], list[Row]] | None:
    market = recipe.data.market
    if market is None:
        return None
    if not isinstance(task, ForecastTask):
        raise DataError("data.market makes forecast rows without reasons; set task.name: forecast, and no rationale.")
    return lambda files: market_rows(files, market, task.horizon, task.label_of)


def texts(rows: Sequence[Row]) -> list[str]:
    """Return the texts of rows, with what the model is told before them."""
    return [Article(row.text, row.context) if row.context else row.text for row in rows]


def labels(rows: Sequence[Row]) -> list[str]:
    """Return the labels of rows that carry one each."""
    return [str(row.label) for row in rows]


def label_sets(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return the labels of rows that carry any number of them."""
    return [row.label if isinstance(row.label, tuple) else () for row in rows]


def written_answers(rows: Sequence[Row]) -> list[Answer]:
    """Return the written answers of rows that carry one each."""
    return [row.label for row in rows if isinstance(row.label, Answer)]


def _need_rows(splits: Splits, recipe: Recipe) -> None:
    if recipe.training.get("eval_strategy", "no") != "no" and not splits.validation:
        raise DataError(
            "training.eval_strategy needs validation rows: set data.validation_share (e.g. 0.1) or data.validation."
        )
