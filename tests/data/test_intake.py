from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fingpt_lora.data.intake import Intake, make_row
from fingpt_lora.data.labels import LabelMap
from fingpt_lora.data.layouts import Layout
from fingpt_lora.data.rows import BadRow, Record, Row
from fingpt_lora.data.sources import open_sources
from fingpt_lora.errors import DataError
from fingpt_lora.sections import DataSection
from fingpt_lora.tasks import SentimentTask

Write = Callable[..., str]
LABELS = LabelMap({}, SentimentTask(3).aliases)


def row_of(require_label: bool = True, **fields: object) -> Row | BadRow:
    return make_row(Record(fields, "a.csv", 7), Layout("auto", {}), LABELS, require_label)[0]


def intake(**settings: object) -> Intake:
    data = DataSection.model_validate(settings)
    return Intake(data, LabelMap(data.labels, SentimentTask(3).aliases), Layout(data.layout, data.fields))


def test_a_row_knows_where_it_comes_from() -> None:
    row = row_of(text=" Profit rose. ", label="Positive", lang="EN", id=3)
    assert row == Row(
        "Profit rose.",
        "positive",
        "a.csv",
        7,
        "en",
        {"text": " Profit rose. ", "label": "Positive", "lang": "EN", "id": 3},
    )


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"text": "  ", "label": "positive"}, "it has no text"),
        ({"text": None, "label": "positive"}, "it has no text"),
        ({"text": 7, "label": "positive"}, "its text is not a text but 7"),
        ({"text": "cut \ud83d", "label": "positive"}, "half a character"),
        ({"text": "Up", "label": "postive"}, "Did you mean 'positive'?"),
        ({"text": "Up", "label": ""}, "it has no label"),
        ({"text": "Up", "move": 1}, "looks like the label"),
    ],
)
def test_what_is_no_row_says_why(fields: dict[str, object], reason: str) -> None:
    bad = row_of(**fields)
    assert isinstance(bad, BadRow) and reason in bad.reason and bad.line == 7


def test_without_need_of_a_label_anything_goes() -> None:
    for label, expected in (("positive", "positive"), ("postive", None), (3, None), (None, None)):
        row = row_of(require_label=False, text="Up", label=label)
        assert isinstance(row, Row) and row.label == expected


def test_bad_rows_above_the_tolerance_are_shown(write: Write) -> None:
    lines = ["text,label", *["Up,positive"] * 14, *["Up,maybe"] * 6]
    path = write("a.csv", "\n".join(lines) + "\n")
    with pytest.raises(DataError) as error:
        intake(bad_rows=0.2).read(open_sources(path, DataSection()), "data.path")
    message = str(error.value)
    assert f"6 of 20 rows of '{path}' cannot be used" in message
    assert [f"{path}:{n}: unknown label 'maybe'" in message for n in range(16, 22)] == [True] * 5 + [False]
    assert "... and 1 more" in message and "data.bad_rows: 0.5 (now 0.2)" in message
    account = intake(bad_rows=0.3)
    assert len(account.read(open_sources(path, DataSection()), "data.path")) == 14
    audit = account.audit({"train": []}, {}, {})
    assert audit.rows_read == 20 and [bad.line for bad in audit.bad_rows] == list(range(16, 22))


def test_what_is_wrong_with_every_row_is_said_once(write: Write) -> None:
    path = write("a.csv", "text,tag\nUp,positive\nDown,negative\n")
    with pytest.raises(DataError, match=r"None of the 2 rows .* looks like the label") as error:
        intake().read(open_sources(path, DataSection()), "data.path")
    assert "\n" not in str(error.value)


def test_numbers_without_a_map_are_shown_with_a_text_of_each(write: Write) -> None:
    path = write("a.csv", "text,label\nDown,0\nUp,1\nFlat,2\nUp again,1\n")
    with pytest.raises(DataError, match=r"0: Down\n  1: Up\n  2: Flat\n.*\{0: \.\.\., 1: \.\.\., 2: \.\.\.\}"):
        intake(bad_rows=0.99).read(open_sources(path, DataSection()), "data.path")
    rows = intake(labels={0: "negative", 1: "positive", 2: "neutral"}).read(
        open_sources(path, DataSection()), "data.path"
    )
    assert [row.label for row in rows] == ["negative", "positive", "neutral", "positive"]


def test_empty_files_are_named(write: Write, tmp_path: Path) -> None:
    write("a.csv", "text,label\n")
    with pytest.raises(DataError, match=r"data\.test: '.*a\.csv' holds no rows"):
        intake().read(open_sources("a.csv", DataSection(), base_dir=tmp_path), "data.test")
    write("b.csv", "text,label\nUp,positive\n")
    account = intake()
    account.read(open_sources(("a.csv", "b.csv"), DataSection(), base_dir=tmp_path), "data.path")
    assert account.warnings == [f"'{tmp_path / 'a.csv'}' holds no rows"]


def test_one_source_of_unknown_licence_leaves_the_whole_unknown(write: Write, tmp_path: Path) -> None:
    write("a.csv", "text,label\nUp,positive\n")
    sample, both = intake(), intake()
    sample.read(open_sources("sample", DataSection()), "data.path")
    assert sample.audit({}, {}, {}).licence == "cc0-1.0"
    both.read(open_sources(("sample", "a.csv"), DataSection(), base_dir=tmp_path), "data.path")
    assert both.audit({}, {}, {}).licence is None
