"""Ask a run that is served somewhere, by any OpenAI-compatible engine, in the exact words of its contract."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fingpt_lora.context import put_before
from fingpt_lora.data import BadRow, rows_in_memory
from fingpt_lora.errors import DataError, PromptError, RunError
from fingpt_lora.plan import texts
from fingpt_lora.predict import encoder_of
from fingpt_lora.reply import Reply
from fingpt_lora.runs import Run, open_run
from fingpt_lora.tasks import TextTask, Written
from fingpt_lora.tasks.base import OneAnswer

if TYPE_CHECKING:
    from openai import OpenAI

_TEXT = "text"


class Client:
    """A served run.

    ::

        client = Client("runs/sentiment-merged")          # its contract; the weights are elsewhere
        client("Nokia's profit fell 20 %").label          # strictly read; None where the answer is none

    Prompts go as token ids where the engine takes them (vLLM, llama.cpp), so that nothing in an article can be a
    control token; else as text, in which such words are broken by a space.
    """

    def __init__(
        self, run: str | Path, url: str = "http://127.0.0.1:8000", *, model: str | None = None, timeout: float = 120.0
    ) -> None:
        """Read a run's contract; nothing is asked yet.

        Args:
            run: its folder.
            url: of the server, without ``/v1``.
            model: its name there; by default, that of the folder, as ``fingpt-lora serve`` names it.
            timeout: of a request, in seconds.

        Raises:
            RunError: the run asks nothing, or the package openai is missing.
        """
        try:
            from openai import OpenAI
        except ImportError:
            raise RunError("The client needs the package openai: pip install 'fingpt-lora[serve]'.") from None
        self._run: Run = open_run(run)
        self._encoder = encoder_of(self._run)
        if isinstance(self._encoder.task, TextTask) or self._run.recipe.model.head == "classification":
            raise RunError(f"'{run}' writes no answers, so there is nothing to ask a server.")
        self._url, self._model = url.rstrip("/"), model or self._run.folder.resolve().name
        self._openai: OpenAI = OpenAI(base_url=f"{self._url}/v1", api_key="none", timeout=timeout, max_retries=0)
        self._takes_ids = True

    def __call__(self, text: str, **columns: Any) -> Reply:
        """Ask the run's task about a text.

        Args:
            text: the article.
            columns: what else a row of the run has, as ``question=...``.

        Returns:
            the answer; engines do not tell probabilities of labels.

        Raises:
            DataError: there is no text.
            RunError: the server cannot be reached, or refuses.
        """
        task, data = self._encoder.task, self._run.recipe.data
        (row,) = rows_in_memory([{**columns, _TEXT: text}], data, task, _TEXT)
        if isinstance(row, BadRow):
            raise DataError(f"This cannot be asked about: {row.reason}. Give a text.")
        (asked,) = texts(put_before([row], data.context, self._encoder))
        (prompt,) = self._encoder.prompts([asked])
        return Reply(row.text, self._label(asked, prompt.ids), run=self._model, shortened=prompt.shortened)

    def _label(self, asked: str, ids: list[int]) -> Any:
        encoder, contract = self._encoder, self._encoder.contract
        task, language = encoder.task, encoder.task.language(asked)
        if task.several:
            yes, _ = contract.frames[language].verdicts or ("", "")
            room = max(map(len, encoder.verdict_ids(language)))
            return [
                label
                for label, question in encoder.answer_ids(language).items()
                if self._continued([*ids, *question], room).strip() == yes.strip()
            ]
        longest = max((len(own) for own in encoder.answer_ids(language).values()), default=0)
        written = self._continued(ids, contract.answer_tokens or longest + 4)
        if isinstance(task, Written):
            answer = task.read(written, asked)
            return answer.content if answer is not None else None
        assert isinstance(task, OneAnswer)  # what is left of tasks
        return task.parse(written, language)

    def _continued(self, ids: list[int], room: int) -> str:
        """Return the greedy continuation of a prompt."""
        from openai import APIConnectionError, APIStatusError, BadRequestError

        if self._takes_ids:
            try:
                return self._complete(ids, room)
            except BadRequestError:
                self._takes_ids = False  # transformers serve wants text
            except (APIConnectionError, APIStatusError) as error:
                raise self._failed(error) from None
        try:
            return self._complete(self._as_text(ids), room)
        except (APIConnectionError, APIStatusError) as error:
            raise self._failed(error) from None

    def _complete(self, prompt: str | list[int], room: int) -> str:
        given: Any = prompt
        found = self._openai.completions.create(model=self._model, prompt=given, max_tokens=room, temperature=0)
        return found.choices[0].text

    def _failed(self, error: Exception) -> RunError:
        body = getattr(error, "body", None)
        detail = body.get("detail") or body.get("message") if isinstance(body, dict) else None
        if detail is None:
            return RunError(f"No server answers at {self._url}. Start one: fingpt-lora serve {self._run.folder}")
        return RunError(f"The server at {self._url} refuses: {detail}")

    def _as_text(self, ids: list[int]) -> str:
        """Return the text that the engine's tokenizer reads as the prompt; a space breaks control tokens."""
        tokenizer, contract = self._encoder.tokenizer, self._encoder.contract
        whole = self._encoder.text(ids)
        if tokenizer.encode(whole, add_special_tokens=True).ids == ids:
            return whole
        first = self._encoder.text(ids[:1])
        if tokenizer.encode(whole.removeprefix(first), add_special_tokens=True).ids == ids:
            return whole.removeprefix(first)  # a BOS token, which the engine puts there itself
        frame = next(
            (f for f in contract.frames.values() if whole.startswith(f.before) and whole.endswith(f.after)), None
        )
        if frame is None:
            raise PromptError(
                "This prompt cannot be sent as text. Use an engine that takes token ids (vLLM, llama.cpp)."
            )
        article = whole[len(frame.before) : len(whole) - len(frame.after)]
        for word in self._encoder.control_words():
            article = article.replace(word, f"{word[0]} {word[1:]}")
        return f"{frame.before}{article}{frame.after}"
