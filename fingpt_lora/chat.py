"""Finished runs, ready to answer: one session object for the command line and notebooks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fingpt_lora.bases import Bases, Loaded
from fingpt_lora.console import note, progress_bar, quiet
from fingpt_lora.conversation import Speaker, Turn, window_of
from fingpt_lora.data import BadRow, Row, rows_in_memory
from fingpt_lora.errors import DataError, RunError, did_you_mean
from fingpt_lora.generate import stream_tokens
from fingpt_lora.multilabel import half
from fingpt_lora.predict import Predictor, answer_rows, checkpoint_of, encoder_of
from fingpt_lora.reply import Beside, Reply, Spoken
from fingpt_lora.runs import open_run
from fingpt_lora.tasks import Written

if TYPE_CHECKING:
    from pandas import DataFrame

_TEXT = "text"


@dataclass(frozen=True)
class _Member:
    """One of the runs."""

    predictor: Predictor
    loaded: Loaded
    speaker: Speaker


class Chat:
    """One or several finished runs, ready to answer.

    ::

        chat = Chat("runs/sentiment", "runs/events")
        chat("Nokia's profit fell 20 %")              # the run's task, in the words of its prompt contract
        chat.base("Nokia's profit fell 20 %")         # beside what the untouched base says
        chat.use("events")("Nokia buys Alcatel")      # another run, on the same base
        chat.table(frame, column="headline")          # a DataFrame of answers
        chat.raw("What is a dividend?")               # free talk, with a history, by the base's chat template

    Runs of one base model, in one precision, share it: it is loaded once, and their adapters are switched.
    """

    def __init__(
        self,
        *runs: str | Path,
        names: Sequence[str] | None = None,
        system: str | None = None,
        max_new_tokens: int = 256,
        window: int | None = None,
    ) -> None:
        """Open runs and load their weights for this machine.

        Args:
            runs: run folders; the first is in use.
            names: to switch by; by default, those of the folders.
            system: system message of free talk; None leaves the chat template's own.
            max_new_tokens: longest answer in free talk.
            window: tokens that free talk may hold, history, message and answer together; by default, what the model
                has positions for.

        Raises:
            FingptLoraError: a run is unfinished, its base is missing, a contract does not match, or names are wrong.
        """
        if not runs:
            raise RunError("Name a run to chat with: Chat('runs/sentiment').")
        names = [Path(run).resolve().name for run in runs] if names is None else list(names)
        if len(names) != len(runs):
            raise RunError(f"There are {len(names)} names for {len(runs)} runs. Give one for each.")
        if len(set(names)) < len(names):
            raise RunError(f"Two runs have the same name ({', '.join(names)}). Give each one of its own: names=[...].")
        # Contracts first: whatever does not match is told before weights are read.
        opened = [(run, encoder_of(run)) for run in map(open_run, runs)]
        self._bases = Bases()
        self._members: dict[str, _Member] = {}
        with quiet():
            for name, (run, encoder) in zip(names, opened, strict=True):
                loaded = self._bases.load(run)
                speaker = Speaker(encoder, checkpoint_of(run), window or window_of(loaded.model))
                self._members[name] = _Member(Predictor.around(run, encoder, loaded.model), loaded, speaker)
        self._turns: list[Turn] = []
        self.system, self.max_new_tokens = system, max_new_tokens
        self.use(names[0])

    def __repr__(self) -> str:
        """Return the names of the runs, the one in use in brackets."""
        return f"Chat({', '.join(f'[{name}]' if name == self.name else name for name in self.names)})"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the runs."""
        return tuple(self._members)

    @property
    def name(self) -> str:
        """Name of the run in use."""
        return self._name

    @property
    def predictor(self) -> Predictor:
        """The run in use, as ``fingpt-lora predict`` uses it."""
        return self._members[self._name].predictor

    @property
    def history(self) -> tuple[Turn, ...]:
        """What was said in free talk, as far as it is remembered."""
        return tuple(self._turns)

    def use(self, name: str) -> Chat:
        """Switch to another run, and return the chat. The history of free talk goes on.

        Raises:
            RunError: there is none of that name.
        """
        if name not in self._members:
            raise RunError(f"There is no run '{name}' in this chat.{did_you_mean(name, self._members)}")
        self._members[name].loaded.use()
        self._name = name
        return self

    def __call__(self, text: str, **columns: Any) -> Reply:
        """Ask the task of the run in use about a text.

        Args:
            text: the article.
            columns: what else a row of the run has, e.g. ``question=...``, or columns of its ``data.context``.

        Raises:
            DataError: there is no text.
            RunError: the run has no task to ask.
        """
        return self._replies(self.predictor, self._row(text, columns))

    def base(self, text: str, **columns: Any) -> Beside:
        """Ask the run in use and, in the same words, the base that it was trained on (thresholds of one half).

        That is the untouched base, with the earlier adapters where the recipe has ``model.adapters``.

        Raises:
            DataError: there is no text.
            RunError: the run has no task to ask, or its base has never learned to answer.
        """
        predictor = self.predictor
        if predictor.run.recipe.model.head == "classification":
            raise RunError(f"The head of '{self.name}' was trained with it; without it, its base has no answer.")
        if predictor.run.merged:
            raise RunError(f"'{self.name}' is merged: its base is a part of it. Ask the run that it was merged from.")
        row = self._row(text, columns)
        own = self._replies(predictor, row)
        thresholds = None if predictor.thresholds is None else half(predictor.encoder.contract.labels)
        base_name = "base with earlier adapters" if predictor.run.recipe.model.adapters else "untouched base"
        with quiet(), self._bases.untouched(predictor.run) as model:
            beside = self._replies(replace(predictor, model=model, thresholds=thresholds), row)
        return Beside(own, beside, base_name)

    def table(self, frame: DataFrame | Sequence[str], column: str = _TEXT, *, progress: bool = True) -> DataFrame:
        """Answer every text of a column, in order, with a progress bar on standard error.

        Args:
            frame: a DataFrame, or a list of texts. Its other columns are read where the run needs them, as a question.
            column: the texts.
            progress: show the bar.

        Returns:
            rows and index as they came, with the columns ``column``, ``label``, ``probability_...`` (of a written
            answer, none) and ``error``: why a row could not be asked about, and its label is None.

        Raises:
            DataError: there is no such column.
            RunError: the run has no task to ask.
        """
        import pandas

        if not isinstance(frame, pandas.DataFrame):
            frame = pandas.DataFrame({column: list(frame)}, dtype=object)
        if column not in frame.columns:
            raise DataError(f"There is no column '{column}'.{did_you_mean(column, map(str, frame.columns))}")
        whole = frame.astype(object).where(frame.notna(), None)
        predictor = self.predictor
        task, data = predictor.encoder.task, predictor.run.recipe.data
        rows = rows_in_memory(whole.to_dict("records"), data, task, column)
        usable = sum(isinstance(row, Row) for row in rows)
        with quiet(), progress_bar(self.name if progress else None, usable) as told:
            answers = answer_rows(predictor, rows, told)
        labels = () if isinstance(task, Written) else predictor.encoder.contract.labels
        shares = [answer["probabilities"] or {} for answer in answers]
        found: dict[str, Any] = {column: frame[column].to_numpy(), "label": [answer["label"] for answer in answers]}
        found |= {f"probability_{name}": [own.get(name) for own in shares] for name in labels}
        found["error"] = [answer.get("error") for answer in answers]
        return pandas.DataFrame(found, index=frame.index)

    def raw(
        self, message: str, show: Callable[[str], object] | None = None, *, max_new_tokens: int | None = None
    ) -> Spoken:
        """Talk freely with the model of the run in use, by its own chat template, with what was said before.

        Whatever ends it early, an interrupt or an error of ``show``, leaves the history as it was.

        Args:
            message: what to say.
            show: called with every piece of the answer, as it comes.
            max_new_tokens: longest answer; by default, that of the chat.

        Raises:
            PromptError: the model has no chat template, or the message has no room.
            RunError: the run has a classification head.
        """
        # Closed even if the caller keeps the traceback, so that the model is left as it came.
        with contextlib.closing(self.stream(message, max_new_tokens=max_new_tokens)) as pieces:
            while True:
                try:
                    piece = next(pieces)
                except StopIteration as end:
                    spoken: Spoken = end.value
                    return spoken
                if show:
                    show(piece)

    def stream(self, message: str, *, max_new_tokens: int | None = None) -> Generator[str, None, Spoken]:
        """Yield the answer of :meth:`raw` piece by piece; once it was read to its end, it is in the history."""
        member, room = self._members[self._name], max_new_tokens or self.max_new_tokens
        if member.predictor.run.recipe.model.head == "classification":
            raise RunError(f"'{self.name}' has a classification head and cannot talk. Ask its task: chat(TEXT).")
        speaker = member.speaker
        ids, dropped = speaker.prompt(self.system, self._turns, message, room)
        if dropped:
            del self._turns[:dropped]
            turns = "turn of this talk is" if dropped == 1 else f"{dropped} turns of this talk are"
            note(f"The oldest {turns} forgotten: the window of {speaker.window} tokens has no room for more.")
        tokens: list[int] = []
        words: list[str] = []
        stops = speaker.stop_ids

        def spoken() -> Generator[int, None, None]:
            for token in stream_tokens(member.loaded.model, ids, stop_ids=stops, max_new_tokens=room):
                tokens.append(token)
                if token not in stops:
                    yield token

        for piece in speaker.encoder.pieces(spoken()):
            words.append(piece)
            yield piece
        self._turns.append(Turn(message, "".join(words)))
        return Spoken("".join(words), bool(tokens) and tokens[-1] in stops, dropped)

    def clear(self) -> None:
        """Forget what was said in free talk; the system message stays."""
        self._turns.clear()

    def _row(self, text: str, columns: Mapping[str, Any]) -> Row:
        predictor = self.predictor
        record = {**columns, _TEXT: text}
        (row,) = rows_in_memory([record], predictor.run.recipe.data, predictor.encoder.task, _TEXT)
        if isinstance(row, BadRow):
            raise DataError(f"This cannot be asked about: {row.reason}. Give a text.")
        return row

    def _replies(self, predictor: Predictor, row: Row) -> Reply:
        (answer,) = answer_rows(predictor, [row])
        encoder, thresholds = predictor.encoder, predictor.thresholds
        return Reply(
            text=answer["text"],
            label=answer["label"],
            probabilities=answer["probabilities"],
            thresholds=None
            if thresholds is None
            else dict(zip(encoder.contract.labels, thresholds.tolist(), strict=True)),
            run=self.name,
            shortened=encoder.prompts([answer["text"]])[0].shortened,
        )
