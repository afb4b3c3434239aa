"""Raw text: nothing is asked, every token is learned from those before it (continued pretraining)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from fingpt_lora.tasks.base import Asked, Language


@dataclass(frozen=True)
class TextTask(Asked):
    """Implements :class:`fingpt_lora.tasks.base.Task` for documents without labels."""

    asked_in: Literal["auto", "en", "zh"] = "auto"

    name = "text"
    several = False
    fields = ("text",)
    labels = ("document",)
    aliases: ClassVar[Mapping[str, str]] = {}

    def instruction(self, language: Language) -> str:
        """Return nothing: there is no instruction."""
        return ""
