"""What a model has to beat: the majority class, TF-IDF with logistic regression, and for forecasts the last move."""

from __future__ import annotations

import random
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from fingpt_lora.metrics import Predictions

# One token: a Han character or kana (written without spaces), a run of other letters and digits, or a single sign,
# because in this trade "%", "-" and "$" mean something.
_CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_TOKEN = rf"[{_CJK}]|[^\W_{_CJK}]+|[^\w\s]|_"
_WEIGHTS = 1_000_000  # of each kind of features: 300,000 features for three classes


def majority_baseline(train_labels: Sequence[str], gold: Sequence[str], labels: tuple[str, ...]) -> Predictions:
    """Always answer the most frequent training label; the probabilities are the training shares.

    Of equally frequent labels the first in the task's order is taken.
    """
    counts = Counter(train_labels)
    shares = np.array([counts[label] / len(train_labels) for label in labels])
    answer = labels[int(shares.argmax())]
    return Predictions(labels, tuple(gold), (answer,) * len(gold), np.tile(shares, (len(gold), 1)))


def persistence_baseline(last: Sequence[str], gold: Sequence[str], labels: tuple[str, ...]) -> Predictions:
    """Answer that a share goes on as it last went.

    Args:
        last: per row the label of the last move that was known.
        gold: the right labels.
        labels: the task's labels, in its order.
    """
    return Predictions(labels, tuple(gold), tuple(last), None)


def shuffled_baseline(
    train_texts: Sequence[str],
    train_labels: Sequence[str],
    test_texts: Sequence[str],
    gold: Sequence[str],
    labels: tuple[str, ...],
    *,
    seed: int = 0,
) -> Predictions:
    """Train :func:`tfidf_baseline` on shuffled labels: what it reaches, chance reaches.

    A figure above that of the majority class would say that the test can be had without learning anything.
    """
    shuffled = list(train_labels)
    random.Random(seed).shuffle(shuffled)
    return tfidf_baseline(train_texts, shuffled, test_texts, gold, labels)


def tfidf_baseline(
    train_texts: Sequence[str],
    train_labels: Sequence[str],
    test_texts: Sequence[str],
    gold: Sequence[str],
    labels: tuple[str, ...],
) -> Predictions:
    """TF-IDF of words (one and two) and of character sequences (2 to 5), then logistic regression.

    Character sequences carry inflection, typing errors and languages written without spaces. Nothing is tuned
    on the test rows; nor does C need it: on Financial PhraseBank (50 % agreement, 2,721 training rows) accuracy
    is 0.76 to 0.77 for every C from 1 to 100. One thread; about 2 s for 3,000 sentences.

    Args:
        train_texts: training texts.
        train_labels: their labels. A label without training rows gets probability 0; where there is only one
            label, or no text with anything in it, the majority baseline is returned.
        test_texts: texts to label.
        gold: their right labels, which only travel into the result.
        labels: the task's labels, in its order.
    """
    if len(set(train_labels)) < 2 or not any(text.strip() for text in train_texts):
        return majority_baseline(train_labels, gold, labels)
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.pipeline import make_pipeline
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # scikit-learn requires it

    model = make_pipeline(tfidf_features(len(set(train_labels))), tfidf_regression())
    # The optimizer's vectors are short: on a busy machine, waiting for a second thread makes it six times slower.
    # A thousand steps are ample; a last digit that is not settled is nothing to tell the user about.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(list(train_texts), list(train_labels))
        known = model.predict_proba(list(test_texts))  # (rows, labels seen in training)
    probabilities = np.zeros((len(gold), len(labels)))
    probabilities[:, [labels.index(label) for label in model.classes_]] = known
    answers = tuple(labels[i] for i in probabilities.argmax(axis=1))
    return Predictions(labels, tuple(gold), answers, probabilities)


def tfidf_features(classes: int = 2) -> Any:
    """Return the features of the TF-IDF baselines: words and pairs of them, and sequences of characters.

    Args:
        classes: each of them weighs every feature. Of forty, only the most frequent features are taken: more would take
            minutes and gigabytes.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_union

    most = _WEIGHTS // classes
    return make_union(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=_TOKEN, max_features=most),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, max_features=most),
    )


def tfidf_regression() -> Any:
    """Return the classifier of the TF-IDF baselines."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=10.0, max_iter=1000)
