"""The only place where text becomes tokens.

One walk over *before | article | after | answer | end of turn* gives the token ids and the loss mask; training,
evaluation, prediction and chat all take it, in the words of the prompt contract. Where several labels may apply to an
article, each is a branch *label | yes or no* of its own, which sees the article and no other branch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tokenizers import Encoding, Tokenizer
from tokenizers.decoders import DecodeStream

from fingpt_lora.contract import PromptContract, tokenizer_fingerprint
from fingpt_lora.errors import PromptError
from fingpt_lora.tasks.base import Answer, Label, Language, Task

IGNORED = -100  # the label of a position that carries no loss, as in torch.nn.CrossEntropyLoss


class Article(str):
    """A text with what the model is told before it: only prompts show it, everyone else sees the text."""

    context: str

    def __new__(cls, text: str, context: str) -> Article:
        """Put both together."""
        made = super().__new__(cls, text)
        made.context = context
        return made


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids up to where the answer begins."""

    ids: list[int]
    shortened: bool


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of prompt and answer, and per position the id to predict or -100 where nothing is supervised.

    ``branches`` holds where each branch begins; it reaches to the next one. Without any, the ids are one path. For a
    classification head, ``labels`` is the place of the label alone, or 1 and 0 for each label.
    """

    ids: list[int]
    labels: list[int]
    shortened: bool
    branches: tuple[int, ...] = ()


class PromptEncoder:
    """Encodes articles and answers by a contract."""

    def __init__(self, contract: PromptContract, tokenizer: Tokenizer, task: Task) -> None:
        """Refuse a tokenizer other than the contract's.

        Raises:
            PromptError: tokenizer or labels differ from those of the contract, or its ``max_length`` leaves no room
                for an article.
        """
        if tokenizer_fingerprint(tokenizer) != contract.tokenizer:
            raise PromptError(
                "The tokenizer of this base model is not the one that the run was trained with (its vocabulary, its "
                "added tokens or its splitting differ). Use the base model named in the run's recipe."
            )
        if task.labels != contract.labels:
            raise PromptError(f"The run was trained on the labels {', '.join(contract.labels)}; the task has others.")
        self.contract, self.task = contract, task
        self.tokenizer = tokenizer
        # Some tokenizers add runs of spaces as tokens; those are text, and so is a word that has no token of its own.
        added = tokenizer.get_added_tokens_decoder().items()
        unknown = getattr(tokenizer.model, "unk_token", None)
        self._control = {i for i, token in added if token.content.strip() and token.content != unknown}
        bos = tokenizer.encode("").ids if contract.add_bos else []
        self._before = {lang: bos + self._encode_frame(frame.before) for lang, frame in contract.frames.items()}
        self._after = {lang: self._encode_frame(frame.after) for lang, frame in contract.frames.items()}
        self._end = self._encode_frame(contract.end)
        self._answers = {
            lang: {label: self._encode_outside(answer) for label, answer in frame.answers.items()}
            for lang, frame in contract.frames.items()
        }
        self._verdicts = {
            lang: [self._encode_frame(verdict) for verdict in frame.verdicts or ()]
            for lang, frame in contract.frames.items()
        }
        self._budgets = {language: self._article_budget(language) for language in contract.frames}

    def answer_ids(self, language: Language) -> dict[str, list[int]]:
        """Return label -> token ids of its answer, end of turn included; with several labels, of what asks for it."""
        end = [] if self.task.several else self._end
        return {label: [*ids, *end] for label, ids in self._answers[language].items()}

    def written_ids(self, answer: str) -> list[int]:
        """Return the token ids of a written answer, end of turn included."""
        return [*self._encode_outside(answer), *self._end]

    def verdict_ids(self, language: Language) -> list[list[int]]:
        """Return the token ids of yes and no, for a task with several labels."""
        return self._verdicts[language]

    def prompts(self, texts: Sequence[str]) -> list[Prompt]:
        """Encode articles up to where their answer begins."""
        told = [f"{text.context}{text.strip()}" if isinstance(text, Article) else text.strip() for text in texts]
        prompts = []
        for text, whole, encoding in zip(texts, told, self._encode_articles(told), strict=True):
            language = self.task.language(text)
            kept = _tokens_of_last_line(encoding, whole) if "question" in self.task.fields else 0
            article, shortened = _shorten(encoding, self._budgets[language], kept)
            prompts.append(Prompt([*self._before[language], *article, *self._after[language]], shortened))
        return prompts

    def examples(self, texts: Sequence[str], labels: Sequence[Label]) -> list[Example]:
        """Encode articles with their answers; only the answer and its end of turn, or yes and no, are supervised.

        Raises:
            PromptError: a text is empty, or a row would have no supervised token.
        """
        examples = []
        for row, (text, label, prompt) in enumerate(zip(texts, labels, self.prompts(texts), strict=True)):
            language = self.task.language(text)
            if not text.strip():
                raise PromptError(f"Row {row}: no text. Remove the row.")
            if self.contract.template == "bare":
                examples.append(Example(prompt.ids, self._classes(label), prompt.shortened))
                continue
            if isinstance(label, tuple):
                examples.append(self._branched(prompt, label, language))
                continue
            answer = self.written_ids(label.text) if isinstance(label, Answer) else self.answer_ids(language)[label]
            if len(answer) > (self.contract.answer_tokens or len(answer)):
                raise PromptError(
                    f"Row {row}: its answer takes {len(answer)} tokens, and {self.contract.answer_tokens} are kept for "
                    f"one. Set evaluation.max_new_tokens to {len(answer)} or more."
                )
            if not answer:
                raise PromptError(f"Row {row}: no supervised token. Remove the row.")
            ids = [*prompt.ids, *answer]
            examples.append(Example(ids, [IGNORED] * len(prompt.ids) + answer, prompt.shortened))
        return examples

    def chunks(self, text: str) -> list[Example]:
        """Cut a document into rows in which every token but the first is supervised, its end included.

        A row begins with the last token of the one before it, so that each token is foretold once.
        """
        language = self.task.language(text)
        ids = [*self._before[language], *self._encode_outside(text), *self._end]
        longest = self.contract.max_length
        rows = [ids[start : start + longest] for start in range(0, max(1, len(ids) - 1), longest - 1)]
        return [Example(row, [IGNORED, *row[1:]], shortened=False) for row in rows]

    def _classes(self, label: Label) -> list[int]:
        if isinstance(label, tuple):
            return [int(own in label) for own in self.contract.labels]
        return [self.contract.labels.index(str(label))]

    def _branched(self, prompt: Prompt, applying: Sequence[str], language: Language) -> Example:
        ids, labels, branches = list(prompt.ids), [IGNORED] * len(prompt.ids), []
        yes, no = self._verdicts[language]
        for label, question in self._answers[language].items():
            verdict = yes if label in applying else no
            branches.append(len(ids))
            ids += [*question, *verdict]
            labels += [*[IGNORED] * len(question), *verdict]
        return Example(ids, labels, prompt.shortened, tuple(branches))

    def room(self, text: str) -> int:
        """Return how many tokens an article like this one may have."""
        return self._budgets[self.task.language(text)]

    def length(self, text: str) -> int:
        """Return how many tokens an article has."""
        return len(self._encode_articles([text])[0].ids) if text else 0

    def cut(self, text: str, budget: int) -> str:
        """Return the beginning of an article, as much of it as has room in ``budget`` tokens."""
        encoding = self._encode_articles([text])[0]
        kept, shortened = _shorten(encoding, budget)
        return text.strip()[: encoding.offsets[len(kept) - 1][1]].rstrip() if shortened else text

    def text(self, ids: Iterable[int]) -> str:
        """Decode ids, control tokens included."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    def answer_text(self, ids: Sequence[int]) -> str:
        """Decode a generated answer up to its first stop token."""
        kept: list[int] = []
        for token in ids:
            if token in self.contract.stop_ids:
                break
            kept.append(token)
        return str(self.tokenizer.decode(kept, skip_special_tokens=False))

    def conversation(self, frame: Sequence[str], said: Sequence[str]) -> list[int]:
        """Encode a conversation: messages, as text from outside, and what a chat template puts around them.

        Args:
            frame: what stands before, between and after the messages, from
                :func:`fingpt_lora.chat_templates.conversation_frame`.
            said: the messages.
        """
        ids = self._encode_frame(frame[0])
        for message, after in zip(said, frame[1:], strict=True):
            ids += [*self._encode_outside(message), *self._encode_frame(after)]
        return ids

    def control_words(self) -> list[str]:
        """Return the words that are control tokens where a template writes them."""
        return sorted(str(self.tokenizer.id_to_token(token)) for token in self._control)

    def first_control_id(self, text: str) -> int | None:
        """Return the first control token of a template's text, or None."""
        return next((token for token in self._encode_frame(text) if token in self._control), None)

    def pieces(self, ids: Iterable[int]) -> Iterator[str]:
        """Decode tokens one by one, each piece as soon as its characters are whole; control tokens say nothing."""
        stream = DecodeStream(skip_special_tokens=True)
        for token in ids:
            piece = stream.step(self.tokenizer, token)
            if piece:
                yield piece

    def _article_budget(self, language: Language) -> int:
        """Return how many tokens an article may have; fewer than eight are no room."""
        longest = self.contract.answer_tokens or 0
        if self._answers[language] and self.contract.template != "bare":  # where one of some answers is written
            longest = max(len(ids) for ids in self._answers[language].values())
            longest += max([len(self._end), *map(len, self._verdicts[language])])
        frame = len(self._before[language]) + len(self._after[language]) + longest
        if self.contract.max_length - frame < 8:
            raise PromptError(
                f"training.max_length: {self.contract.max_length} tokens leave no room for the article; instruction "
                f"and answer alone take {frame}. Set it to {frame + 64} or more."
            )
        return self.contract.max_length - frame

    def _encode_frame(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def _encode_articles(self, texts: Sequence[str]) -> list[Encoding]:
        self.tokenizer.encode_special_tokens = True
        try:
            encodings = self.tokenizer.encode_batch([text.strip() for text in texts], add_special_tokens=False)
        finally:
            self.tokenizer.encode_special_tokens = False
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
            self.tokenizer.encode_special_tokens = True
            try:
                encoding = self.tokenizer.encode(text, add_special_tokens=False)
            finally:
                self.tokenizer.encode_special_tokens = False
        return encoding


def _shorten(encoding: Encoding, budget: int, kept: int = 0) -> tuple[list[int], bool]:
    """Return ``budget`` ids, cut between characters, and whether anything was cut.

    News and filings put what matters first, so the end goes; of a text that ends with a question, what is before it.

    Args:
        encoding: of the whole text.
        budget: tokens at most.
        kept: tokens at the end that stay, where they leave half of the room to the rest.
    """
    ids = list(encoding.ids)
    if len(ids) <= budget:
        return ids, False
    kept = kept if 2 * kept <= budget else 0
    cut = budget - kept
    while cut > 1 and encoding.offsets[cut - 1][1] > encoding.offsets[cut][0]:
        cut -= 1  # both tokens hold bytes of the same character
    return ids[:cut] + ids[len(ids) - kept :], True


def _tokens_of_last_line(encoding: Encoding, text: str) -> int:
    """Return how many tokens the last line has, the line break included."""
    start = text.rfind("\n")
    return sum(stop > start for _, stop in encoding.offsets) if start >= 0 else 0
