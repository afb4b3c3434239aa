"""Public data sets as messy as they were found. They lie beside the repository on development machines only."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from fingpt_lora.data import Splits, load_splits
from fingpt_lora.data.rows import labels_of
from fingpt_lora.errors import DataError
from fingpt_lora.recipe import load_recipe
from fingpt_lora.sections import DataSection, SplitSection
from fingpt_lora.tasks import ForecastTask, SentimentTask, build_task

Real = Callable[[str], str]
TASK = SentimentTask(3)
ROOT = Path(__file__).parents[2]


def load(**section: object) -> Splits:
    return load_splits(DataSection.model_validate({"split": {"method": "random"}, **section}), TASK)


def test_phrasebank(real: Real) -> None:
    path = real("fpb/Sentences_50Agree.txt")
    seconds = []
    for _ in range(3):
        start = time.process_time()  # processor time: the tests may share their cores
        splits = load(path=path, validation_share=0.1)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.3
    audit = splits.audit
    assert audit.rows_read == 3628 and not audit.bad_rows
    assert (
        sum(sum(counts.values()) for counts in audit.rows.values())
        + sum(
            audit.duplicates[key]
            for key in ("train_test_exact", "train_test_normalised", "validation_test", "within_train")
        )
        + int(audit.contradictions["train_removed"])
        == 3628
    )


def test_tfns_needs_a_map(real: Real) -> None:
    path = real("tfns/sent_train.csv")
    with pytest.raises(DataError, match=r"data\.labels: \{0: \.\.\., 1: \.\.\., 2: \.\.\.\}"):
        load(path=path)
    splits = load(path=path, labels={0: "negative", 1: "positive", 2: "neutral"})
    assert splits.audit.rows_read == 9543 and not splits.audit.bad_rows
    assert splits.audit.duplicates["train_test_normalised"] > 10  # the same text under another shortened link


def test_finfe_contradicts_itself(real: Real) -> None:
    path = real("finfe_zh/train.jsonl")
    splits = load(path=path)
    assert splits.audit.rows_read == 16157 and int(splits.audit.contradictions["train"]) > 100
    texts = Counter(row.text for row in splits.train)
    assert max(texts.values()) == 1
    with pytest.raises(DataError, match="several labels"):
        load(path=path, contradictions="error")


def test_gold_headlines_are_tab_separated_despite_their_name(real: Real) -> None:
    path = real("gold_headlines/train.csv")
    splits = load(path=path, fields={"text": "News", "label": "Price Sentiment"}, bad_rows=0.2)
    assert splits.audit.rows_read == 8455  # one of 8456 lines continues a quoted headline
    assert all("'none'" in bad.reason for bad in splits.audit.bad_rows)
    with pytest.raises(DataError, match="carries a list of labels"):
        load(path=path)


@pytest.mark.parametrize(
    ("name", "recipe", "rows", "share"),
    [
        ("sentifm/train.jsonl", "events.yaml", 8943, 0.21),
        ("gold_headlines/train.csv", "headlines.yaml", 8455, 0.99),
        ("finre_zh/train.jsonl", "relations.yaml", 13486, None),
    ],
)
def test_the_recipes_of_other_tasks_read_their_data(
    real: Real, name: str, recipe: str, rows: int, share: float | None
) -> None:
    loaded = load_recipe(ROOT / "recipes" / recipe, [f"data.path={real(name)}"])
    task = build_task(loaded.task)
    splits = load_splits(loaded.data, task)
    assert splits.audit.rows_read == rows and not splits.audit.bad_rows
    seen = {label for row in splits.train for label in labels_of(row)}
    assert set(task.labels) <= seen | {"constant"}
    if share is None:
        assert all(" → " in row.text.splitlines()[0] for row in splits.test)
    else:
        assert sum(bool(row.label) for row in splits.test) / len(splits.test) == pytest.approx(share, abs=0.02)


def test_rows_of_finese_tell_events_of_their_text(real: Real) -> None:
    loaded = load_recipe(ROOT / "recipes" / "event_subjects.yaml", [f"data.path={real('finese_zh/train.jsonl')}"])
    splits = load_splits(loaded.data, build_task(loaded.task))
    assert splits.audit.rows_read == 14252
    assert len(splits.audit.bad_rows) == 2
    assert all("of its events does not stand in the text" in bad.reason for bad in splits.audit.bad_rows)
    told = [labels_of(row) for row in (*splits.train, *splits.test)]
    assert len(told) == len({row.text for row in (*splits.train, *splits.test)})
    assert any(len(labels) > 3 for labels in told) and 0.15 < told.count(("none",)) / len(told) < 0.25


def test_stocknet_is_read_as_it_stands_and_holds_no_leak(real: Real) -> None:
    split = SplitSection(method="time", column="date", test=0.2)
    data = DataSection(path=real("stocknet/train_dev.jsonl.gz"), split=split)
    splits = load_splits(data, ForecastTask())
    assert splits.audit.rows_read == 16060 and not splits.audit.bad_rows
    first, last = splits.train[0], splits.test[-1]
    assert first.text.startswith("AAPL, 2014-01-02\nPast moves: -0.4%")
    assert max(row.fields["date"] for row in splits.train) < min(row.fields["date"] for row in splits.test)
    assert last.label == ForecastTask().label_of(last.fields["move"])


@pytest.mark.parametrize("name", ["finre_zh/train.jsonl", "tatqa/tatqa_dataset_dev.json", "sec_ner/FIN5.txt"])
def test_data_for_other_tasks_is_refused_in_one_sentence(real: Real, name: str) -> None:
    with pytest.raises(DataError, match="None of the") as error:
        load(path=real(name))
    assert "\n" not in str(error.value)
