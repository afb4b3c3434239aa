"""What the figures say, in rows and sentences: one source for page, card and table."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fingpt_lora.multilabel import HALF
from fingpt_lora.report.context import LANGUAGES
from fingpt_lora.report.wording import number, percent, points

COLUMNS = {
    "accuracy": "Accuracy",
    "micro_f1": "Micro-F1",
    "weighted_f1": "Weighted F1",
    "macro_f1": "Macro-F1",
    "question_f1": "Yes/no F1",
    "trigger_f1": "Trigger F1",
    "type_f1": "Type F1",
    "role_f1": "Role F1",
    "grounded_rate": "In the text",
    "perplexity": "Perplexity",
    "bits_per_byte": "Bits per byte",
    "mcc": "MCC",
    "ece": "ECE",
}
NAMES = {
    "test": "This run",
    "base_model": "Untouched base model",
    "earlier_adapters": "Base with the earlier adapters",
    "tfidf_logreg": "TF-IDF + logistic regression",
    "persistence": "Last move goes on",
    "shuffled": "TF-IDF on shuffled labels",
    "by_heart": "What training rows named",
    "majority": "Majority label",
}
_IN_SENTENCES = {
    "base_model": "the untouched base model",
    "earlier_adapters": "the base with earlier adapters",
    "tfidf_logreg": "TF-IDF + logistic regression",
    "persistence": "the last move",
    "shuffled": "TF-IDF on shuffled labels",
    "by_heart": "what the training rows named",
    "majority": "the majority label",
}
# The folders of an absolute path: where a file lies on this machine is nobody's business elsewhere.
_FOLDERS = re.compile(r"(?<![\w.:/])(?:/[^/\s'\"]+)+/(?=[^/\s'\"])")
# Below these, or above, a reader should be told.
_FEW_TEST_ROWS, _FEW_OF_A_LABEL, _LOW_RECALL, _HIGH_ECE, _MANY = 200, 20, 0.5, 0.10, 0.01
_SHOWN = 12  # labels in one sentence


@dataclass(frozen=True)
class Result:
    """One line of an evaluation table. An interval is missing where none is computed, as for ECE."""

    key: str
    name: str
    rows: int
    values: Mapping[str, float | None]
    intervals: Mapping[str, tuple[float, float]]
    invalid_rate: float


def results(metrics: Mapping[str, Any]) -> list[Result]:
    """Return the run, its base model and baselines, in that order, as far as they were measured."""
    found = {"test": metrics.get("test"), **(metrics.get("baselines") or {})}
    keys = [*NAMES, *(key for key in found if key not in NAMES)]
    return [_result(key, NAMES.get(key, key), found[key]) for key in keys if found.get(key)]


def language_results(metrics: Mapping[str, Any]) -> list[Result]:
    """Return the run's figures per language, where the test rows are of several."""
    by_language = metrics.get("test_by_language") or {}
    return [_result("test", LANGUAGES.get(key, key), figures) for key, figures in by_language.items()]


def _result(key: str, name: str, figures: Mapping[str, Any]) -> Result:
    intervals = {figure: (low, high) for figure, (low, high) in (figures.get("intervals") or {}).items()}
    values = {column: figures.get(column) for column in COLUMNS}
    return Result(key, name, figures.get("rows", 0), values, intervals, figures.get("invalid_rate") or 0.0)


def columns(shown: list[Result]) -> dict[str, str]:
    """Return the columns that have something to show: figure -> heading."""
    return {key: title for key, title in COLUMNS.items() if any(row.values[key] is not None for row in shown)}


def labels(metrics: Mapping[str, Any]) -> list[str]:
    """Return the labels in the task's order (the keys of a JSON file come sorted by alphabet)."""
    test = metrics.get("test") or {}
    return list((test.get("confusion_matrix") or {}).get("gold") or test.get("per_class") or [])


def level(metrics: Mapping[str, Any]) -> str:
    """Return the level of the intervals, e.g. ``95 %``."""
    return percent((metrics.get("test") or {}).get("confidence") or 0.95, digits=0)


def comparisons(metrics: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (key of the baseline, paired comparison) in the order of the table."""
    compared = metrics.get("comparison") or {}
    yield from ((key, compared[key]) for key in NAMES if compared.get(key))


def headline(metrics: Mapping[str, Any]) -> str:
    """Return the result in one sentence."""
    test = metrics["test"]
    if "perplexity" in test:
        low, high = (number(bound, 2) for bound in test["intervals"]["perplexity"])
        baselines = metrics.get("baselines") or {}
        base = (baselines.get("base_model") or baselines.get("earlier_adapters") or {}).get("perplexity")
        before = f", {number(base, 2)} before training" if base else ""
        return (
            f"Perplexity {number(test['perplexity'], 2)} ({level(metrics)} interval {low} to {high}) on "
            f"{test['rows']:,} held-out documents of {test['tokens']:,} tokens{before}."
        )
    several = "micro_f1" in test
    of = "facts" if "grounded_rate" in test else "labels"
    bounds = (test.get("intervals") or {}).get("micro_f1" if several else "accuracy")
    shown = number if several else percent
    interval = f" ({level(metrics)} interval {shown(bounds[0])} to {shown(bounds[1])})" if bounds else ""
    if several:
        return (
            f"Micro-F1 {number(test['micro_f1'])}{interval} over the {of} of {test['rows']:,} test rows; all of them "
            f"right, and none too many, on {percent(test['accuracy'])} of the rows."
        )
    return f"Right on {percent(test['accuracy'])} of {test['rows']:,} test rows{interval}."


def meaning(metrics: Mapping[str, Any]) -> str:
    """Return what the columns of the table mean."""
    macro = "macro-F1 averages the labels' F1 with equal weight"
    if "perplexity" in metrics["test"]:
        return (
            "Perplexity is the exponential of the mean loss per token, lower is better; it compares models of one "
            "tokenizer, bits per byte those of any. The intervals are over resampled documents."
        )
    if "grounded_rate" in metrics["test"]:
        return (
            "An answer states facts. Accuracy asks for all of a row's facts to be right and none too many; micro-F1 is "
            f"over all facts together; {macro}; in the text is the share of stated facts whose words stand there. An "
            "answer that is not exactly in the format is invalid and states nothing."
        )
    if "micro_f1" in metrics["test"]:
        return (
            "Any number of labels may apply to a row. Accuracy asks for all of a row's labels to be right and none too "
            f"many; micro-F1 is over all labels together; {macro}; yes/no F1 reads each label as a question and "
            "averages the weighted F1 of yes and no; ECE is the average distance between a label's probability and "
            "how often it applies, 0 at best."
        )
    return (
        f"{macro[0].upper()}{macro[1:]}; MCC is 0 for guessing and 1 for perfection; ECE is the average distance "
        "between stated confidence and accuracy, 0 at best. An answer that is not exactly a label is invalid and "
        "counts as wrong."
    )


def short_differences(metrics: Mapping[str, Any]) -> list[str]:
    """Return the same as :func:`differences`, short enough for a line of a terminal."""
    return [
        f"{points(c['accuracy_difference'])} points accuracy against {_IN_SENTENCES[key]} "
        f"({points(c['interval'][0])} to {points(c['interval'][1])})"
        for key, c in comparisons(metrics)
    ]


def differences(metrics: Mapping[str, Any]) -> list[str]:
    """Return one sentence per baseline: how far the run is above or below it, and how sure that is."""
    sentences = []
    for key, compared in comparisons(metrics):
        gain, (low, high) = compared["accuracy_difference"], compared["interval"]
        side = "above" if gain >= 0 else "below"
        sentence = f"{abs(100 * gain):.1f} points {side} {_IN_SENTENCES[key]}"
        if low <= 0 <= high:
            sentence += ", which may be chance"
        sentences.append(f"{sentence} (paired interval {points(low)} to {points(high)}).")
    return sentences


def cautions(metrics: Mapping[str, Any], audit: Mapping[str, Any], shortened: int = 0) -> list[str]:
    """Return what a reader should know before trusting the figures, gravest first."""
    test = metrics["test"]
    return [
        *_against_baselines(metrics),
        *_about_the_test(test, audit),
        *_about_labels(test),
        *_about_probabilities(test),
        *[_sentence(_FOLDERS.sub("", str(warning))) for warning in audit.get("warnings") or []],
        *_about_training(_training_rows(metrics, audit), shortened),
    ]


def _against_baselines(metrics: Mapping[str, Any]) -> Iterator[str]:
    for key, compared in comparisons(metrics):
        low, high = compared["interval"]
        if high < 0:
            yield f"This run is worse than {_IN_SENTENCES[key]}."
        elif low <= 0:
            yield f"This run is not clearly better than {_IN_SENTENCES[key]}."


def _about_the_test(test: Mapping[str, Any], audit: Mapping[str, Any]) -> Iterator[str]:
    rows, accuracy = test["rows"], test.get("accuracy")
    if test.get("invalid_rate") and "grounded_rate" in test:
        yield f"{percent(test['invalid_rate'])} of the answers are not in the format, and count as stating nothing."
    elif test.get("invalid_rate"):
        yield (
            f"{percent(test['invalid_rate'])} of the answers are not a label. They count as wrong; an F1 may stand "
            "above accuracy for that reason alone."
        )
    if test.get("grounded_rate", 1.0) < 1.0:
        yield f"{percent(1 - test['grounded_rate'])} of the stated facts use words that are not in the text."
    if accuracy == 1:
        # Of n rows without an error, the 95 % upper bound of the error rate is about 3 / n.
        bound = percent(min(1.0, 3 / rows))
        yield f"No error in {rows:,} rows: by the rule of three, up to {bound} errors remain possible."
    elif accuracy is not None and rows < _FEW_TEST_ROWS:
        low, high = (test.get("intervals") or {}).get("accuracy") or (0.0, 1.0)
        yield f"Only {rows:,} test rows: accuracy is known to about ±{50 * (high - low):.0f} points."
    repeated = (audit.get("duplicates") or {}).get("within_test") or 0
    if repeated > _MANY * rows:
        yield f"{repeated:,} of the {rows:,} test rows repeat another one; each counts."
    contradicting = (audit.get("contradictions") or {}).get("test") or 0
    if contradicting > _MANY * rows:
        yield f"{contradicting:,} test texts carry several labels; no model can be right on all of them."


def _about_labels(test: Mapping[str, Any]) -> Iterator[str]:
    per_class: Mapping[str, Mapping[str, Any]] = test.get("per_class") or {}
    few = [f"{label} ({v['support']})" for label, v in per_class.items() if v["support"] < _FEW_OF_A_LABEL]
    if few:
        yield f"Few test rows of: {_some(few)}. Their own figures, and macro-F1, are uncertain."
    missed = [
        f"{label} ({percent(values['recall'], digits=0)})"
        for label, values in sorted(per_class.items(), key=lambda item: item[1]["recall"])
        if values["support"] >= _FEW_OF_A_LABEL and values["recall"] < _LOW_RECALL
    ]
    if missed:
        yield f"Less than half is found of: {_some(missed)}."
    if per_class and all(values.get("threshold") == HALF for values in per_class.values()):
        yield f"Without validation rows (data.validation_share), every label counts from a probability of {HALF:g}."


def _some(words: list[str]) -> str:
    return ", ".join(words[:_SHOWN]) + (f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else "")


def _about_probabilities(test: Mapping[str, Any]) -> Iterator[str]:
    if (test.get("ece") or 0) > _HIGH_ECE:
        gap = sum((b["confidence"] - b["accuracy"]) * b["rows"] for b in test.get("reliability") or [])
        manner = "overconfident" if gap > 0 else "underconfident" if gap < 0 else "not calibrated"
        yield f"The probabilities are {manner}: off by {100 * test['ece']:.0f} points on average (ECE)."


def _training_rows(metrics: Mapping[str, Any], audit: Mapping[str, Any]) -> int:
    # Of a mixture, the metrics know those of all tasks.
    own = (audit.get("totals") or {}).get("train") or (metrics.get("train") or {}).get("rows") or 0
    return int(own)


def _about_training(rows: int, shortened: int) -> Iterator[str]:
    if rows and shortened > _MANY * rows:
        yield f"{shortened:,} of {rows:,} training articles were shortened to fit; what was cut off is not learned."


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
