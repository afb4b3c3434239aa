from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from fingpt_lora.data.market import read_filings, read_news, read_prices
from fingpt_lora.errors import DataError

NEW_YORK = ZoneInfo("America/New_York")


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text", "ticker", "adjusted"),
    [
        ("ACME.csv", "Date,Open,Close,Adj Close\n2024-05-03,1,20,10\n2024-05-02,1,16,8\n", "ACME", True),  # yfinance
        ("x.csv", "<TICKER>,<DATE>,<CLOSE>\nACME,20240502,8\nACME,20240503,10\n", "ACME", False),  # Stooq
        ("x.jsonl", '{"symbol": "ACME", "timestamp": "2024-05-02T00:00:00", "close": 8}\n{"symbol": "ACME", "timestamp": "2024-05-03T00:00:00", "close": "10"}\n', "ACME", False),
        ("x.csv", "日期,股票代码,收盘\n2024-05-02,600519,8\n2024-05-03,600519,10\n", "600519", False),
    ],
)  # fmt: skip
def test_prices_of_several_vendors(tmp_path: Path, name: str, text: str, ticker: str, adjusted: bool) -> None:
    series = read_prices([write(tmp_path, name, text)])[ticker]
    assert series.days == (date(2024, 5, 2), date(2024, 5, 3)) and series.closes == (8.0, 10.0)
    assert series.adjusted is adjusted and series.move(0, 1) == 0.25


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Date,Price in euro\n2024-05-02,1\n", "no column that looks like the close"),
        ("Date,Close\n05/02/2024,1\n", "x.csv:2: '05/02/2024' in column 'Date' is not a date"),
        ("Date,Close\n2024-05-02,-1\n", "x.csv:2: the price -1"),
        ("Date,Close\n2024-05-02,n/a\n", "x.csv:2: 'n/a' in column 'Close' is not a number"),
        ("Date,Close\n2024-05-02,1\n2024-05-02,2\n", "x.csv:3: x has two prices on 2024-05-02"),
        ("Date,Close\n", "holds no prices"),
    ],
)
def test_prices_that_are_none(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(DataError) as caught:
        read_prices([write(tmp_path, "x.csv", text)])
    assert problem in str(caught.value)


def test_a_day_without_trade_is_left_out(tmp_path: Path) -> None:
    series = read_prices([write(tmp_path, "x.csv", "Date,Close\n2024-05-01,\n2024-05-02,1\n")])["x"]
    assert series.days == (date(2024, 5, 2),)


def test_a_story_without_a_time_is_known_when_its_day_is_over(tmp_path: Path) -> None:
    lines = "ticker,date,headline\nACME,2024-05-02,Orders  doubled\nACME,2024-05-01T15:30:00,Talks\nACME,2024-05-01T15:30:00Z,Earlier\n"
    earlier, talks, orders = read_news([write(tmp_path, "news.csv", lines)], NEW_YORK)["ACME"]
    assert orders.available_at == datetime(2024, 5, 3, tzinfo=NEW_YORK) and orders.text == "Orders doubled"
    assert talks.available_at == datetime(2024, 5, 1, 19, 30, tzinfo=UTC)  # the exchange's clock
    assert earlier.text == "Earlier" and earlier.line == 4


def test_statements_are_known_by_their_filing_date(tmp_path: Path) -> None:
    text = "ticker,period_end,filed,revenue,eps\nACME,2024-03-31,2024-05-02,12,\n"
    (fact,) = read_filings([write(tmp_path, "f.csv", text)], NEW_YORK)["ACME"]
    assert fact.available_at == datetime(2024, 5, 3, tzinfo=NEW_YORK)
    assert fact.text == "period_end 2024-03-31; revenue 12" and fact.kind == "filing"


def test_a_period_is_no_filing_date(tmp_path: Path) -> None:
    path = write(tmp_path, "f.csv", "ticker,period_end,revenue\nACME,2024-03-31,12\n")
    with pytest.raises(
        DataError, match=r"f.csv:2: no column says when the statement was filed \('period_end' is the period"
    ):
        read_filings([path], NEW_YORK)
