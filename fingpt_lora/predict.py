"""Use a finished run: label texts, label a file of any size, or score a labelled file."""

from __future__ import annotations

import csv
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
import torch

from fingpt_lora import capability, checkpoints, earlier
from fingpt_lora import model as models
from fingpt_lora.batching import Progress
from fingpt_lora.beside import Answers
from fingpt_lora.console import note, quiet
from fingpt_lora.context import put_before
from fingpt_lora.contract import load_tokenizer
from fingpt_lora.data import BadRow, Row, load_labelled, stream_rows
from fingpt_lora.data.rows import NONE
from fingpt_lora.errors import DataError, RunError
from fingpt_lora.evaluate import figures, gathered_answers, predict_rows
from fingpt_lora.multilabel import LabelSets, applying
from fingpt_lora.perplexity import score_documents
from fingpt_lora.plan import label_sets, texts
from fingpt_lora.prompts import PromptEncoder
from fingpt_lora.runs import THRESHOLDS, Run, open_run
from fingpt_lora.sections import ModelSection
from fingpt_lora.tasks import TextTask, Written, build_task
from fingpt_lora.tasks.base import Answer

_CHUNK = 512  # rows read ahead: enough to sort by length, few enough for bounded memory


@dataclass
class Predictor:
    """A run with its weights loaded."""

    run: Run
    encoder: PromptEncoder
    model: torch.nn.Module
    thresholds: np.ndarray | None = None  # (labels,), where any number of them may apply

    @classmethod
    def load(cls, folder: str | Path, *, merge: bool = True) -> Predictor:
        """Open a run and load its base and adapter for this machine, merged where that is exact and ``merge`` is set.

        Raises:
            FingptLoraError: the run is unfinished, its base is missing, or a contract does not match.
        """
        run = open_run(folder)
        encoder = encoder_of(run)
        section, device = section_here(run)
        with quiet():
            model = models.load_trained(run.weights, run.recipe, section, run.contract, device=device, merge=merge)
        return cls.around(run, encoder, model)

    @classmethod
    def around(cls, run: Run, encoder: PromptEncoder, model: torch.nn.Module) -> Predictor:
        """Put a run's prompts and thresholds around a model that is loaded.

        Raises:
            RunError: the run's thresholds cannot be read.
        """
        return cls(run, encoder, model, _thresholds(run, encoder) if encoder.task.several else None)

    def predict(self, articles: Sequence[str], progress: Progress | None = None) -> list[dict[str, Any]]:
        """Return per text its ``label`` (None = no valid answer) and ``probabilities`` (label -> share).

        Of a written answer, ``label`` is what it says, as JSON types, and there are no probabilities.

        Where any number of labels may apply, ``label`` is the list of those whose probability reaches their
        threshold, and each probability stands for itself.
        """
        if isinstance(self.encoder.task, TextTask):
            raise RunError(
                f"'{self.run.folder}' has learned raw text and answers nothing. Train a task on top of it: "
                f"model.adapters: ['{self.run.folder}']."
            )
        section = self.run.recipe.evaluation
        found, probabilities = predict_rows(self.model, self.encoder, articles, section, progress)
        if isinstance(self.encoder.task, Written):
            return [{"label": one.content if isinstance(one, Answer) else None, "probabilities": None} for one in found]
        names = self.encoder.contract.labels
        if self.thresholds is not None:
            assert probabilities is not None  # such a task is scored
            return [
                {
                    "label": list(applying(row >= self.thresholds, names)),
                    "probabilities": dict(zip(names, row, strict=True)),
                }
                for row in probabilities.tolist()
            ]
        shares = [None] * len(articles) if probabilities is None else probabilities.tolist()
        return [
            {"label": label, "probabilities": None if row is None else dict(zip(names, row, strict=True))}
            for label, row in zip(found, shares, strict=True)
        ]


def encoder_of(run: Run) -> PromptEncoder:
    """Return what turns texts into a run's prompts; no weights are loaded.

    Raises:
        FingptLoraError: the base is missing, or its tokenizer or the task are not those of the contract.
    """
    return PromptEncoder(run.contract, load_tokenizer(checkpoint_of(run)), build_task(run.recipe.task))


def checkpoint_of(run: Run) -> Path:
    """Return the folder with tokenizer and chat template of a run: that of its base model, or its own if it is merged.

    Raises:
        ModelError: there is none.
    """
    if run.merged:
        return run.weights
    section = run.recipe.model
    return checkpoints.find_checkpoint(section.base, section.revision, writes=section.head != "classification")


def section_here(run: Run) -> tuple[ModelSection, str]:
    """Return a run's ``model`` section resolved for this machine, and the device.

    The machine of use decides on precision, not the one of training.

    Raises:
        RunError: an adapter below the run's own is not the one of training.
    """
    below = run.recipe.model
    if earlier.identity(below) != run.manifest.get("adapters_below", ""):
        raise RunError(
            f"An adapter below '{run.folder}' ({', '.join(below.adapters)}) is no longer the one that it was trained "
            "on. Restore it, or train again."
        )
    capability.measure()
    machine = capability.detect()
    return capability.for_inference(run.recipe, machine).model, machine.device


def _thresholds(run: Run, encoder: PromptEncoder) -> np.ndarray:
    try:
        written = json.loads((run.folder / THRESHOLDS).read_text(encoding="utf-8"))
        return np.array([float(written[label]) for label in encoder.contract.labels])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"'{run.folder / THRESHOLDS}' does not tell from which probability each label counts ({error}). Restore "
            "the file or train again."
        ) from None


def predict_file(
    predictor: Predictor, path: str, output: TextIO, kind: Literal["jsonl", "csv"], *, progress: Any = None
) -> int:
    """Label every row of a file, in order, and write one object or line per row; return how many.

    A row that cannot be read or has no text gets ``label: null`` and an ``error``, so that rows and answers
    stay side by side. Memory does not grow with the file.
    """
    names = predictor.encoder.contract.labels
    task, data = predictor.encoder.task, predictor.run.recipe.data
    rows = stream_rows(path, data, task, require_label=False)
    shown = () if isinstance(task, Written) else names
    fields = ["row", "text", "label", *(f"probability_{name}" for name in shown), "error"]
    table = csv.DictWriter(output, fields) if kind == "csv" else None
    if table:
        table.writeheader()
    count = 0
    for chunk in _chunks(rows):
        for answer in answer_rows(predictor, chunk):
            count += 1
            result = {"row": count, **answer}
            if table:
                shares = result.pop("probabilities") or {}
                if isinstance(task, Written) and result["label"] is not None:
                    result["label"] = json.dumps(result["label"], ensure_ascii=False)
                elif isinstance(result["label"], list):
                    result["label"] = ";".join(result["label"]) or NONE
                table.writerow(result | {f"probability_{name}": share for name, share in shares.items()})
            else:
                output.write(json.dumps(result, ensure_ascii=False) + "\n")
        output.flush()
        if progress:
            progress(len(chunk))
    return count


def answer_rows(
    predictor: Predictor, rows: Sequence[Row | BadRow], progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Return per row, in order, its ``text`` as it was asked about, and what :meth:`Predictor.predict` returns.

    Of a row that cannot be used, all of it is None, and ``error`` says why.
    """
    context = predictor.run.recipe.data.context
    good = put_before([row for row in rows if not isinstance(row, BadRow)], context, predictor.encoder)
    found = predictor.predict(texts(good), progress)
    answers = iter([{"text": row.text, **answer} for row, answer in zip(good, found, strict=True)])
    nothing = {"text": None, "label": None, "probabilities": None}
    return [{**nothing, "error": str(row)} if isinstance(row, BadRow) else next(answers) for row in rows]


def _chunks(rows: Iterator[Any]) -> Iterator[list[Any]]:
    while chunk := list(itertools.islice(rows, _CHUNK)):
        yield chunk


def evaluate_file(predictor: Predictor, path: str) -> dict[str, Any]:
    """Score a labelled file with the run's own field and label map and return its metrics."""
    task, section = predictor.encoder.task, predictor.run.recipe.evaluation
    data = predictor.run.recipe.data
    rows, audit = load_labelled(path, data, task)
    rows = put_before(rows, data.context, predictor.encoder)
    names = predictor.encoder.contract.labels
    answers: Answers
    if isinstance(task, TextTask):
        losses = score_documents(predictor.model, predictor.encoder, texts(rows))
        metrics = figures(losses, bootstrap=section.bootstrap, confidence=section.confidence)
        return {"data": path, "audit": audit.as_dict(), **metrics}
    found, probabilities = predict_rows(predictor.model, predictor.encoder, texts(rows), section)
    if predictor.thresholds is not None and probabilities is not None:
        answers = LabelSets(names, tuple(label_sets(rows)), probabilities, predictor.thresholds)
    else:
        answers = gathered_answers(task, names, rows, found, probabilities)
    metrics = figures(answers, bootstrap=section.bootstrap, confidence=section.confidence)
    return {"data": path, "audit": audit.as_dict(), **metrics}


def open_output(path: str | None) -> TextIO:
    """Return a stream to write results to: a file, or standard output.

    Raises:
        DataError: the file cannot be written.
    """
    if path is None:
        return sys.stdout
    try:
        return Path(path).open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise DataError(f"--output: '{path}' cannot be written: {error.strerror}.") from None


def say_done(count: int, path: str | None) -> None:
    """Tell the person where the results are, if they are not on the screen."""
    if path is not None:
        note(f"{count} rows -> {path}")
