"""What stands beside a result: majority, TF-IDF, the last move, shuffled labels, what the training rows named."""

from __future__ import annotations

from dataclasses import replace

from fingpt_lora.baselines import majority_baseline, persistence_baseline, shuffled_baseline, tfidf_baseline
from fingpt_lora.facts import FactSets
from fingpt_lora.metrics import Predictions
from fingpt_lora.multilabel import LabelSets, majority_sets, tfidf_sets, tuned_thresholds
from fingpt_lora.perplexity import TextLosses
from fingpt_lora.plan import Plan, label_sets, labels, texts, written_answers
from fingpt_lora.tasks import ForecastTask, Written

Answers = Predictions | LabelSets | FactSets | TextLosses


def baselines_of(plan: Plan, own: Answers) -> dict[str, Answers]:
    """Return what simpler means answer to the same test rows, by name.

    Args:
        plan: rows and task.
        own: the answers beside which they are to stand.
    """
    if isinstance(own, TextLosses):
        return {}
    if isinstance(own, LabelSets):
        return _set_baselines(plan)
    if isinstance(own, FactSets):
        assert isinstance(plan.task, Written)
        find = plan.task.by_heart(written_answers(plan.splits.train))
        return {"by_heart": replace(own, predicted=tuple(find(text) for text in texts(plan.splits.test)))}
    return _label_baselines(plan)


def _label_baselines(plan: Plan) -> dict[str, Answers]:
    train_labels, names = labels(plan.splits.train), plan.contract.labels
    gold, test_texts = tuple(labels(plan.splits.test)), texts(plan.splits.test)
    given = (texts(plan.splits.train), train_labels, test_texts, gold, names)
    found: dict[str, Answers] = {
        "majority": majority_baseline(train_labels, gold, names),
        "tfidf_logreg": tfidf_baseline(*given),
    }
    if isinstance(plan.task, ForecastTask):
        last = [plan.task.label_of(row.fields["last_move"]) for row in plan.splits.test if "last_move" in row.fields]
        if len(last) == len(gold):
            found["persistence"] = persistence_baseline(last, gold, names)
        found["shuffled"] = shuffled_baseline(*given)
    return found


def _set_baselines(plan: Plan) -> dict[str, Answers]:
    train, names = plan.splits.train, plan.contract.labels
    asked = [*plan.splits.test, *plan.splits.validation]
    tfidf = tfidf_sets(texts(train), label_sets(train), texts(asked), label_sets(asked), names)
    own, held_out = tfidf.parted(len(plan.splits.test))
    if held_out is not None:
        own = own.with_thresholds(tuned_thresholds(held_out))
    return {"majority": majority_sets(label_sets(train), label_sets(plan.splits.test), names), "tfidf_logreg": own}
