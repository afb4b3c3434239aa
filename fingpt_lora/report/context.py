"""What page and card tell beside the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

_EMBEDDED = {
    "smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "minilm": "sentence-transformers/all-MiniLM-L6-v2",
}
LANGUAGES = {"en": "English", "zh": "Chinese"}


@dataclass(frozen=True)
class ReportContext:
    """A run as its reader should know it. Missing knowledge is None or empty, never a guess.

    Attributes:
        name: of the run.
        task: the task's name.
        recipe_yaml: the resolved recipe.
        base_model: as in the recipe: ``smollm2``, a folder, or a hub id.
        base_licence: what the base model declares, e.g. ``apache-2.0``.
        data_licence: what is known of the data's licence.
        audit: ``data.audit.Audit.as_dict()``; any key may be missing.
        examples: label -> a few training texts. Shown on the page, where a person notices a swapped label map,
            and kept out of the card, because the data's licence may forbid to publish them.
        hardware: ``capability.Machine.as_dict()``.
        versions: package -> version.
        fingerprint: identity of the run.
        filled: settings that the recipe left open: key, value, reason.
        shortened: training rows whose article had to be shortened.
        languages: in which the model was asked, e.g. ``["en", "zh"]``.
        method: what was trained: PEFT's name of the adapter, or NONE where all weights were.
        classifies: whether a classification head answers.
        beside: the other tasks that the same adapter has learned.
        trained: whether this task was among them; without, it was only tested.
        created: when the run ended, for the reader; empty leaves it out.
    """

    name: str
    task: str
    recipe_yaml: str
    base_model: str
    base_licence: str | None = None
    data_licence: str | None = None
    audit: Mapping[str, Any] = field(default_factory=dict)
    examples: Mapping[str, Sequence[str]] = field(default_factory=dict)
    hardware: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    fingerprint: str = ""
    filled: Sequence[tuple[str, Any, str]] = ()
    shortened: int = 0
    languages: Sequence[str] = ()
    method: str = "LORA"
    classifies: bool = False
    beside: Sequence[str] = ()
    trained: bool = True
    created: str = ""

    @property
    def what(self) -> str:
        """What the run is of its base model: ``A LoRA adapter for``."""
        if self.method == "NONE":
            return "A fine-tuned copy of"
        name = {"LORA": "A LoRA adapter"}.get(self.method, f"An adapter ({self.method})")
        return f"{name} and classification head for" if self.classifies else f"{name} for"

    @property
    def base_name(self) -> str:
        """The base model's name for people; of a local folder only its last part, which gives no home away."""
        if self.base_model in _EMBEDDED:
            return _EMBEDDED[self.base_model]
        return self.base_model if self.base_hub_id else PurePath(self.base_model).name

    @property
    def base_hub_id(self) -> str | None:
        """The base model's hub id, or None where it is a local folder."""
        if self.base_model in _EMBEDDED:
            return self.base_name
        parts = self.base_model.split("/")
        is_id = len(parts) == 2 and all(part and part[0].isalnum() for part in parts) and "\\" not in parts[1]
        return self.base_model if is_id else None

    @property
    def language_line(self) -> str:
        """The languages by their English names."""
        return " and ".join(LANGUAGES.get(language, language) for language in self.languages)

    @property
    def recipe(self) -> str:
        """The recipe without the name of the reader's home: page and card are meant to be passed on."""
        home = str(Path.home())
        return self.recipe_yaml.replace(home + "/", "~/") if len(home) > 1 else self.recipe_yaml

    @property
    def sources(self) -> Mapping[str, str]:
        """File name (without its folders) or hub id -> its digest or revision."""
        sources = self.audit.get("sources") or {}
        return {name if name.startswith("hub:") else PurePath(name).name: str(sources[name]) for name in sources}

    @property
    def data_name(self) -> str:
        """The data's name for people."""
        names = list(self.sources)
        if len(names) > 3:
            names = [*names[:3], f"{len(names) - 3} more"]
        return ", ".join(names) or "unnamed data"

    @property
    def hardware_line(self) -> str:
        """The machine in one line."""
        known = self.hardware
        parts = [str(known["name"])] if known.get("name") else []
        if known.get("gpus", 0) and known["gpus"] > 1:
            parts = [f"{known['gpus']} x {parts[0]}"] if parts else [f"{known['gpus']} GPUs"]
        parts += [f"{known['cores']} cores"] if known.get("cores") else []
        parts += [f"{known['memory_gib']} GiB memory"] if known.get("memory_gib") else []
        return ", ".join(parts) or "not recorded"
