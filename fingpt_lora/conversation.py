"""Free talk with a chat model: its template, what was said so far, and the window that both must fit into."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fingpt_lora.chat_templates import chat_frame, conversation_frame, tokenizer_settings
from fingpt_lora.errors import PromptError
from fingpt_lora.prompts import PromptEncoder


@dataclass(frozen=True, slots=True)
class Turn:
    """What a person said, and what the model answered."""

    asked: str
    answer: str


@dataclass(frozen=True)
class Speaker:
    """How a base model is spoken with.

    Attributes:
        encoder: encodes for its tokenizer.
        checkpoint: folder with its chat template.
        window: tokens that prompt and answer may have together; None where the model knows no end.
    """

    encoder: PromptEncoder
    checkpoint: Path
    window: int | None

    @cached_property
    def _settings(self) -> dict[str, Any]:
        return tokenizer_settings(self.checkpoint)

    @cached_property
    def stop_ids(self) -> Collection[int]:
        """The tokens that end an answer: the contract's, and what the chat template puts behind one.

        Raises:
            PromptError: there is no chat template.
        """
        end = self.encoder.first_control_id(chat_frame(self._settings, "", None, self.checkpoint)[2])
        return {*self.encoder.contract.stop_ids, *([] if end is None else [end])}

    def prompt(
        self, system: str | None, turns: Sequence[Turn], message: str, max_new_tokens: int
    ) -> tuple[list[int], int]:
        """Return the ids up to where the answer to a message begins, and how many turns had no room.

        Args:
            system: system message; None leaves the template's own.
            turns: what was said before; the oldest go first.
            message: what is said now.
            max_new_tokens: room to keep for the answer.

        Raises:
            PromptError: the message has no room even by itself, or the template cannot render it.
        """
        for dropped in range(len(turns) + 1):
            ids = self._encoded(system, turns[dropped:], message)
            if self.window is None or len(ids) + max_new_tokens <= self.window:
                return ids, dropped
        raise PromptError(
            f"The message takes {len(ids)} tokens, and {self.window} hold it together with the {max_new_tokens} that "
            "are kept for an answer (max_new_tokens). Shorten one of the two."
        )

    def _encoded(self, system: str | None, turns: Sequence[Turn], message: str) -> list[int]:
        said = [] if system is None else [("system", system)]
        for turn in turns:
            said += [("user", turn.asked), ("assistant", turn.answer)]
        said.append(("user", message))
        frame = conversation_frame(self._settings, [role for role, _ in said], self.checkpoint)
        return self.encoder.conversation(frame, [words for _, words in said])


def window_of(model: Any) -> int | None:
    """Return how many positions a model has; None where it knows no end, as a recurrent one."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return positions if isinstance(positions, int) and positions > 0 else None
