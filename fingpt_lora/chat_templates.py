"""What a checkpoint's tokenizer files say: its settings, its stop tokens, and its chat template rendered as text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fingpt_lora.errors import PromptError

_ARTICLE, _ANSWER = "\u0002article\u0003", "\u0002answer\u0003"


def tokenizer_settings(checkpoint: Path) -> dict[str, Any]:
    """Return ``tokenizer_config.json`` with special tokens as text and the chat template, wherever it is kept.

    Raises:
        PromptError: the file is missing or unreadable.
    """
    path = checkpoint / "tokenizer_config.json"
    try:
        settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PromptError(f"'{path}' cannot be read: {error}.") from None
    for key, value in settings.items():
        if key.endswith("_token") and isinstance(value, dict):
            settings[key] = value.get("content")
    template_file = checkpoint / "chat_template.jinja"
    if template_file.is_file():
        settings["chat_template"] = template_file.read_text(encoding="utf-8")
    if isinstance(settings.get("chat_template"), list):  # several named templates
        named = {item["name"]: item["template"] for item in settings["chat_template"]}
        settings["chat_template"] = named.get("default")
    return settings


def generation_stops(checkpoint: Path) -> list[int]:
    """Return the end tokens of ``generation_config.json``; none where there is no such file."""
    try:
        stops = json.loads((checkpoint / "generation_config.json").read_text(encoding="utf-8")).get("eos_token_id")
    except (OSError, ValueError):
        return []
    return [stops] if isinstance(stops, int) else [int(stop) for stop in stops or []]


def chat_frame(
    settings: Mapping[str, Any], instruction: str, system: str | None, checkpoint: Path
) -> tuple[str, str, str]:
    """Render the chat template around placeholders: (before the article, after it, after the answer).

    Raises:
        PromptError: there is no template, or it cannot render a question and its answer.
    """
    if not settings.get("chat_template"):
        raise PromptError(
            f"The model in '{checkpoint}' has no chat template (it is a base model, not a chat model). Set "
            "'model.prompt: fingpt' to use the plain Instruction/Input/Answer prompt."
        )
    messages = [{"role": "user", "content": f"{instruction}\n{_ARTICLE}"}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    asked = _rendered(settings, messages, checkpoint)
    answer = {"role": "assistant", "content": _ANSWER}
    answered = _rendered(settings, [*messages, answer], checkpoint, ask=False)
    before, found, after = asked.partition(_ARTICLE)
    _, answer_found, end = answered.partition(_ANSWER)
    if not found or not answer_found:
        raise PromptError(f"The chat template in '{checkpoint}' drops or rewrites the message it is given.")
    return before, after, end


def conversation_frame(settings: Mapping[str, Any], roles: Sequence[str], checkpoint: Path) -> list[str]:
    """Render the chat template around a conversation: what stands before, between and after its messages.

    Args:
        settings: from :func:`tokenizer_settings`.
        roles: of each message, the last being that of a user.
        checkpoint: where the template is from.

    Raises:
        PromptError: there is no template, or it cannot render such a conversation.
    """
    if not settings.get("chat_template"):
        raise PromptError(
            f"The model in '{checkpoint}' has no chat template, so nobody can talk freely with it. Ask the run's task."
        )
    marks = [f"\u0002{number}\u0003" for number in range(len(roles))]
    messages = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
    rest = _rendered(settings, messages, checkpoint)
    frame = []
    for mark in marks:
        before, found, rest = rest.partition(mark)
        if not found:
            raise PromptError(f"The chat template in '{checkpoint}' drops or rewrites the messages it is given.")
        frame.append(before)
    return [*frame, rest]


def _rendered(
    settings: Mapping[str, Any], messages: Sequence[Mapping[str, str]], checkpoint: Path, *, ask: bool = True
) -> str:
    """Render the chat template, up to where an answer begins, or with ``ask`` unset to the end of the last message."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    # The environment that chat templates are written for; no clock, so that a prompt never names today's date.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = refuse
    tokens = {key: value for key, value in settings.items() if key.endswith("_token")}
    try:
        template = environment.from_string(settings["chat_template"])
        return template.render(messages=messages, add_generation_prompt=ask, **tokens)
    except TemplateError as error:
        raise PromptError(f"The chat template in '{checkpoint}' cannot render this prompt: {error}.") from None
