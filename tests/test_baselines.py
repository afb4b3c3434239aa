"""The baselines are strong enough to be worth beating, fast, and indifferent to odd data."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import numpy as np
import pytest

import fingpt_lora.data
from fingpt_lora import baselines
from fingpt_lora.baselines import (
    majority_baseline,
    persistence_baseline,
    shuffled_baseline,
    tfidf_baseline,
    tfidf_features,
)
from fingpt_lora.metrics import classification_metrics

LABELS = ("negative", "neutral", "positive")


def test_majority_answers_the_commonest_training_label_with_the_training_shares() -> None:
    result = majority_baseline(["neutral", "neutral", "positive", "neutral"], ["positive", "negative"], LABELS)
    assert result.predicted == ("neutral", "neutral")
    assert result.gold == ("positive", "negative")
    assert result.probabilities is not None
    assert result.probabilities.tolist() == [[0.0, 0.75, 0.25]] * 2


def test_majority_breaks_ties_by_the_order_of_labels() -> None:
    result = majority_baseline(["positive", "negative"], ["neutral"], LABELS)
    assert result.predicted == ("negative",)


@pytest.mark.parametrize(
    ("down", "flat", "up"),
    [
        ("profit fell", "profit was unchanged", "profit rose"),
        ("公司净利润大幅下滑", "公司净利润与去年持平", "公司净利润大幅增长"),
        ("a", "b", "c"),  # scikit-learn's own token pattern would find no token here
        ("-", "=", "+"),
    ],
)
def test_tfidf_learns_english_chinese_and_bare_signs(down: str, flat: str, up: str) -> None:
    train = [text for text in (down, flat, up) for _ in range(5)]
    train_labels = [label for label in LABELS for _ in range(5)]
    result = tfidf_baseline(train, train_labels, [up, down, flat], ["positive", "negative", "neutral"], LABELS)
    assert result.predicted == ("positive", "negative", "neutral")
    assert result.probabilities is not None
    assert np.allclose(result.probabilities.sum(axis=1), 1)


def test_a_label_without_training_rows_gets_no_probability() -> None:
    result = tfidf_baseline(
        ["profit rose", "profit fell"], ["positive", "negative"], ["unchanged"], ["neutral"], LABELS
    )
    assert result.probabilities is not None
    assert result.probabilities[0, 1] == 0
    assert result.predicted[0] != "neutral"
    assert np.isfinite(classification_metrics(result)["nll"])


def test_the_order_of_labels_is_the_tasks_not_the_alphabets() -> None:
    labels = ("positive", "neutral", "negative")
    result = tfidf_baseline(["rose", "flat", "fell"] * 4, list(labels) * 4, ["fell"], ["negative"], labels)
    assert result.predicted == ("negative",)
    assert result.probabilities is not None
    assert result.probabilities[0].argmax() == 2


@pytest.mark.parametrize("train", [["profit rose", "profit fell"], ["", "  "]])
def test_one_label_or_empty_texts_fall_back_to_the_majority(train: list[str]) -> None:
    labels = ["positive", "positive"] if train[0] else ["positive", "negative"]
    result = tfidf_baseline(train, labels, ["anything"], ["positive"], LABELS)
    assert result.probabilities is not None
    majority = majority_baseline(labels, ["positive"], LABELS)
    assert majority.probabilities is not None
    assert result.probabilities.tolist() == majority.probabilities.tolist()


def test_the_sample_is_not_solved_by_counting_words_but_words_beat_the_majority() -> None:
    path = Path(fingpt_lora.data.__file__).parent / "sample" / "sentiment.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    train = [row for row in rows if row["split"] == "train"]
    test = [row for row in rows if row["split"] == "test"]
    train_labels, gold = [row["label"] for row in train], [row["label"] for row in test]
    words = tfidf_baseline([row["text"] for row in train], train_labels, [row["text"] for row in test], gold, LABELS)
    majority = majority_baseline(train_labels, gold, LABELS)
    assert classification_metrics(words)["macro_f1"] > classification_metrics(majority)["macro_f1"] + 0.15


def test_three_thousand_short_rows_take_a_few_seconds() -> None:
    generator = random.Random(0)
    words = [f"{generator.choice('bcdfghklmnprst')}{generator.choice('aeiou')}{i:x}" for i in range(4000)]
    weights = [1 / (rank + 1) for rank in range(len(words))]  # as words are in real text (Zipf)
    labels = [LABELS[i % 3] for i in range(3000)]
    texts = [" ".join([*generator.choices(words, weights, k=18), label[:3]]) for label in labels]
    start = time.process_time()
    result = tfidf_baseline(texts, labels, texts[:500], labels[:500], LABELS)
    assert time.process_time() - start < 20  # about 2 s; the machine may be busy
    assert classification_metrics(result)["accuracy"] == 1


def test_persistence_says_the_last_move_again() -> None:
    result = persistence_baseline(["up", "down"], ["up", "up"], ("down", "up"))
    assert result.predicted == ("up", "down") and result.probabilities is None
    assert classification_metrics(result, bootstrap=100)["accuracy"] == 0.5


def test_shuffled_labels_teach_nothing() -> None:
    generator = random.Random(1)
    truth = [generator.choice(("down", "up")) for _ in range(400)]
    told = [f"it goes {label} {generator.random()}" for label in truth]
    given = (told[:300], truth[:300], told[300:], truth[300:], ("down", "up"))
    learned, shuffled = tfidf_baseline(*given), shuffled_baseline(*given)
    assert classification_metrics(learned, bootstrap=100)["accuracy"] == 1.0
    assert 0.3 < classification_metrics(shuffled, bootstrap=100)["accuracy"] < 0.7
    assert shuffled.predicted == shuffled_baseline(*given).predicted


def test_of_many_classes_the_most_frequent_features_are_weighed(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"{word} rose {number} % in region {number % 7}" for number in range(40) for word in ("Revenue", "Cost")]
    free = tfidf_features(3).fit(texts)
    monkeypatch.setattr(baselines, "_WEIGHTS", 3 * 50)
    few = tfidf_features(3).fit(texts)
    assert free.transform(texts[:1]).shape[1] > 150 and few.transform(texts[:1]).shape[1] == 2 * 50
    assert "rose" in few.transformer_list[0][1].vocabulary_
