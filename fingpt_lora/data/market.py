"""Daily prices, news and filings as vendors export them, each with the moment from which it could be known."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, tzinfo
from pathlib import Path
from typing import Any, Literal

from fingpt_lora.data.files import read_records
from fingpt_lora.data.rows import BadRow, Record
from fingpt_lora.errors import DataError

Kind = Literal["news", "filing", "profile"]

# Matched without case, spaces and underscores; Stooq writes <DATE>. An adjusted close goes before a plain one: a split
# is no fall. Only moves between days are ever shown, never levels: an adjusted level tells of splits to come.
_DATE = ("date", "datetime", "timestamp", "day", "日期")
_CLOSE = ("adjclose", "adjustedclose", "closeadj", "close", "closelast", "收盘", "收盘价")
_TICKER = ("ticker", "symbol", "code", "代码", "股票代码")
_TEXT = ("text", "headline", "title", "news", "content", "summary", "标题", "内容")
_KNOWN = ("availableat", "publishedat", "published", "filed", "filingdate", "filedat", "datetime", "timestamp", "date")
_PERIOD = ("period", "periodend", "fiscalperiod", "reportdate", "fiscaldateending")
_COMPACT = re.compile(r"(\d{4})(\d{2})(\d{2})")


@dataclass(frozen=True)
class Series:
    """Daily closes of one share, oldest first."""

    ticker: str
    days: tuple[date, ...]
    closes: tuple[float, ...]
    adjusted: bool

    def move(self, start: int, stop: int) -> float:
        """Return the move from the close of one day to that of another, as a share."""
        return self.closes[stop] / self.closes[start] - 1


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that could be known from a moment on."""

    kind: Kind
    text: str
    available_at: datetime  # with its time zone
    origin: str
    line: int


def read_prices(paths: Sequence[Path]) -> dict[str, Series]:
    """Read daily bars: one file per share, named after it, or files with a column of tickers.

    Raises:
        DataError: no date or close, a price that is none, or a day that stands there twice with different prices.
    """
    closes: dict[str, dict[date, float]] = defaultdict(dict)
    adjusted: dict[str, bool] = {}
    for path in paths:
        for record in _records(path):
            columns = _columns(record)
            day, close = _column(columns, _DATE, record, "date"), _column(columns, _CLOSE, record, "close")
            ticker = next((str(record.fields[columns[name]]).strip() for name in _TICKER if name in columns), path.stem)
            if record.fields[close] in (None, "", "null"):
                continue  # a day on which the share did not trade
            price = _number(record, close)
            if price <= 0:
                raise DataError(f"{record.origin}:{record.line}: the price {price:g} in column '{close}' is none.")
            when = _moment(record, day, None)
            moment = when.date() if isinstance(when, datetime) else when
            if closes[ticker].setdefault(moment, price) != price:
                raise DataError(f"{record.origin}:{record.line}: {ticker} has two prices on {moment}. Keep one.")
            adjusted[ticker] = "adj" in _plain(close)
    found = {}
    for ticker, by_day in closes.items():
        days = tuple(sorted(by_day))
        found[ticker] = Series(ticker, days, tuple(by_day[day] for day in days), adjusted[ticker])
    if not found:
        raise DataError(f"'{paths[0]}' holds no prices.")
    return found


def read_news(paths: Sequence[Path], zone: tzinfo) -> dict[str, list[Fact]]:
    """Read stories: ticker -> facts, oldest first. A story without a time is known when its day is over.

    Raises:
        DataError: no text, ticker or date.
    """
    return _by_ticker(paths, zone, _story)


def read_filings(paths: Sequence[Path], zone: tzinfo) -> dict[str, list[Fact]]:
    """Read statements: ticker -> facts by *filing* date. The end of the period that they are about came weeks before.

    Raises:
        DataError: no ticker or filing date, or only the end of the period.
    """
    return _by_ticker(paths, zone, _statement)


def _by_ticker(paths: Sequence[Path], zone: tzinfo, read: Any) -> dict[str, list[Fact]]:
    found: dict[str, list[Fact]] = defaultdict(list)
    for path in paths:
        for record in _records(path):
            columns = _columns(record)
            ticker = str(record.fields[_column(columns, _TICKER, record, "ticker")]).strip()
            found[ticker].append(read(record, columns, zone))
    for facts in found.values():
        facts.sort(key=lambda fact: fact.available_at)
    return dict(found)


def _story(record: Record, columns: Mapping[str, str], zone: tzinfo) -> Fact:
    text = " ".join(str(record.fields[_column(columns, _TEXT, record, "text")]).split())
    known = _known(record, _column(columns, _KNOWN, record, "date"), zone)
    return Fact("news", text, known, record.origin, record.line)


def _statement(record: Record, columns: Mapping[str, str], zone: tzinfo) -> Fact:
    filed = [name for name in _KNOWN if name in columns and name not in ("date", "datetime", "timestamp")]
    if not filed:
        period = next((columns[name] for name in (*_PERIOD, "date") if name in columns), None)
        about = f" ('{period}' is the period, which ends weeks before anybody can read of it)" if period else ""
        raise DataError(
            f"{record.origin}:{record.line}: no column says when the statement was filed{about}. Add a column 'filed'."
        )
    known = _known(record, columns[filed[0]], zone)
    skipped = {columns[name] for name in (*_TICKER, *_KNOWN) if name in columns}
    shown = [
        f"{name} {value}" for name, value in record.fields.items() if name not in skipped and value not in ("", None)
    ]
    return Fact("filing", "; ".join(shown), known, record.origin, record.line)


def _known(record: Record, column: str, zone: tzinfo) -> datetime:
    moment = _moment(record, column, zone)
    if isinstance(moment, datetime):
        return moment
    return datetime.combine(moment + timedelta(days=1), time(), zone)


def _moment(record: Record, column: str, zone: tzinfo | None) -> datetime | date:
    """Read a date or a time; a time without zone is the exchange's."""
    value = record.fields[column]
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    text = str(value).strip()
    compact = _COMPACT.fullmatch(text)
    try:
        if compact or re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            return date(*map(int, compact.groups())) if compact else date.fromisoformat(text)
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(text)
    except ValueError:
        raise DataError(
            f"{record.origin}:{record.line}: '{text}' in column '{column}' is not a date. Write dates as ISO 8601 "
            "(2024-05-31, 20240531, 2024-05-31T16:00:00-04:00)."
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=zone)


def _number(record: Record, column: str) -> float:
    try:
        number = float(str(record.fields[column]).replace("$", ""))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError(
            f"{record.origin}:{record.line}: {record.fields[column]!r} in column '{column}' is not a number."
        )
    return number


def _records(path: Path) -> Iterator[Record]:
    for record in read_records(path):
        if isinstance(record, BadRow):
            raise DataError(f"{record}. Mend the line.")
        yield record


def _plain(name: object) -> str:
    return re.sub(r"[\s_<>*/().-]+", "", str(name)).casefold()


def _columns(record: Record) -> dict[str, str]:
    return {_plain(name): str(name) for name in record.fields}


def _column(columns: Mapping[str, str], names: Iterable[str], record: Record, what: str) -> str:
    found = next((columns[name] for name in names if name in columns), None)
    if found is None:
        have = ", ".join(list(columns.values())[:8])
        raise DataError(f"'{record.origin}' has no column that looks like the {what} (it has {have}). Rename it.")
    return found
