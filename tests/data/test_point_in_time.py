from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingpt_lora.data import load_splits
from fingpt_lora.data.leaks import leaks_of, overlaps
from fingpt_lora.data.market import Fact, Series
from fingpt_lora.data.point_in_time import Window, market_rows, point_in_time_rows, purge
from fingpt_lora.data.rows import Row
from fingpt_lora.errors import DataError
from fingpt_lora.sections import DataSection, MarketSection, SplitSection
from fingpt_lora.tasks.forecast import ForecastTask

START = date(2024, 1, 1)


def close_of(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, 21, tzinfo=UTC)


def prices(closes: list[float], ticker: str = "ACME") -> Series:
    return Series(ticker, tuple(START + timedelta(days=i) for i in range(len(closes))), tuple(closes), True)


def story(text: str, when: datetime) -> Fact:
    return Fact("news", text, when, "news.csv", 2)


def rows_of(series: Series, window: Window, *facts: Fact) -> list[Row]:
    news = {series.ticker: sorted(facts, key=lambda fact: fact.available_at)}
    return list(point_in_time_rows({series.ticker: series}, news, {}, close_of, ForecastTask().label_of, window))


def test_a_row_tells_what_was_known_and_is_labelled_by_what_came_after() -> None:
    at_close = story("Known at the close", close_of(START + timedelta(days=2)))
    after = story("Known a second later", close_of(START + timedelta(days=2)) + timedelta(seconds=1))
    first, second = rows_of(prices([10, 10, 11, 12, 9]), Window(moves=2), at_close, after)
    assert first.text == "ACME, 2024-01-03\nPast moves: +0.0%, +10.0%\n2024-01-03: Known at the close"
    assert first.label == "up" and first.fields["move"] == pytest.approx(1 / 11)
    assert second.label == "down" and "Known a second later" in second.text
    assert second.text.index("second later") < second.text.index("at the close")  # the newest survives shortening


def test_old_stories_are_no_news_and_a_filing_stays() -> None:
    series = prices([10.0] * 30)
    old = Fact("filing", "revenue 12", datetime(2024, 1, 2, tzinfo=UTC), "f.csv", 2)
    rows = list(
        point_in_time_rows(
            {"ACME": series},
            {"ACME": [story("Long ago", datetime(2024, 1, 2, tzinfo=UTC))]},
            {"ACME": [old]},
            close_of,
            ForecastTask().label_of,
            Window(moves=0, days=5),
        )
    )
    assert "Long ago" in rows[2].text and "Long ago" not in rows[-1].text
    assert "Filed 2024-01-02: revenue 12" in rows[-1].text and "revenue" not in rows[0].text


STORIES = st.lists(st.integers(0, 24 * 30), max_size=12)


@given(STORIES, st.integers(1, 5), st.integers(1, 4), st.integers(0, 6))
def test_no_row_knows_too_early(hours: list[int], horizon: int, every: int, moves: int) -> None:
    facts = [story(f"Story {n}", datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=h)) for n, h in enumerate(hours)]
    rows = rows_of(prices([10.0 + n % 3 for n in range(25)]), Window(horizon, every, moves), *facts)
    assert rows and not [leak for row in rows for leak in leaks_of(row)]


@given(st.integers(1, 6), st.integers(2, 20), st.integers(0, 5))
def test_purged_rows_never_meet_the_test(horizon: int, tested: int, embargo: int) -> None:
    rows = rows_of(prices([10.0 + n % 3 for n in range(40)]), Window(horizon, moves=0))
    train, test = rows[:-tested], rows[-tested:]
    kept = purge(train, test, timedelta(days=embargo))
    assert not list(overlaps(kept, test))
    assert len(train) - len(kept) == min(len(train), horizon - 1 + embargo)
    assert purge(train, []) == train


def test_unpurged_rows_are_seen() -> None:
    rows = rows_of(prices([10.0] * 20), Window(horizon=3, moves=0))
    assert len(list(overlaps(rows[:-5], rows[-5:]))) == 2


def test_masked_rows_name_neither_share_nor_day() -> None:
    fact = story("On 3 January 2024 Acme Corp. said that ACMEX is no ACME. 阿克姆公司", close_of(START))
    news = {"ACME": [fact]}
    (row, *_) = point_in_time_rows(
        {"ACME": prices([10.0] * 4)}, news, {}, close_of, ForecastTask().label_of, Window(moves=0),
        {"ACME": ("Acme Corp.", "阿克姆")},
    )  # fmt: skip
    assert row.text == "[COMPANY], [DATE]\n[DATE]: On [DATE] [COMPANY] said that ACMEX is no [COMPANY]. [COMPANY]公司"
    assert row.fields["facts"][0]["text"] == fact.text and not list(leaks_of(row))


def test_real_prices_of_a_package_become_rows_at_the_closes_of_their_exchange() -> None:
    pytest.importorskip("exchange_calendars")
    data = DataSection(
        path="package:bokeh-sampledata/stocks.csv.gz",
        market=MarketSection(every=10, moves=10),
        split=SplitSection(method="time", column="date", test=0.25),
    )
    task = ForecastTask("direction", 15)  # longer than the time between two decisions, so windows overlap
    assert data.market is not None
    market = data.market
    splits = load_splits(data, task, build=lambda files: market_rows(files, market, task.horizon, task.label_of))
    assert {row.fields["ticker"] for row in splits.train} == {"AAPL", "IBM", "MSFT", "GOOG"}  # FB came later
    assert not list(overlaps(splits.train, splits.test)) and len(splits.train) > 800
    # Thanksgiving's Friday ends early; the others at four in New York, which is 20 or 21 UTC.
    hours = Counter(row.fields["decided_at"][11:16] for row in splits.train)
    assert set(hours) <= {"20:00", "21:00", "18:00"} and hours["20:00"] > hours["21:00"] > 0
    assert any("purged" in warning for warning in splits.audit.warnings)
    # Apple's two for one of 28 February 2005 is no fall by half.
    around = [row for row in splits.train if row.fields["ticker"] == "AAPL" and row.fields["date"][:6] == "2005-0"]
    assert len(around) > 10 and all(abs(row.fields["move"]) < 0.3 for row in around)


def test_what_stands_in_the_way_of_a_market_is_said(tmp_path: Path) -> None:
    pytest.importorskip("exchange_calendars")
    prices_file = tmp_path / "ACME.csv"
    prices_file.write_text("Date,Close\n2024-01-01,1\n2024-01-02,2\n2024-01-03,3\n")
    label_of = ForecastTask().label_of
    with pytest.raises(DataError, match="there is no exchange 'XXXX'"):
        market_rows([prices_file], MarketSection(calendar="XXXX"), 1, label_of)
    with pytest.raises(DataError, match="a price on 2024-01-01, when XNYS had no session"):
        market_rows([prices_file], MarketSection(moves=0), 1, label_of)
    with pytest.raises(DataError, match="3 days of prices leave no row"):
        market_rows([prices_file], MarketSection(moves=5), 1, label_of)
    with pytest.raises(DataError, match="package 'no-such-package' is not installed"):
        load_splits(DataSection(path="package:no-such-package/a.csv"), ForecastTask())
    with pytest.raises(DataError, match="has no file 'nothing.csv'"):
        load_splits(DataSection(path="package:numpy/nothing.csv"), ForecastTask())
    with pytest.raises(DataError, match="split by time only"):
        load_splits(DataSection(path=str(prices_file), market=MarketSection()), ForecastTask())
