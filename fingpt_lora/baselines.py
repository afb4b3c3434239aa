"""What a model has to beat: the majority class, and TF-IDF with logistic regression (scikit-learn)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from fingpt_lora.metrics import Predictions


def majority_baseline(train_labels: Sequence[str], gold: Sequence[str], labels: tuple[str, ...]) -> Predictions:
    """Always answer the most frequent training label; the probabilities are the training shares."""
    counts = Counter(train_labels)
    shares = np.array([counts[label] / len(train_labels) for label in labels])
    answer = labels[int(shares.argmax())]
    return Predictions(labels, tuple(gold), (answer,) * len(gold), np.tile(shares, (len(gold), 1)))


def tfidf_baseline(
    train_texts: Sequence[str],
    train_labels: Sequence[str],
    test_texts: Sequence[str],
    gold: Sequence[str],
    labels: tuple[str, ...],
) -> Predictions:
    """TF-IDF of words (one and two) and of character sequences, then logistic regression.

    Character sequences carry languages that are written without spaces. Nothing is tuned on the test rows.
    """
    if len(set(train_labels)) < 2:
        return majority_baseline(train_labels, gold, labels)
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    features = make_union(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, max_features=100_000),
    )
    model = make_pipeline(features, LogisticRegression(C=10.0, max_iter=1000))
    model.fit(list(train_texts), list(train_labels))
    known = model.predict_proba(list(test_texts))  # (rows, labels seen in training)
    probabilities = np.zeros((len(gold), len(labels)))
    for column, label in enumerate(model.classes_):
        probabilities[:, labels.index(label)] = known[:, column]
    answers = tuple(labels[i] for i in probabilities.argmax(axis=1))
    return Predictions(labels, tuple(gold), answers, probabilities)
