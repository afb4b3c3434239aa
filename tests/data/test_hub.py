from __future__ import annotations

from pathlib import Path

import pytest

from fingpt_lora.data import load_splits
from fingpt_lora.data.hub import hub_records, load_hub
from fingpt_lora.errors import DataError
from fingpt_lora.sections import DataSection
from fingpt_lora.tasks import SentimentTask

datasets = pytest.importorskip("datasets")
TASK = SentimentTask(3)


def local(split: str) -> object:
    names = datasets.ClassLabel(names=["bearish", "bullish"])
    features = datasets.Features({"text": datasets.Value("string"), "label": names})
    rows = [{"text": f"{split} {n}", "label": n % 2} for n in range(4)]
    return datasets.Dataset.from_list(rows, features=features)


def test_offline_is_one_sentence_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        DataError, match=r"'nobody/nothing' \(split 'train'\) cannot be loaded.*HF_HUB_OFFLINE is set"
    ) as error:
        load_splits(DataSection(path="hub:nobody/nothing"), TASK)
    assert "\n" not in str(error.value)


def test_online_the_hint_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError, match=r"cannot be loaded: ConnectionError\. Check its name"):
        load_hub("a/b", "train")


def test_class_numbers_become_names() -> None:
    records = list(hub_records(local("train"), "hub:a/b[train]"))
    assert [(r.fields["label"], r.line) for r in records[:2]] == [("bearish", 1), ("bullish", 2)]


def test_splits_revision_and_configuration_reach_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str, config: str | None, *, revision: str | None, split: str) -> object:
        asked.append((name, config, revision, split))
        return local(split)

    monkeypatch.setattr(datasets, "load_dataset", load)
    data = DataSection(path="hub:a/b", test="eval", validation="dev", name="en", revision="abc", train_split="fit")
    splits = load_splits(data, TASK)
    assert sorted(asked) == [("a/b", "en", "abc", split) for split in ("dev", "eval", "fit")]
    assert (splits.train[0].text, splits.validation[0].text, splits.test[0].text) == ("fit 0", "dev 0", "eval 0")
    assert splits.train[0].label == "negative"
    assert splits.audit.sources == {f"hub:a/b[{split}]": "abc" for split in ("fit", "eval", "dev")}


def test_the_recipes_map_of_class_numbers_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, split, **__: local(split))
    data = DataSection.model_validate({"path": "hub:a/b", "test": "test", "labels": {0: "positive", 1: "neutral"}})
    assert [row.label for row in load_splits(data, TASK).train[:2]] == ["positive", "neutral"]


def test_a_folder_called_test_does_not_take_the_place_of_the_split(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "mine.csv").write_text("text,label\nUp,positive\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, split, **__: local(split))
    assert load_splits(DataSection(path="hub:a/b", test="test"), TASK).test[0].text == "test 0"
    assert load_splits(DataSection(path="hub:a/b", test="mine.csv"), TASK).test[0].text == "Up"
