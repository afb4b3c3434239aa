"""What tells other engines how to ask a run, all from its contract: Modelfile, chat template, and a page for people."""

from __future__ import annotations

import json

from fingpt_lora.contract import Frame, PromptContract
from fingpt_lora.errors import RunError
from fingpt_lora.prompts import PromptEncoder
from fingpt_lora.tasks.base import HAN, Language

_PLACE = "{article}"
_LANGUAGES = {"en": "English", "zh": "Chinese"}


def modelfile(encoder: PromptEncoder, language: Language, weights: str) -> str:
    """Return an Ollama Modelfile by which a message is asked about exactly as in training.

    Args:
        encoder: of the run.
        language: of the message.
        weights: GGUF file beside it.

    Raises:
        RunError: the contract's words cannot be written in a Modelfile, or one message cannot ask the task.
    """
    contract = encoder.contract
    if contract.frames[language].verdicts:
        raise RunError(
            f"The task '{contract.task}' asks yes or no to each label after the article, which no single message of "
            "Ollama can. Use --to gguf; its PROMPT.md tells how it is asked."
        )
    frame = contract.frames[language]
    if '"""' in frame.before + frame.after:
        raise RunError('The prompt holds """, by which a Modelfile ends it; it cannot be exported to Ollama.')
    longest = contract.answer_tokens or max(len(ids) for ids in encoder.answer_ids(language).values())
    lines = [
        f"# For messages in {_LANGUAGES[language]}. The system message, if there is one, is part of the template: a",
        "# SYSTEM line would make another prompt than that of training.",
        f"FROM ./{weights}",
        f'TEMPLATE """{go_template(frame)}"""',
        *(f"PARAMETER stop {_quoted(encoder.text([stop]))}" for stop in contract.stop_ids),
        "PARAMETER temperature 0",
        f"PARAMETER num_ctx {contract.max_length}",
        f"PARAMETER num_predict {longest}",
    ]
    return "\n".join(lines) + "\n"


def go_template(frame: Frame) -> str:
    """Return a frame as a Go template around the message; braces of its own are written as text."""
    before, after = (part.replace("{{", '{{ "{{" }}') for part in (frame.before, frame.after))
    return f"{before}{{{{ .Prompt }}}}{after}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def chat_template(encoder: PromptEncoder) -> str:
    """Return a Jinja chat template that asks the run's task about the last message, in the words of its contract.

    The language is told from the message as the task tells it. What would be a control token is broken by a space, for
    engines take a rendered prompt for text of the template. An article that is too long is not shortened.

    Raises:
        RunError: one message cannot ask the task.
    """
    contract = encoder.contract
    if any(frame.verdicts for frame in contract.frames.values()):
        raise RunError(f"The task '{contract.task}' asks yes or no to each label, which no single message can.")
    lines = [
        "{%- if messages[-1].role != 'user' -%}"
        "{{ raise_exception('The last message is not of the user') }}{%- endif -%}",
        "{%- set given = messages[-1].content -%}",
        "{%- set asked = namespace(text=given if given is string else given[0].text, letters=0, han=0) -%}",
        "{%- set asked.text = asked.text | trim -%}",
    ]
    for token in encoder.control_words():
        broken = _literal(f"{token[0]} {token[1:]}")
        lines.append(f"{{%- set asked.text = asked.text | replace({_literal(token)}, {broken}) -%}}")
    frames = [f"{{{{- {_literal(f.before)} + asked.text + {_literal(f.after)} -}}}}" for f in contract.frames.values()]
    if len(frames) == 1:
        return "".join([*lines, *frames])
    # As tasks.base.language_of: Chinese where a fifth of the letters are Han characters.
    ranges = " or ".join(f"'{first}' <= c <= '{last}'" for first, last in HAN)
    lines += [
        "{%- for c in asked.text -%}{%- if c.isalnum() and not c.isdecimal() -%}",
        "{%- set asked.letters = asked.letters + 1 -%}",
        f"{{%- if {ranges} -%}}{{%- set asked.han = asked.han + 1 -%}}{{%- endif -%}}",
        "{%- endif -%}{%- endfor -%}",
    ]
    by_language = dict(zip(contract.frames, frames, strict=True))
    zh = "{%- if asked.letters and asked.han * 5 >= asked.letters -%}"
    return "".join([*lines, zh, by_language["zh"], "{%- else -%}", by_language["en"], "{%- endif -%}"])


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def prompt_page(encoder: PromptEncoder, name: str, commands: str) -> str:
    """Return ``PROMPT.md``: the exact prompt of each language, what ends an answer, the answers, and what to type.

    Args:
        encoder: of the run.
        name: of the export.
        commands: for a shell.
    """
    contract = encoder.contract
    stops = ", ".join(f"`{encoder.text([stop])}` ({stop})" for stop in contract.stop_ids)
    parts = [
        f"# How {name} is asked",
        f"It answers as measured only in these words. For `{_PLACE}` goes in the article, without white space at its "
        f"ends; prompt and answer have {contract.max_length} tokens, and what is too long is cut from the article. "
        "The prompt holds the chat template already: send it as it is (`/completion`, not `/chat`).",
    ]
    for language, frame in contract.frames.items():
        bos = " after the tokenizer's BOS token" if contract.add_bos else ""
        parts += [
            f"## {_LANGUAGES[language]}",
            f"{_fenced(frame.before + _PLACE + frame.after)}\n\nThe prompt ends there{bos and f', and begins{bos}'}.",
            _answers(contract, frame),
        ]
    strict = " An answer that is not exactly one of the above counts as none." if contract.labels else ""
    parts += [
        f"## Ends of an answer\n\nTokens: {stops}. Decode greedily (temperature 0).{strict}",
        f"## Commands\n\n```bash\n{commands.strip()}\n```",
        "Text from outside may spell a control token (`<|im_end|>` in a story); an engine that is given text takes it "
        "for one. Send token ids, or break such words.",
    ]
    return "\n\n".join(parts) + "\n"


def _answers(contract: PromptContract, frame: Frame) -> str:
    if frame.verdicts:
        yes, no = frame.verdicts
        asked = "\n".join(f"- `{label}`: `{question}`" for label, question in frame.answers.items())
        return (
            f"Each label is asked for by itself: append its words, and let the model say `{yes}` or `{no}`.\n\n{asked}"
        )
    if frame.answers:
        return "Answers:\n\n" + "\n".join(f"- `{label}`: `{answer}`" for label, answer in frame.answers.items())
    return f"The answer is written, in {contract.answer_tokens} tokens at most."


def _fenced(text: str) -> str:
    fence = "````" if "```" in text else "```"
    return f"{fence}text\n{text}\n{fence}"
