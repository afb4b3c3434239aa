from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from fingpt_lora.data.encodings import encoding_of, open_text, undecodable
from fingpt_lora.errors import DataError

ENGLISH = "text,label\nProfit rose at the café in Zürich by 5%,positive\nShares of Citroën fell,negative\n"
CHINESE = "text,label\n公司净利润同比增长三成，订单饱满。,positive\n董事会将于周四召开会议。,neutral\n"
Write = Callable[..., str]


@pytest.mark.parametrize(
    ("text", "written", "decided"),
    [
        (ENGLISH, "utf-8", "utf-8"),
        (ENGLISH, "utf-8-sig", "utf-8-sig"),
        (ENGLISH, "utf-16", "utf-16"),
        (ENGLISH, "utf-16-le", "utf-16-le"),
        (ENGLISH, "utf-16-be", "utf-16-be"),
        (ENGLISH, "utf-32", "utf-32"),
        (ENGLISH, "latin-1", "latin-1"),
        (ENGLISH.replace("by 5%", "– “up”"), "cp1252", "cp1252"),
        (CHINESE, "utf-8", "utf-8"),
        (CHINESE, "gb18030", "gb18030"),
        (CHINESE, "gb2312", "gb18030"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_the_encoding_is_found(write: Write, text: str, written: str, decided: str, zipped: bool) -> None:
    content = text.encode(written)
    path = Path(write("news.csv.gz" if zipped else "news.csv", gzip.compress(content) if zipped else content))
    assert encoding_of(path) == decided
    with open_text(path, decided) as stream:
        assert stream.read() == text


def test_big5_is_left_to_the_statistics(write: Write) -> None:
    text = "營收創下歷史新高，董事會決議發放現金股利。\n公司今年獲利衰退，股價下跌，市場信心不足。\n" * 20
    path = Path(write("news.txt", text, "big5"))
    assert text.encode("big5").decode(encoding_of(path)) == text


def test_one_accent_after_a_megabyte_is_seen(write: Write) -> None:
    path = Path(write("news.csv", b"plain,neutral\n" * 100_000 + "Société,neutral\n".encode("latin-1")))
    assert encoding_of(path) == "latin-1"
    assert encoding_of(path, otherwise="cp1250") == "cp1250"


def test_a_character_may_straddle_two_blocks(write: Write) -> None:
    path = Path(write("news.csv", "a" * ((1 << 20) - 1) + "利"))
    assert encoding_of(path) == "utf-8"


def test_the_first_line_that_cannot_be_decoded_is_named(write: Write) -> None:
    path = Path(write("news.csv", b"text\nfine\ncaf\xe9\n"))
    error = undecodable(path, "utf-8")
    assert "news.csv:3: this is not utf-8 text" in str(error) and "data.encoding" in str(error)


@pytest.mark.parametrize("name", ["utf-9", "base64", "rot13"])
def test_unknown_encodings_are_refused(write: Write, name: str) -> None:
    with pytest.raises(DataError, match=f"no text encoding '{name}'"):
        open_text(Path(write("news.csv", "text\n")), name)


def test_a_mark_is_skipped_under_the_name_utf_8_too(write: Write) -> None:
    with open_text(Path(write("news.csv", "text\n", "utf-8-sig")), "UTF8") as stream:
        assert stream.read() == "text\n"
