"""What a checkpoint's tokenizer files say: its settings, its stop tokens, and its chat template rendered as text."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
    source = settings.get("chat_template")
    if not source:
        raise PromptError(
            f"The model in '{checkpoint}' has no chat template (it is a base model, not a chat model). Set "
            "'model.prompt: fingpt' to use the plain Instruction/Input/Answer prompt."
        )
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    # The environment that chat templates are written for; no clock, so that a prompt never names today's date.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = refuse
    messages = [{"role": "user", "content": f"{instruction}\n{_ARTICLE}"}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    tokens = {key: value for key, value in settings.items() if key.endswith("_token")}
    try:
        template = environment.from_string(source)
        asked = template.render(messages=messages, add_generation_prompt=True, **tokens)
        answered = template.render(
            messages=[*messages, {"role": "assistant", "content": _ANSWER}],
            add_generation_prompt=False,
            **tokens,
        )
    except TemplateError as error:
        raise PromptError(f"The chat template in '{checkpoint}' cannot render this prompt: {error}.") from None
    before, found, after = asked.partition(_ARTICLE)
    _, answer_found, end = answered.partition(_ANSWER)
    if not found or not answer_found:
        raise PromptError(f"The chat template in '{checkpoint}' drops or rewrites the message it is given.")
    return before, after, end
