"""The sections of a recipe: typed, frozen, every key described. What they mean together is checked in ``recipe``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

Share = Annotated[float, Field(ge=0.0, lt=1.0)]


def _text_keys(value: Any) -> Any:
    """Labels in files may be numbers or true/false; as keys they are compared, and saved, as text."""
    return {str(key): label for key, label in value.items()} if isinstance(value, Mapping) else value


class Section(BaseModel):
    """A part of the recipe: unknown keys are errors, values are not coerced, nothing changes after loading."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


_OF_TASK = {
    "sentiment": {"labels"},
    "forecast": {"target", "horizon", "flat_below", "rationale"},
    "event": {"types"},
    "headline": set[str](),
    "relation": {"choices"},
    "choice": {"choices", "question"},
    "entity": {"types"},
    "event_extraction": {"roles", "triggers"},
    "relation_extraction": {"choices"},
    "question": set[str](),
    "text": set[str](),
    "custom": {"python", "options"},
}
_NEEDED = {
    "event": ("types",),
    "relation": ("choices",),
    "choice": ("choices", "question"),
    "entity": ("types",),
    "event_extraction": ("roles",),
    "relation_extraction": ("choices",),
    "custom": ("python",),
}


class TaskSection(Section):
    """What the model is asked."""

    name: Literal[
        "sentiment",
        "forecast",
        "event",
        "headline",
        "relation",
        "choice",
        "entity",
        "event_extraction",
        "relation_extraction",
        "question",
        "text",
        "custom",
    ] = Field("sentiment", description="The task: one file of fingpt_lora/tasks.")
    language: Literal["auto", "en", "zh"] = Field(
        "auto", description="Language of instruction and answer; auto decides for each row by its script."
    )
    labels: Literal[3, 5, 7] = Field(3, description="sentiment: size of the label set; 7 is FinGPT v1.1's.")
    target: Literal["direction", "bins"] = Field(
        "direction", description="forecast: up or down, or FinGPT Forecaster's bins D5+ to U5+."
    )
    horizon: int = Field(1, ge=1, description="forecast: sessions from the decision to the target's close.")
    flat_below: Share = Field(0.0, description="forecast: absolute move up to which a price counts as flat.")

    rationale: bool = Field(
        False, description="forecast: the answer goes on with its reasons, as the rows' column rationale has them."
    )
    types: Annotated[tuple[str, ...], Field(strict=False)] | dict[str, str] = Field(
        (), description="event and entity: the types, as the data names them; or name -> the words to ask with."
    )

    choices: Annotated[tuple[str, ...], Field(strict=False)] | dict[str, str] = Field(
        (),
        description="choice, relation, relation_extraction: the labels; or label -> its answer.",
    )
    python: str | None = Field(None, description="custom: the class of a task of your own, as my_tasks:Urgency.")
    options: dict[str, Any] = Field(default_factory=dict, description="custom: what the class is called with.")
    question: str | None = Field(None, description="choice: what is asked, in the language of the answers.")

    roles: dict[str, Annotated[tuple[str, ...], Field(strict=False)]] = Field(
        default_factory=dict, description="event_extraction: event type -> the roles that its events may fill."
    )
    triggers: bool = Field(True, description="event_extraction: each event names the words that tell of it.")

    @model_validator(mode="after")
    def _only_its_own(self) -> TaskSection:
        for key in _NEEDED.get(self.name, ()):
            if not getattr(self, key):
                raise ValueError(f"the task '{self.name}' needs '{key}'")
        for key in ("types", "choices"):
            listed: Any = getattr(self, key)
            for words in (list(listed), list(listed.values()) if isinstance(listed, dict) else []):
                folded = [word.strip().casefold() for word in words]
                if len(set(folded)) < len(folded) or not all(folded):
                    raise ValueError(f"'{key}' says one thing twice, or nothing")
        if "none" in map(str.casefold, self.types):
            raise ValueError("'types': a row without any type is told by an empty list; leave 'none' out")
        for kind, roles in self.roles.items():
            if len(set(roles)) < len(roles) or not all(roles) or {"type", "trigger"} & set(roles):
                raise ValueError(f"'roles': '{kind}' names a role twice or not at all; type and trigger are none")
        for task, keys in _OF_TASK.items():
            foreign = sorted((keys - _OF_TASK[self.name]) & self.model_fields_set)
            if foreign:
                raise ValueError(f"'{foreign[0]}' belongs to the task '{task}', not to '{self.name}'")
        return self

    @model_serializer(mode="wrap")
    def _without_the_others(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        foreign = {key for keys in _OF_TASK.values() for key in keys} - _OF_TASK[self.name]
        return {key: value for key, value in write(self).items() if key not in foreign}


class ModelSection(Section):
    """The base model and how its weights are held."""

    base: str = Field("smollm2", description="'smollm2' (embedded), a local folder, or a hub id.")
    revision: str | None = Field(None, description="Commit or tag of a hub model.")
    adapters: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        (), description="Earlier runs whose LoRA adapters go under the new one: merged, or stacked if quantized."
    )
    quantization: Literal["none", "int8", "nf4"] | dict[str, Any] = Field(
        "nf4", description="A word, or the fields of transformers.BitsAndBytesConfig."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Precision of weights and compute; auto takes bfloat16 where the hardware has it."
    )
    attn_implementation: str = Field("auto", description="auto, or a name that transformers accepts.")
    head: Literal["language_model", "classification"] = Field(
        "language_model",
        description="language_model: the answer is written; classification: an encoder (BERT) or causal model with a "
        "new head that names the label.",
    )
    prompt: Literal["chat", "fingpt"] = Field(
        "chat", description="chat: the model's own template; fingpt: Instruction/Input/Answer in plain text."
    )
    knowledge_cutoff: str | None = Field(
        None, pattern=r"^\d{4}-\d{2}-\d{2}$", description="Day until which the base's training texts may reach."
    )
    system: str | None = Field(None, description="System message; none leaves the template's own default.")


class SplitSection(Section):
    """How rows become train, validation and test where the files do not say so."""

    method: Literal["random", "group", "time"] = Field(
        description="random: stratified by label; group: a column's values stay together; time: oldest first."
    )
    column: str | None = Field(None, description="Column of the group, or of the date (ISO 8601).")
    test: Share = Field(0.2, description="Share of the rows (of the groups, for group) kept for the test.")
    seed: int = Field(42, description="Seed of random and group.")
    folds: int | None = Field(None, ge=1, description="time: number of walk-forward folds; each tests on later days.")
    fold: int | None = Field(None, ge=1, description="time: which of the folds this run trains and tests.")

    @model_validator(mode="after")
    def _column_where_needed(self) -> SplitSection:
        if (self.method in ("group", "time")) != (self.column is not None):
            wanted = "needs" if self.column is None else "does not take"
            raise ValueError(f"method '{self.method}' {wanted} 'column'")
        if (self.folds is None) != (self.fold is None) or (self.folds and self.method != "time"):
            raise ValueError("'folds' and 'fold' go together, with method 'time'")
        if self.folds and self.fold and self.fold > self.folds:
            raise ValueError(f"there is no fold {self.fold} of {self.folds}")
        return self


class MarketSection(Section):
    """What a forecast is told, beside the prices in ``data.path``, and when each of it could be known."""

    calendar: str = Field("XNYS", description="Exchange whose closes are the moments of decision (ISO 10383 code).")
    news: str | None = Field(None, description="Files of stories: ticker, date or time, text.")
    filings: str | None = Field(None, description="Files of statements: ticker, filing date, any figures.")
    every: int = Field(1, ge=1, description="Sessions between two decisions about one share.")
    moves: int = Field(5, ge=0, description="Sessions whose moves are told.")
    stories: int = Field(8, ge=0, description="Newest stories at most.")
    days: int = Field(5, ge=1, description="Calendar days that a story stays news.")
    mask: bool = Field(False, description="Replace tickers, names and dates; what is left may still tell who it is.")
    names: dict[str, Annotated[tuple[str, ...], Field(strict=False)]] = Field(
        default_factory=dict, description="Ticker -> the company's names, for mask."
    )
    embargo_days: int = Field(0, ge=0, description="Days between the last known outcome and the first held-out row.")


class DataSection(Section):
    """Where the rows come from and how they become clean, labelled splits."""

    path: str | Annotated[tuple[str, ...], Field(strict=False, min_length=1)] = Field(
        "sample", description="'sample' (embedded), files, globs, folders, or 'hub:owner/name'."
    )
    test: str | None = Field(None, description="File, glob or folder of the test rows; for a hub set, its split.")
    validation: str | None = Field(None, description="The same for validation rows.")
    format: Literal["auto", "csv", "tsv", "jsonl", "json", "parquet", "arrow", "phrasebank", "conll", "text"] = Field(
        "auto", description="File format; auto goes by the file's name."
    )
    layout: Literal[
        "auto", "columns", "fingpt", "alpaca", "finlora", "pixiu", "messages", "stocknet", "gold_headlines"
    ] = Field("auto", description="Meaning of the columns; auto goes by their names.")
    fields: dict[str, str] = Field(
        default_factory=dict,
        description="Our field -> column in the file, e.g. {text: sentence, label: tag}.",
    )
    labels: Annotated[dict[str, str], BeforeValidator(_text_keys)] = Field(
        default_factory=dict,
        description="Label in the file -> label of the task, e.g. {0: negative, 1: positive}.",
    )
    encoding: str = Field("auto", description="Text encoding, e.g. utf-8, latin-1, gb18030.")
    split: SplitSection | None = Field(None, description="How to split rows that carry no split.")
    validation_share: Share = Field(0.0, description="Share of the training rows held out for validation.")
    bad_rows: Share = Field(0.0, description="Share of unreadable rows that is tolerated.")
    contradictions: Literal["error", "drop", "majority", "keep"] = Field(
        "drop", description="What to do with one text under several labels in the training rows."
    )
    context: dict[str, Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict,
        description="Column -> tokens at most: what each row is told before its article; the last gives way first.",
    )
    market: MarketSection | None = Field(
        None, description="data.path holds daily prices: build forecast rows from them, point in time."
    )
    limit: int | None = Field(
        None, ge=1, description="Use only so many rows of each split, at even distances (for trials)."
    )
    revision: str | None = Field(None, description="Commit or tag of a hub data set.")
    name: str | None = Field(None, description="Configuration name of a hub data set.")
    train_split: str = Field("train", description="Split of a hub data set to train on.")


class EvaluationSection(Section):
    """How the result is measured."""

    mode: Literal["auto", "score", "generate", "constrained"] = Field(
        "auto",
        description="score: label log-probabilities; generate: greedy answer, strictly parsed; constrained: the same, "
        "kept within the format; auto scores what is listed and generates what is written.",
    )
    max_new_tokens: int | None = Field(None, ge=1, description="Longest written answer; by default, that of training.")
    batch_size: int = Field(32, ge=1, description="Rows per forward.")
    base_model: bool = Field(True, description="Also score the base, with any model.adapters, on the same rows.")
    confidence: float = Field(0.95, gt=0.5, lt=1.0, description="Level of the bootstrap intervals.")
    bootstrap: int = Field(1000, ge=100, description="Resamples for the intervals.")
    merge_agreement: float = Field(
        0.97,
        ge=0.0,
        le=1.0,
        description="Share of held-out answers that a merge must keep, near ties aside.",
    )


class MixturePart(Section):
    """One task of a mixture."""

    recipe: str = Field(min_length=1, description="Its recipe, beside this one: task, data and evaluation are taken.")
    set: Annotated[tuple[str, ...], Field(strict=False)] = Field((), description="Overrides of it: section.key=value.")
    weight: float | None = Field(None, gt=0, description="Share of the training rows, beside the other weights.")
    train: bool = Field(True, description="false: held out altogether, and tested unseen (zero-shot).")


class MixtureSection(Section):
    """Several tasks that one adapter learns together."""

    tasks: dict[str, MixturePart] = Field(min_length=2, description="Name -> recipe of each task.")
    temperature: float = Field(
        1.0, ge=1.0, description="Without weights, shares follow size ** (1 / temperature): the higher, the more equal."
    )


class Recipe(Section):
    """One job, from rows to an evaluated adapter in a run folder."""

    task: TaskSection = Field(default_factory=lambda: TaskSection())
    model: ModelSection = Field(default_factory=lambda: ModelSection())
    adapter: dict[str, Any] = Field(default_factory=dict, description="Fields of the PEFT config; LoRA by default.")
    data: DataSection = Field(default_factory=lambda: DataSection())
    training: dict[str, Any] = Field(default_factory=dict, description="Fields of trl.SFTConfig, and ours.")
    evaluation: EvaluationSection = Field(default_factory=lambda: EvaluationSection())
    mixture: MixtureSection | None = Field(None, description="Instead of task and data: several tasks together.")
    output: str = Field("runs/sentiment", min_length=1, description="The run folder.")

    @model_validator(mode="after")
    def _one_or_several(self) -> Recipe:
        own = sorted({"task", "data", "evaluation"} & self.model_fields_set) if self.mixture else []
        if own:
            raise ValueError(f"a mixture takes '{own[0]}' from the recipes of its tasks; remove it here")
        return self

    @property
    def peft_type(self) -> str:
        """PEFT's name of the method, upper case."""
        return str(self.adapter.get("peft_type") or "LORA").upper()

    def as_dict(self) -> dict[str, Any]:
        """Return the recipe as plain JSON types, ready for YAML or hashing."""
        foreign = {"task", "data", "evaluation"} if self.mixture else {"mixture"}
        return self.model_dump(mode="json", exclude=foreign)
