"""The prompt contract: everything that must be the same in training and in use, saved beside the adapter.

The frame around the article is rendered once from the model's chat template and frozen here, so a model is asked in
exactly the words it was trained with. Torch is not needed: the tokenizer is the Rust one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer

from fingpt_lora.chat_templates import chat_frame, generation_stops, tokenizer_settings
from fingpt_lora.checkpoints import read_config
from fingpt_lora.errors import PromptError
from fingpt_lora.tasks import TextTask
from fingpt_lora.tasks.base import VERDICTS, Labelled, Language, Task, Written

# chat: the model's own; fingpt: Instruction, Input, Answer; bare: the text alone, for a classification head; raw: the
# text alone, to be learned itself.
Template = Literal["chat", "fingpt", "bare", "raw"]
CONTRACT_FILE = "prompt_contract.json"

_PROBE = "Net sales rose 12.5 % to EUR 3.1bn; 净利润同比增长。 $ABC ↑ <|im_end|></s>"


@dataclass(frozen=True)
class Frame:
    """What stands around the article in one language, and the answers, as text.

    With ``verdicts`` (yes and no), an answer is what stands before one of them, and each is asked for by itself.
    """

    before: str
    after: str
    answers: Mapping[str, str]
    verdicts: tuple[str, str] | None = None


@dataclass(frozen=True)
class PromptContract:
    """Everything that must be the same in training and in use; saved as ``prompt_contract.json``."""

    task: str
    template: Template
    labels: tuple[str, ...]
    frames: Mapping[Language, Frame]
    end: str
    add_bos: bool
    stop_ids: tuple[int, ...]
    pad_id: int
    max_length: int
    tokenizer: str
    answer_tokens: int | None = None  # of a written answer, its end of turn included
    version: int = 1

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the contract, in hexadecimal."""
        return hashlib.sha256(json.dumps(self._plain(), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the contract and its hash as plain JSON types."""
        return {**self._plain(), "hash": self.hash}

    def _plain(self) -> dict[str, Any]:
        # Without what does not apply, so that a contract of one-answer tasks is what it was before there were others.
        optional = ("verdicts", "answer_tokens")
        return asdict(self, dict_factory=lambda pairs: {k: v for k, v in pairs if v is not None or k not in optional})

    @classmethod
    def load(cls, folder: Path) -> PromptContract:
        """Read the contract of a run.

        Raises:
            PromptError: the file is missing, unreadable, or was changed by hand.
        """
        path = folder / CONTRACT_FILE
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            stored = saved.pop("hash")
            frames = {
                language: Frame(**{**frame, "verdicts": _pair(frame.get("verdicts"))})
                for language, frame in saved.pop("frames").items()
            }
            for key in ("labels", "stop_ids"):
                saved[key] = tuple(saved[key])
            contract = cls(frames=frames, **saved)
        except FileNotFoundError:
            raise PromptError(f"'{folder}' has no {CONTRACT_FILE}: it is not a finished run of fingpt-lora.") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PromptError(f"'{path}' cannot be read as a prompt contract ({error}). Train the run again.") from None
        if contract.hash != stored:
            raise PromptError(
                f"'{path}' does not match its own hash: it was changed after training, so the adapter would be asked "
                "in other words than it learned. Restore the file or train again."
            )
        return contract


def _pair(verdicts: Sequence[str] | None) -> tuple[str, str] | None:
    return None if verdicts is None else (verdicts[0], verdicts[1])


def load_tokenizer(checkpoint: Path) -> Tokenizer:
    """Load ``tokenizer.json`` of a checkpoint folder.

    Raises:
        PromptError: there is none, or it cannot be read.
    """
    path = checkpoint / "tokenizer.json"
    if not path.is_file():
        raise PromptError(f"'{checkpoint}' has no tokenizer.json. Save the tokenizer beside the weights and try again.")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust library raises plain Exception
        raise PromptError(f"'{path}' cannot be read as a tokenizer: {error}.") from None
    # Some files bring a fixed length along; lengths are the contract's business.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """Hash what a tokenizer does, not how its file is written: vocabulary size, added tokens, ids of a probe text."""
    added = sorted((i, token.content, token.special) for i, token in tokenizer.get_added_tokens_decoder().items())
    probe = tokenizer.encode(_PROBE, add_special_tokens=False).ids
    return hashlib.sha256(json.dumps([tokenizer.get_vocab_size(), added, probe]).encode()).hexdigest()


def make_contract(
    task: Labelled | Written | TextTask,
    checkpoint: Path,
    *,
    template: Template,
    system: str | None,
    max_length: int,
    answer_tokens: int | None = None,
    tokenizer: Tokenizer | None = None,
) -> PromptContract:
    """Render the frame around an article once, for every language of the task, and freeze it.

    Args:
        task: what is asked, and the answers.
        checkpoint: folder with ``tokenizer.json``, ``tokenizer_config.json`` and the chat template.
        template: the model's chat template, FinGPT's plain ``Instruction / Input / Answer``, the text between the
            tokenizer's own special tokens, or the text as it stands.
        system: system message; None leaves the template's own default.
        max_length: longest prompt with its answer, in tokens.
        answer_tokens: room that is kept for a written answer.
        tokenizer: that of the checkpoint, where it is loaded already.

    Raises:
        PromptError: no usable chat template or end token.
    """
    tokenizer = tokenizer or load_tokenizer(checkpoint)
    settings = tokenizer_settings(checkpoint)
    if template == "bare":
        return _bare_contract(task, tokenizer, settings, max_length, read_config(checkpoint).get("pad_token_id"))
    eos = settings.get("eos_token")
    eos_id = tokenizer.token_to_id(eos) if isinstance(eos, str) else None
    if not isinstance(eos, str) or eos_id is None:
        raise PromptError(f"The tokenizer in '{checkpoint}' names no eos_token, so an answer could never end.")
    stop_ids = tuple(dict.fromkeys([eos_id, *generation_stops(checkpoint)]))
    pad = settings.get("pad_token")
    pad_id = tokenizer.token_to_id(pad) if isinstance(pad, str) else None
    frames: dict[Language, Frame] = {}
    end = eos
    for language in task.languages:
        if template == "chat":
            before, after, end = chat_frame(settings, task.instruction(language), system, checkpoint)
        elif template == "raw":
            before, after, end = "", "", eos
        else:
            before, after, end = f"Instruction: {task.instruction(language)}\nInput: ", "\nAnswer: ", eos
        answers = {}
        if not isinstance(task, Written | TextTask):
            answers = {label: task.answer(label, language) for label in task.labels}
        frames[language] = Frame(before, after, answers, VERDICTS[language] if task.several else None)
    return PromptContract(
        task=task.name,
        template=template,
        labels=task.labels,
        frames=frames,
        end=_up_to_stop(tokenizer, end, stop_ids, eos),
        # A template that writes its own BOS must not get a second one.
        add_bos=template in ("fingpt", "raw") and bool(tokenizer.encode("").ids),
        stop_ids=stop_ids,
        pad_id=eos_id if pad_id is None else pad_id,
        max_length=max_length,
        tokenizer=tokenizer_fingerprint(tokenizer),
        answer_tokens=answer_tokens,
    )


def _bare_contract(
    task: Task, tokenizer: Tokenizer, settings: Mapping[str, Any], max_length: int, pad_id: int | None
) -> PromptContract:
    encoding = tokenizer.encode("a")
    own = [place for place, special in enumerate(encoding.special_tokens_mask) if not special]
    before, after = "".join(encoding.tokens[: own[0]]), "".join(encoding.tokens[own[-1] + 1 :])
    pad = next((name for key in ("pad_token", "eos_token") if isinstance(name := settings.get(key), str)), None)
    pad_id = tokenizer.token_to_id(pad) if pad is not None else pad_id
    if pad_id is None:
        raise PromptError("The base model names neither a pad_token nor an eos_token to fill rows with.")
    frame = Frame(before, after, {label: label for label in task.labels})
    return PromptContract(
        task=task.name,
        template="bare",
        labels=task.labels,
        frames=dict.fromkeys(task.languages, frame),
        end="",
        add_bos=False,
        stop_ids=(),
        pad_id=pad_id,
        max_length=max_length,
        tokenizer=tokenizer_fingerprint(tokenizer),
    )


def _up_to_stop(tokenizer: Tokenizer, end: str, stop_ids: Sequence[int], eos: str) -> str:
    """Keep what follows the answer up to its first stop token; a template without one gets the eos token."""
    encoding = tokenizer.encode(end, add_special_tokens=False)
    for token, (_, stop) in zip(encoding.ids, encoding.offsets, strict=True):
        if token in stop_ids:
            return end[:stop]
    return eos
