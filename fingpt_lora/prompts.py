"""The only place where text becomes tokens.

One walk over *before | article | after | answer | end of turn* gives the token ids and the loss mask; training,
evaluation, prediction and chat all take it, so a model is asked in exactly the words it was trained with. The
frame around the article is rendered once from the model's chat template and frozen in the prompt contract,
which is saved beside the adapter.

Torch is not needed: the tokenizer is the Rust one, the template engine is jinja2's sandbox.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from tokenizers import Encoding, Tokenizer

from fingpt_lora.chat_templates import chat_frame, generation_stops, tokenizer_settings
from fingpt_lora.errors import PromptError
from fingpt_lora.tasks.base import Language, Task

IGNORED = -100  # the label of a position that carries no loss, as in torch.nn.CrossEntropyLoss
CONTRACT_FILE = "prompt_contract.json"

_PROBE = "Net sales rose 12.5 % to EUR 3.1bn; 净利润同比增长。 $ABC ↑ <|im_end|></s>"


@dataclass(frozen=True)
class Frame:
    """What stands around the article in one language, and the answers, as text."""

    before: str
    after: str
    answers: Mapping[str, str]


@dataclass(frozen=True)
class PromptContract:
    """Everything that must be the same in training and in use; saved as ``prompt_contract.json``."""

    task: str
    template: Literal["chat", "fingpt"]
    labels: tuple[str, ...]
    frames: Mapping[Language, Frame]
    end: str
    add_bos: bool
    stop_ids: tuple[int, ...]
    pad_id: int
    max_length: int
    tokenizer: str
    version: int = 1

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the contract, in hexadecimal."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the contract and its hash as plain JSON types."""
        return {**asdict(self), "hash": self.hash}

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
            frames = {language: Frame(**frame) for language, frame in saved.pop("frames").items()}
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


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids up to where the answer begins."""

    ids: list[int]
    shortened: bool


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of prompt and answer, and per position the id to predict or -100 where nothing is supervised."""

    ids: list[int]
    labels: list[int]
    shortened: bool


def load_tokenizer(checkpoint: Path) -> Tokenizer:
    """Load ``tokenizer.json`` of a checkpoint folder.

    Raises:
        PromptError: there is none, or it cannot be read.
    """
    path = checkpoint / "tokenizer.json"
    if not path.is_file():
        raise PromptError(f"'{checkpoint}' has no tokenizer.json. Save the tokenizer beside the weights and try again.")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust library raises plain Exception
        raise PromptError(f"'{path}' cannot be read as a tokenizer: {error}.") from None


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """Hash what a tokenizer does, not how its file is written: vocabulary size, added tokens, ids of a probe text."""
    added = sorted((i, token.content, token.special) for i, token in tokenizer.get_added_tokens_decoder().items())
    probe = tokenizer.encode(_PROBE, add_special_tokens=False).ids
    return hashlib.sha256(json.dumps([tokenizer.get_vocab_size(), added, probe]).encode()).hexdigest()


def make_contract(
    task: Task,
    checkpoint: Path,
    *,
    template: Literal["chat", "fingpt"],
    system: str | None,
    max_length: int,
    tokenizer: Tokenizer | None = None,
) -> PromptContract:
    """Render the frame around an article once, for every language of the task, and freeze it.

    Args:
        task: what is asked, and the answers.
        checkpoint: folder with ``tokenizer.json``, ``tokenizer_config.json`` and the chat template.
        template: the model's chat template, or FinGPT's plain ``Instruction / Input / Answer``.
        system: system message; None leaves the template's own default.
        max_length: longest prompt with its answer, in tokens.
        tokenizer: that of the checkpoint, where it is loaded already.

    Raises:
        PromptError: no usable chat template or end token, or ``max_length`` leaves no room for an article.
    """
    tokenizer = tokenizer or load_tokenizer(checkpoint)
    settings = tokenizer_settings(checkpoint)
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
        else:
            before, after, end = f"Instruction: {task.instruction(language)}\nInput: ", "\nAnswer: ", eos
        frames[language] = Frame(before, after, {label: task.answer(label, language) for label in task.labels})
    contract = PromptContract(
        task=task.name,
        template=template,
        labels=task.labels,
        frames=frames,
        end=_up_to_stop(tokenizer, end, stop_ids, eos),
        # A template that writes its own BOS must not get a second one.
        add_bos=template == "fingpt" and bool(tokenizer.encode("").ids),
        stop_ids=stop_ids,
        pad_id=eos_id if pad_id is None else pad_id,
        max_length=max_length,
        tokenizer=tokenizer_fingerprint(tokenizer),
    )
    for language in contract.frames:
        PromptEncoder(contract, tokenizer, task).article_budget(language)
    return contract


class PromptEncoder:
    """Encodes articles and answers by a contract."""

    def __init__(self, contract: PromptContract, tokenizer: Tokenizer, task: Task) -> None:
        """Refuse a tokenizer other than the contract's.

        Raises:
            PromptError: tokenizer or labels differ from those of the contract.
        """
        if tokenizer_fingerprint(tokenizer) != contract.tokenizer:
            raise PromptError(
                "The tokenizer of this base model is not the one that the run was trained with (its vocabulary, its "
                "added tokens or its splitting differ). Use the base model named in the run's recipe."
            )
        if task.labels != contract.labels:
            raise PromptError(f"The run was trained on the labels {', '.join(contract.labels)}; the task has others.")
        self.contract, self.task = contract, task
        self._tokenizer = tokenizer
        # Some tokenizers add runs of spaces as tokens; those are text.
        added = tokenizer.get_added_tokens_decoder().items()
        self._control = {i for i, token in added if token.content.strip()}
        bos = tokenizer.encode("").ids if contract.add_bos else []
        self._before = {lang: bos + self._encode_frame(frame.before) for lang, frame in contract.frames.items()}
        self._after = {lang: self._encode_frame(frame.after) for lang, frame in contract.frames.items()}
        self._end = self._encode_frame(contract.end)
        self._answers = {
            lang: {label: self._encode_outside(answer) for label, answer in frame.answers.items()}
            for lang, frame in contract.frames.items()
        }

    def answer_ids(self, language: Language) -> dict[str, list[int]]:
        """Return label -> token ids of its answer, end of turn included."""
        return {label: [*ids, *self._end] for label, ids in self._answers[language].items()}

    def article_budget(self, language: Language) -> int:
        """Return how many tokens an article may have.

        Raises:
            PromptError: ``max_length`` leaves fewer than eight.
        """
        longest = max(len(ids) for ids in self._answers[language].values()) + len(self._end)
        frame = len(self._before[language]) + len(self._after[language]) + longest
        if self.contract.max_length - frame < 8:
            raise PromptError(
                f"training.max_length: {self.contract.max_length} tokens leave no room for the article; instruction "
                f"and answer alone take {frame}. Set it to {frame + 64} or more."
            )
        return self.contract.max_length - frame

    def prompts(self, texts: Sequence[str]) -> list[Prompt]:
        """Encode articles up to where their answer begins."""
        articles = self._encode_articles(texts)
        budgets = {language: self.article_budget(language) for language in self.contract.frames}
        prompts = []
        for text, encoding in zip(texts, articles, strict=True):
            language = self.task.language(text)
            article, shortened = _shorten(encoding, budgets[language])
            prompts.append(Prompt([*self._before[language], *article, *self._after[language]], shortened))
        return prompts

    def examples(self, texts: Sequence[str], labels: Sequence[str]) -> list[Example]:
        """Encode articles with their answers; only the answer and its end of turn are supervised.

        Raises:
            PromptError: a text is empty, or a row would have no supervised token.
        """
        examples = []
        for row, (text, label, prompt) in enumerate(zip(texts, labels, self.prompts(texts), strict=True)):
            answer = self.answer_ids(self.task.language(text))[label]
            if not text.strip() or not answer:
                raise PromptError(f"Row {row}: no {'text' if answer else 'supervised token'}. Remove the row.")
            ids = [*prompt.ids, *answer]
            examples.append(Example(ids, [IGNORED] * len(prompt.ids) + answer, prompt.shortened))
        return examples

    def text(self, ids: Iterable[int]) -> str:
        """Decode ids, control tokens included."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def answer_text(self, ids: Sequence[int]) -> str:
        """Decode a generated answer up to its first stop token."""
        kept: list[int] = []
        for token in ids:
            if token in self.contract.stop_ids:
                break
            kept.append(token)
        return str(self._tokenizer.decode(kept, skip_special_tokens=False))

    def _encode_frame(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _encode_articles(self, texts: Sequence[str]) -> list[Encoding]:
        self._tokenizer.encode_special_tokens = True
        try:
            encodings = self._tokenizer.encode_batch([text.strip() for text in texts], add_special_tokens=False)
        finally:
            self._tokenizer.encode_special_tokens = False
        return [
            e if self._control.isdisjoint(e.ids) else self._firewall(e, t.strip())
            for e, t in zip(encodings, texts, strict=True)
        ]

    def _encode_outside(self, text: str) -> list[int]:
        return list(self._encode_articles([text])[0].ids)

    def _firewall(self, encoding: Encoding, text: str) -> Encoding:
        """Encode text from outside whose wording is that of a control token, so that it stays text.

        Some tokenizers match added tokens even as ordinary text. A space inside the match breaks it, which keeps
        every character of the story readable.
        """
        while not self._control.isdisjoint(encoding.ids):
            spot = next(i for i, token in enumerate(encoding.ids) if token in self._control)
            start, stop = encoding.offsets[spot]
            broken = "" if stop - start < 2 else f"{text[start]} {text[start + 1 : stop]}"
            text = text[:start] + broken + text[stop:]
            self._tokenizer.encode_special_tokens = True
            try:
                encoding = self._tokenizer.encode(text, add_special_tokens=False)
            finally:
                self._tokenizer.encode_special_tokens = False
        return encoding


def _shorten(encoding: Encoding, budget: int) -> tuple[list[int], bool]:
    """Return the first ``budget`` ids, cut between characters, and whether anything was cut.

    News and filings put what matters first, so the end goes.
    """
    ids = list(encoding.ids)
    if len(ids) <= budget:
        return ids, False
    cut = budget
    while cut > 1 and encoding.offsets[cut - 1][1] > encoding.offsets[cut][0]:
        cut -= 1  # both tokens hold bytes of the same character
    return ids[:cut], True


def _up_to_stop(tokenizer: Tokenizer, end: str, stop_ids: Sequence[int], eos: str) -> str:
    """Keep what follows the answer up to its first stop token; a template without one gets the eos token."""
    encoding = tokenizer.encode(end, add_special_tokens=False)
    for token, (_, stop) in zip(encoding.ids, encoding.offsets, strict=True):
        if token in stop_ids:
            return end[:stop]
    return eos
