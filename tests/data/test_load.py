from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fingpt_lora.data import BadRow, Row, Splits, load_labelled, load_splits, stream_rows
from fingpt_lora.data.audit import normalise
from fingpt_lora.errors import DataError
from fingpt_lora.sections import DataSection
from fingpt_lora.tasks import SentimentTask

Write = Callable[..., str]
TASK = SentimentTask(3)
LABELS = ["negative", "neutral", "positive"]
RANDOM = {"method": "random"}


def rows(count: int, start: int = 0, **more: Any) -> list[dict[str, Any]]:
    return [{"text": f"story {n}", "label": LABELS[n % 3], **more} for n in range(start, start + count)]


def load(base: Path | None = None, **section: Any) -> Splits:
    return load_splits(DataSection.model_validate(section), TASK, base_dir=base)


def sizes(splits: Splits) -> tuple[int, int, int]:
    return len(splits.train), len(splits.validation), len(splits.test)


def test_files_of_their_own(write: Write, tmp_path: Path) -> None:
    write("train.jsonl", rows(30))
    write("test.csv", "sentence,sentiment\nAnother story,positive\n")
    write("dev.json", json.dumps(rows(6, 100)))
    splits = load(tmp_path, path="train.jsonl", test="test.csv", validation="dev.json")
    assert sizes(splits) == (30, 6, 1)
    assert list(splits.audit.sources) == [str(tmp_path / name) for name in ("train.jsonl", "test.csv", "dev.json")]
    assert splits.audit.rows["train"] == {"negative": 10, "neutral": 10, "positive": 10}
    assert splits.audit.warnings == ("no test row is labelled 'negative'", "no test row is labelled 'neutral'")


def test_relative_paths_start_at_the_current_directory(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("a.jsonl", rows(30))
    monkeypatch.chdir(tmp_path)
    assert sizes(load(path="a.jsonl", split=RANDOM)) == (24, 0, 6)


def test_validation_is_carved_from_the_training_rows_by_the_same_method(write: Write, tmp_path: Path) -> None:
    days = [{**row, "day": f"2024-01-{n + 1:02}", "who": f"c{n % 5}"} for n, row in enumerate(rows(30))]
    write("a.jsonl", days)
    drawn = load(tmp_path, path="a.jsonl", split=RANDOM, validation_share=0.25)
    assert sizes(drawn) == (18, 6, 6) and set(drawn.audit.rows["validation"].values()) == {2}
    timed = load(tmp_path, path="a.jsonl", split={"method": "time", "column": "day"}, validation_share=0.25)
    newest = [max(row.fields["day"] for row in part) for part in (timed.train, timed.validation, timed.test)]
    assert newest == ["2024-01-18", "2024-01-24", "2024-01-30"]
    grouped = load(tmp_path, path="a.jsonl", split={"method": "group", "column": "who"}, validation_share=0.25)
    companies = [{row.fields["who"] for row in part} for part in (grouped.train, grouped.validation, grouped.test)]
    assert [len(part) for part in companies] == [3, 1, 1] and len(set.union(*companies)) == 5
    write("t.jsonl", rows(3, 100))
    given_test = load(tmp_path, path="a.jsonl", test="t.jsonl", validation_share=0.2)
    assert sizes(given_test) == (24, 6, 3) and set(given_test.audit.rows["validation"].values()) == {2}


def test_a_column_that_names_the_split_is_honoured(write: Write, tmp_path: Path) -> None:
    parts = [*rows(6, split="train"), *rows(3, 10, split="dev"), *rows(3, 20, split="test")]
    write("a.jsonl", parts)
    assert sizes(load(tmp_path, path="a.jsonl")) == (6, 3, 3)
    write("b.jsonl", [{"part" if key == "split" else key: value for key, value in row.items()} for row in parts])
    assert sizes(load(tmp_path, path="b.jsonl", fields={"split": "part"})) == (6, 3, 3)
    write("t.jsonl", rows(2, 50))
    other_test = load(tmp_path, path="a.jsonl", test="t.jsonl")
    assert sizes(other_test) == (6, 3, 2)  # rows marked test never become training rows
    assert "3 rows of data.path are marked test" in other_test.audit.warnings[0]
    overridden = load(tmp_path, path="a.jsonl", split=RANDOM)
    assert sizes(overridden) == (10, 0, 2) and "data.split overrides it" in overridden.audit.warnings[0]


def test_a_column_of_share_splits_is_none_of_ours(write: Write, tmp_path: Path) -> None:
    write("a.jsonl", rows(10, split="2:1"))
    assert sizes(load(tmp_path, path="a.jsonl", split=RANDOM)) == (8, 0, 2)
    with pytest.raises(DataError, match="carry no split"):
        load(tmp_path, path="a.jsonl")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({}, r"no split.*data\.test: FILE.*method: random.*method: time.*method: group"),
        ({"test": "t.jsonl", "split": RANDOM}, "keep one"),
        ({"validation": "t.jsonl", "validation_share": 0.1, "split": RANDOM}, "keep one"),
        ({"test": "a.jsonl"}, "every file of it is also named as test"),
        ({"test": "same.jsonl"}, "Every training row also stands in the test or validation rows"),
        ({"test": "t.jsonl", "validation": "t2.jsonl"}, "Every validation row also stands in the test rows"),
        ({"test": "none.jsonl"}, r"data\.test: there is no file"),
        ({"fields": {"txt": "text"}}, "Did you mean 'text'"),
        ({"labels": {0: "up"}}, "the task has no label 'up'"),
        ({"split": {"method": "random", "test": 0.0}}, "No row is for the test"),
    ],
)
def test_what_cannot_be_done_says_what_to_do(
    write: Write, tmp_path: Path, section: dict[str, Any], message: str
) -> None:
    write("a.jsonl", rows(9))
    write("same.jsonl", rows(9))
    write("t.jsonl", rows(3, 50))
    write("t2.jsonl", rows(3, 50))
    with pytest.raises(DataError, match=message):
        load(tmp_path, path="a.jsonl", **section)


def test_a_test_file_inside_the_training_folder_is_taken_out(write: Write, tmp_path: Path) -> None:
    write("news/a.jsonl", rows(9))
    write("news/test.jsonl", rows(3, 50))
    splits = load(tmp_path, path="news", test="news/test.jsonl")
    assert sizes(splits) == (9, 0, 3) and "used as data.test only" in splits.audit.warnings[0]


def test_duplicates_never_cross_and_are_counted(write: Write, tmp_path: Path) -> None:
    train = [
        *rows(6),
        {"text": "STORY 100!", "label": "neutral"},
        {"text": "story 101", "label": "neutral"},
        rows(1)[0],
    ]
    write("a.jsonl", train)
    write(
        "v.jsonl", [*rows(2, 200), {"text": "Story 102", "label": "neutral"}, {"text": "story 1?", "label": "neutral"}]
    )
    test = [*rows(3, 100), rows(1, 100)[0]]
    write("t.jsonl", test)
    splits = load(tmp_path, path="a.jsonl", test="t.jsonl", validation="v.jsonl")
    assert [row.text for row in splits.test] == [row["text"] for row in test]  # never touched
    assert sizes(splits) == (5, 3, 4)
    assert splits.audit.duplicates == {
        "train_test_exact": 1,
        "train_test_normalised": 2,
        "validation_test": 1,
        "within_train": 1,
        "within_test": 1,
    }


TABLE = st.lists(st.tuples(st.integers(0, 12), st.sampled_from(["", "!", " https://t.co/x"]), st.sampled_from(LABELS)))


@given(TABLE.filter(lambda table: len(table) > 8), st.sampled_from(["drop", "majority", "keep"]), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_whatever_is_loaded_no_text_crosses(
    tmp_path_factory: pytest.TempPathFactory, table: list[tuple[int, str, str]], policy: str, seed: int
) -> None:
    path = tmp_path_factory.mktemp("data") / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"story {n}{end}", "label": label}) + "\n" for n, end, label in table))
    section = {"path": str(path), "split": {**RANDOM, "seed": seed}, "contradictions": policy, "validation_share": 0.2}
    try:
        splits = load(**section)
    except DataError:
        return  # too little was left
    texts = [{normalise(row.text) for row in part} for part in (splits.train, splits.validation, splits.test)]
    assert not texts[0] & texts[1] and not texts[0] & texts[2] and not texts[1] & texts[2]
    assert splits == load(**section)


def test_contradictions_follow_the_policy(write: Write, tmp_path: Path) -> None:
    both = [{"text": "Twice told", "label": label} for label in ("positive", "negative", "positive")]
    write("a.jsonl", [*rows(6), *both])
    write("t.jsonl", [*rows(3, 50), {"text": "Story 50", "label": "negative"}])
    kept = {p: load(tmp_path, path="a.jsonl", test="t.jsonl", contradictions=p) for p in ("drop", "majority", "keep")}
    assert {policy: len(splits.train) for policy, splits in kept.items()} == {"drop": 6, "majority": 7, "keep": 8}
    assert kept["drop"].audit.contradictions == {"train": 1, "train_removed": 2, "test": 1, "policy": "drop"}
    with pytest.raises(DataError, match=r"several labels: .*a\.jsonl:7 \(positive\), .*a\.jsonl:8 \(negative\)"):
        load(tmp_path, path="a.jsonl", test="t.jsonl", contradictions="error")
    write("c.jsonl", both)
    with pytest.raises(DataError, match="Every training text carries several labels"):
        load(tmp_path, path="c.jsonl", test="t.jsonl")


def test_limit_takes_rows_at_even_distances(write: Write, tmp_path: Path) -> None:
    write("a.jsonl", rows(60))
    full = load(tmp_path, path="a.jsonl", split=RANDOM, validation_share=0.2)
    some = load(tmp_path, path="a.jsonl", split=RANDOM, validation_share=0.2, limit=4)
    for few, all_of_them in ((some.train, full.train), (some.validation, full.validation), (some.test, full.test)):
        places = [all_of_them.index(row) for row in few]
        steps = {after - before for before, after in itertools.pairwise(places)}
        assert len(few) == 4 and places[0] == 0 and max(steps) - min(steps) <= 1
        assert places[-1] >= len(all_of_them) * 3 // 4
    more = load(tmp_path, path="a.jsonl", split=RANDOM, validation_share=0.2, limit=60)
    assert (more.train, more.test) == (full.train, full.test)
    assert some.audit.fingerprint != full.audit.fingerprint


def test_the_fingerprint_follows_the_content_not_the_file(write: Write, tmp_path: Path) -> None:
    write("a.jsonl", rows(9))
    write("b.json", json.dumps(rows(9)))
    write("t.jsonl", rows(3, 50))
    first = load(tmp_path, path="a.jsonl", test="t.jsonl").audit.fingerprint
    assert load(tmp_path, path="b.json", test="t.jsonl").audit.fingerprint == first
    write("a.jsonl", [*rows(8), {"text": "story 8", "label": "negative"}])
    assert load(tmp_path, path="a.jsonl", test="t.jsonl").audit.fingerprint != first


def test_stream_rows_keeps_order_and_loses_nothing(write: Write) -> None:
    path = write("a.jsonl", '{"text": "one"}\nbroken\n{"text": " "}\n{"text": "two", "label": "positive"}\n')
    streamed = list(stream_rows(path, DataSection(), TASK))
    assert [(type(row), row.line) for row in streamed] == [(Row, 1), (BadRow, 2), (BadRow, 3), (Row, 4)]
    assert [row.label for row in streamed if isinstance(row, Row)] == [None, "positive"]
    required = list(stream_rows(path, DataSection(), TASK, require_label=True))
    assert [type(row) for row in required] == [BadRow, BadRow, BadRow, Row]


def test_stream_rows_reads_files_unlike_the_training_file(write: Write) -> None:
    recipe = DataSection(path="x.csv", format="csv", fields={"text": "body", "label": "tag"}, labels={"1": "positive"})
    path = write("a.txt", "Profit rose.\nProfit fell.\n")
    assert [row.text for row in stream_rows(path, recipe, TASK) if isinstance(row, Row)] == [
        "Profit rose.",
        "Profit fell.",
    ]


def test_stream_rows_streams(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "a.csv"
    with path.open("w") as stream:
        stream.write("text,label\n")
        stream.writelines(f"story number {n} of many,neutral\n" for n in range(20_000))
    tracemalloc.start()
    count = sum(1 for _ in stream_rows(str(path), DataSection(), TASK))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 20_000 and peak < 4_000_000


def test_load_labelled_returns_every_row_in_order(write: Write) -> None:
    path = write("a.csv", "text,label\nUp,positive\nUp,negative\nDown,negative\n")
    found, audit = load_labelled(path, DataSection(), TASK)
    assert [row.label for row in found] == ["positive", "negative", "negative"]
    assert audit.rows == {"test": {"negative": 2, "neutral": 0, "positive": 1}}
    assert audit.duplicates == {"within_test": 1} and audit.contradictions == {"test": 1}
    assert audit.fingerprint and audit.rows_read == 3
    with pytest.raises(DataError, match="1 of 2 rows"):
        load_labelled(write("b.csv", "text,label\nUp,positive\nUp,maybe\n"), DataSection(), TASK)


def test_a_hub_recipe_can_be_evaluated_on_a_file(write: Write) -> None:
    path = write("a.csv", "text,label\nUp,positive\n")
    assert len(load_labelled(path, DataSection(path="hub:a/b"), TASK)[0]) == 1


def test_nothing_heavy_is_imported(write: Write) -> None:
    path = write("a.csv", "text,label\n" + "".join(f"story {n},{LABELS[n % 3]}\n" for n in range(30)))
    code = f"""
import sys
from fingpt_lora.data import load_splits
from fingpt_lora.sections import DataSection
from fingpt_lora.tasks import SentimentTask
load_splits(DataSection.model_validate({{"path": {path!r}, "split": {{"method": "random"}}}}), SentimentTask(3))
heavy = {{"torch", "pandas", "numpy", "datasets", "pyarrow", "sklearn", "transformers", "charset_normalizer"}}
print(sorted(heavy & sys.modules.keys()))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
