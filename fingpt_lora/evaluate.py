"""Evaluate honestly: base, adapter and two baselines on the same rows, by label scoring or by strict parsing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fingpt_lora import checkpoints, report, runs
from fingpt_lora.atomic import write_json
from fingpt_lora.beside import Answers, baselines_of
from fingpt_lora.classifier import score_classes
from fingpt_lora.console import is_main, progress_bar
from fingpt_lora.data import Row
from fingpt_lora.data.rows import NONE, labels_of
from fingpt_lora.facts import FactSets, fact_metrics, fact_sets
from fingpt_lora.generate import generate_answers
from fingpt_lora.metrics import Predictions, classification_metrics, paired_bootstrap
from fingpt_lora.multilabel import LabelSets, half, multilabel_metrics, tuned_thresholds
from fingpt_lora.perplexity import TextLosses, score_documents, text_metrics
from fingpt_lora.plan import Plan, label_sets, labels, texts, written_answers
from fingpt_lora.prompts import PromptEncoder
from fingpt_lora.recipe import dump_recipe
from fingpt_lora.scoring import score_labels
from fingpt_lora.sections import EvaluationSection
from fingpt_lora.tasks import Task, TextTask, Written
from fingpt_lora.tasks.base import Answer, OneAnswer, language_of

Said = str | Answer | None  # a label, or a written answer; None is an answer that is neither


def predict_rows(
    model: torch.nn.Module,
    encoder: PromptEncoder,
    rows: Sequence[str],
    section: EvaluationSection,
    progress: Callable[[int], None] | None = None,
) -> tuple[list[Said], np.ndarray | None]:
    """Return the label or written answer of each text, and in score mode the probabilities.

    Of a task with several labels, the probability of each by itself; its label is left to thresholds.

    Returns:
        labels of length (rows,) and probabilities of shape (rows, labels) or None in generate mode.
    """
    task = encoder.task
    if section.mode != "score":
        constrained = section.mode == "constrained"
        written = generate_answers(
            model, encoder, rows, batch_size=section.batch_size, constrained=constrained, progress=progress
        )
        if isinstance(task, Written):
            return [task.read(answer, text) for text, answer in zip(rows, written, strict=True)], None
        assert isinstance(task, OneAnswer)  # the plan sees to it
        return [task.parse(answer, task.language(text)) for text, answer in zip(rows, written, strict=True)], None
    score = score_classes if encoder.contract.template == "bare" else score_labels
    log_probs = score(model, encoder, rows, batch_size=section.batch_size, progress=progress)
    names = encoder.contract.labels
    if task.several:
        return [None] * len(rows), np.exp(log_probs)
    return [names[i] for i in log_probs.argmax(axis=1)], np.exp(log_probs)


def predict_split(plan: Plan, model: torch.nn.Module, rows: Sequence[Row], what: str | None = None) -> Answers:
    """Predict labelled rows, shared among the processes of a run; every process gets all predictions.

    Args:
        plan: task, encoder and evaluation settings.
        model: base or adapted model; under FSDP every process must take part in every forward.
        rows: rows with labels.
        what: shown beside a progress bar on rank 0; none without.
    """
    rank, world = _rank_and_world(model)
    mine = texts(rows)[rank::world]
    if isinstance(plan.task, TextTask):
        with progress_bar(what, len(mine)) as progress:
            return _all_losses(score_documents(model, plan.encoder, mine, progress), rank, world)
    with progress_bar(what, len(mine)) as progress:
        predicted, probabilities = predict_rows(model, plan.encoder, mine, plan.recipe.evaluation, progress)
    if world > 1:
        from accelerate.utils import gather_object

        gathered = gather_object([(rank, predicted, probabilities)])
        predicted = [None] * len(rows)
        merged = None if probabilities is None else np.zeros((len(rows), len(plan.contract.labels)))
        for other, part, part_probabilities in gathered:
            predicted[other::world] = part
            if merged is not None:
                merged[other::world] = part_probabilities
        probabilities = merged
    names = plan.contract.labels
    if plan.task.several:
        assert probabilities is not None  # such a task is scored
        return LabelSets(names, tuple(label_sets(rows)), probabilities, half(names))
    return gathered_answers(plan.task, names, rows, predicted, probabilities)


def _all_losses(mine: TextLosses, rank: int, world: int) -> TextLosses:
    """Return the losses of all processes' documents, in the order of the rows."""
    if world == 1:
        return mine
    from accelerate.utils import gather_object

    parts = [part for _, part in sorted(gather_object([(rank, mine)]), key=lambda one: one[0])]
    order = np.argsort(np.concatenate([np.arange(len(part.nll)) * world + i for i, part in enumerate(parts)]))
    nll, tokens, sizes = (np.concatenate([getattr(p, name) for p in parts]) for name in ("nll", "tokens", "sizes"))
    return TextLosses(nll[order], tokens[order], sizes[order])


def gathered_answers(
    task: Task, names: tuple[str, ...], rows: Sequence[Row], said: Sequence[Said], probabilities: np.ndarray | None
) -> Predictions | FactSets:
    """Return labels, or written answers, beside those of labelled rows."""
    if isinstance(task, Written):
        return fact_sets(names, written_answers(rows), [one if isinstance(one, Answer) else None for one in said])
    found = tuple(None if one is None else str(one) for one in said)
    return Predictions(names, tuple(labels(rows)), found, probabilities)


def figures(answers: Answers, *, bootstrap: int = 1000, confidence: float = 0.95) -> dict[str, Any]:
    """Return the figures of either kind of answers."""
    if isinstance(answers, LabelSets):
        return multilabel_metrics(answers, bootstrap=bootstrap, confidence=confidence)
    if isinstance(answers, TextLosses):
        return text_metrics(answers, bootstrap=bootstrap, confidence=confidence)
    if isinstance(answers, FactSets):
        return fact_metrics(answers, bootstrap=bootstrap, confidence=confidence)
    return classification_metrics(answers, bootstrap=bootstrap, confidence=confidence)


def _rank_and_world(model: torch.nn.Module) -> tuple[int, int]:
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    state = PartialState()
    # A sharded model's forward is a joint act: all processes must run the same rows.
    if state.num_processes == 1 or state.distributed_type in (
        DistributedType.FSDP,
        DistributedType.DEEPSPEED,
    ):
        return 0, 1
    return state.process_index, state.num_processes


def evaluate_base(plan: Plan, base: torch.nn.Module) -> Answers | None:
    """Score the base model on the test rows as training finds it, earlier adapters included, where the recipe asks."""
    # A classification head is random until it is trained.
    if not plan.recipe.evaluation.base_model or plan.recipe.model.head == "classification":
        return None
    with_earlier = " with the earlier adapters" if plan.recipe.model.adapters else ""
    return _answer(plan, base, f"Scoring the base model{with_earlier}")


def _answer(plan: Plan, model: torch.nn.Module, what: str) -> Answers:
    """Predict the test rows; where each label has a threshold, tuned on the validation rows."""
    own = predict_split(plan, model, plan.splits.test, what)
    if isinstance(own, LabelSets) and plan.splits.validation:
        held_out = predict_split(plan, model, plan.splits.validation, f"{what}: validation rows")
        assert isinstance(held_out, LabelSets)
        return own.with_thresholds(tuned_thresholds(held_out))
    return own


def evaluate_run(plan: Plan, model: torch.nn.Module, base: Answers | None, training: dict[str, Any]) -> dict[str, Any]:
    """Return the content of ``metrics.json``: test, baselines, comparison, train."""
    own = _answer(plan, model, "Scoring the adapter")
    section = plan.recipe.evaluation
    settings: dict[str, Any] = {"bootstrap": section.bootstrap, "confidence": section.confidence}
    metrics: dict[str, Any] = {"test": figures(own, **settings)}
    if not is_main():
        return metrics
    baselines = baselines_of(plan, own)
    if base is not None:
        baselines["earlier_adapters" if plan.recipe.model.adapters else "base_model"] = base
    metrics["baselines"] = {name: figures(p, **settings) for name, p in baselines.items()}
    metrics["comparison"] = {
        name: paired_bootstrap(own, p, bootstrap=section.bootstrap, confidence=section.confidence)
        for name, p in baselines.items()
        if not isinstance(own, TextLosses) and not isinstance(p, TextLosses)
    }
    metrics["train"] = {key: value for key, value in training.items() if key not in ("log_history", "step_seconds")}
    test_texts = texts(plan.splits.test)
    languages = {language_of(text) for text in test_texts}  # of the text, whatever language it is asked about in
    if len(languages) > 1:
        metrics["test_by_language"] = {
            language: figures(_only(own, test_texts, language), **settings) for language in sorted(languages)
        }
    return metrics


def _only(answers: Answers, test_texts: Sequence[str], language: str) -> Answers:
    rows = [i for i, text in enumerate(test_texts) if language_of(text) == language]
    if isinstance(answers, TextLosses):
        return answers.only(rows)
    if isinstance(answers, LabelSets):
        own = tuple(answers.gold[i] for i in rows)
        return LabelSets(answers.labels, own, answers.probabilities[rows], answers.thresholds)
    if isinstance(answers, FactSets):
        chosen = tuple(answers.predicted[i] for i in rows)
        return FactSets(answers.labels, tuple(answers.gold[i] for i in rows), chosen)
    probabilities = None if answers.probabilities is None else answers.probabilities[rows]
    gold = tuple(answers.gold[i] for i in rows)
    return Predictions(answers.labels, gold, tuple(answers.predicted[i] for i in rows), probabilities)


def write_run(
    plan: Plan,
    folder: Path,
    metrics: dict[str, Any],
    training: dict[str, Any],
    *,
    beside: Sequence[str] = (),
    trained: bool = True,
) -> None:
    """Write ``metrics.json``, plots, report and model card into the run folder.

    Args:
        plan: of the run, or of one task of a mixture.
        folder: of its report.
        metrics: what :func:`evaluate_run` returned.
        training: what happened in training.
        beside: the other trained tasks of a mixture.
        trained: whether this one was trained, too.
    """
    audit = plan.splits.audit.as_dict()
    write_json(folder / runs.METRICS, {**metrics, "audit": audit})
    if plan.task.several:
        thresholds = {label: own["threshold"] for label, own in metrics["test"]["per_class"].items()}
        write_json(folder / runs.THRESHOLDS, thresholds)
    examples: dict[str, list[str]] = {label: [] for label in (*plan.contract.labels, NONE)}
    for row in plan.splits.train:
        for label in labels_of(row):
            if len(examples[label]) < 3:
                examples[label].append(row.text)
    context = report.ReportContext(
        name=folder.name,
        task=plan.task.name,
        recipe_yaml=dump_recipe(plan.recipe),
        base_model=plan.recipe.model.base,
        base_licence=checkpoints.licence_of(plan.recipe.model.base, plan.checkpoint),
        data_licence=plan.splits.audit.licence,
        audit=audit,
        examples=examples,
        hardware=plan.machine.as_dict(),
        versions=runs.versions(),
        fingerprint=plan.identity,
        filled=[(item.key, item.value, item.reason) for item in plan.filled],
        shortened=plan.shortened,
        languages=[] if isinstance(plan.task, TextTask) else list(plan.contract.frames),
        method=plan.recipe.peft_type,
        classifies=plan.recipe.model.head == "classification",
        beside=beside,
        trained=trained,
    )
    report.write_report(folder, metrics, training["log_history"], context)
