"""Forecast rows as they could have been written at the time: what was known at a close, and the move that came after.

A row is decided at the close of a session. It tells the share's past moves, the newest stories and the newest filing
that were available by then, and its label is the move from that close to the close ``horizon`` sessions later. Moves
are shown, never price levels: adjusted levels tell of splits and dividends to come, moves do not.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

from fingpt_lora.data.leaks import DAYS
from fingpt_lora.data.market import Fact, Series, read_filings, read_news, read_prices
from fingpt_lora.data.paths import expand
from fingpt_lora.data.rows import Row
from fingpt_lora.errors import DataError
from fingpt_lora.sections import MarketSection

_TWEETS = 12  # of a StockNet row's, the newest; a day of a large company has hundreds
Close = Callable[[date], datetime]  # session -> the moment of its close


@dataclass(frozen=True)
class Window:
    """What of the past a row tells."""

    horizon: int = 1  # sessions from the decision to the target's close
    every: int = 1  # sessions between two decisions about one share
    moves: int = 5  # sessions whose moves are shown
    stories: int = 8  # newest ones at most
    days: int = 5  # calendar days that a story stays news


def market_rows(
    prices: Sequence[Path],
    market: MarketSection,
    horizon: int,
    label_of: Callable[[float], str],
    *,
    base_dir: Path | None = None,
) -> list[Row]:
    """Read prices, news and filings and return their rows, oldest first.

    Raises:
        DataError: a file cannot be read, or has a price on a day without session.
    """
    series = read_prices(prices)
    days = [day for one in series.values() for day in (one.days[0], one.days[-1])]
    close_of, zone = _calendar(market.calendar, min(days), max(days))

    def files(paths: str | None, key: str) -> list[Path]:
        return expand(paths, base_dir=base_dir, key=f"data.market.{key}") if paths else []

    window = Window(horizon, market.every, market.moves, market.stories, market.days)
    news, filings = read_news(files(market.news, "news"), zone), read_filings(files(market.filings, "filings"), zone)
    hidden = market.names if market.mask else None
    rows = list(point_in_time_rows(series, news, filings, close_of, label_of, window, hidden))
    if not rows:
        longest = max(len(one.days) for one in series.values())
        raise DataError(
            f"data.path: {longest} days of prices leave no row: {market.moves} are told before a decision and the "
            f"target is {horizon} after it."
        )
    return sorted(rows, key=lambda row: str(row.fields["decided_at"]))


def _calendar(name: str, first: date, last: date) -> tuple[Close, tzinfo]:
    try:
        from exchange_calendars import errors, get_calendar
    except ImportError:
        raise DataError(
            "data.market needs exchange calendars. Bring them with: pip install 'fingpt-lora[market]'"
        ) from None
    try:
        calendar = get_calendar(name, start=first.isoformat(), end=(last + timedelta(days=7)).isoformat())
    except errors.InvalidCalendarName:
        raise DataError(f"data.market.calendar: there is no exchange '{name}'. Write e.g. XNYS, XSHG, XHKG.") from None
    sessions = {session.date() for session in calendar.sessions}

    def close_of(day: date) -> datetime:
        if day not in sessions:
            raise DataError(
                f"data.path: there is a price on {day}, when {name} had no session. See data.market.calendar."
            )
        closed: datetime = calendar.session_close(day.isoformat()).to_pydatetime()
        return closed

    return close_of, calendar.tz


def point_in_time_rows(
    series: Mapping[str, Series],
    news: Mapping[str, Sequence[Fact]],
    filings: Mapping[str, Sequence[Fact]],
    close_of: Close,
    label_of: Callable[[float], str],
    window: Window,
    hidden: Mapping[str, Sequence[str]] | None = None,
) -> Iterator[Row]:
    """Yield the rows of all shares, each share's oldest first.

    Args:
        series: ticker -> daily closes.
        news: ticker -> stories, oldest first.
        filings: ticker -> statements by filing date, oldest first.
        close_of: a session's close, from an exchange calendar.
        label_of: move as a share -> label.
        window: what of the past is told.
        hidden: ticker -> names to mask, beside the ticker and all dates; None masks nothing.
    """
    for ticker, prices in series.items():
        stories, statements = news.get(ticker, ()), filings.get(ticker, ())
        for place in range(window.moves, len(prices.days) - window.horizon, window.every):
            decided = close_of(prices.days[place])
            end = close_of(prices.days[place + window.horizon])
            known = [*_newest(statements, decided, 1), *_newest(stories, decided, window.stories, window.days)]
            moves = [prices.move(i - 1, i) for i in range(place - window.moves + 1, place + 1)]
            move = prices.move(place, place + window.horizon)
            text = render(ticker, decided, moves, known)
            yield Row(
                text=text if hidden is None else mask(text, (ticker, *hidden.get(ticker, ()))),
                label=label_of(move),
                origin=ticker,
                line=place + 1,
                fields={
                    "ticker": ticker,
                    "date": prices.days[place].isoformat(),
                    "decided_at": decided.isoformat(),
                    "target_end": end.isoformat(),
                    "last_move": prices.move(place - 1, place) if place else 0.0,
                    "move": move,
                    "facts": [
                        {"kind": fact.kind, "text": fact.text, "available_at": fact.available_at.isoformat()}
                        for fact in known
                    ],
                },
            )


def from_stocknet(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record of StockNet (Xu & Cohen 2018) with its text and the times by which it can be checked.

    A row asks for the move on ``date`` against the session before, so it is decided when that day begins; of tweets
    the day is known, and they count as known when it is over.
    """
    begins = datetime.fromisoformat(values["date"]).replace(tzinfo=UTC)
    facts = [
        Fact("news", text, datetime.fromisoformat(day).replace(tzinfo=UTC) + timedelta(days=1), "", 0)
        for day, text in values["tweets"]
    ]
    moves = [float(move) for move in values["prev_moves"]]  # oldest first
    return {
        **values,
        "text": render(values["ticker"], begins, moves, facts[-_TWEETS:]),
        "decided_at": begins.isoformat(),
        "target_end": (begins + timedelta(hours=24)).isoformat(),
        "last_move": moves[-1] if moves else 0.0,
        "facts": [{"kind": "news", "text": fact.text, "available_at": fact.available_at.isoformat()} for fact in facts],
    }


def render(ticker: str, decided: datetime, moves: Sequence[float], facts: Sequence[Fact]) -> str:
    """Return a row's text; what is told first survives shortening."""
    lines = [f"{ticker}, {decided.date().isoformat()}"]
    if moves:
        lines.append("Past moves: " + ", ".join(f"{move:+.1%}" for move in moves))
    lines += [f"Filed {fact.available_at.date()}: {fact.text}" for fact in facts if fact.kind == "filing"]
    lines += [f"{fact.available_at.date()}: {fact.text}" for fact in reversed(facts) if fact.kind == "news"]
    return "\n".join(lines)


def mask(text: str, names: Sequence[str]) -> str:
    """Replace names and dates, so that a model cannot recall what became of them.

    It may still know who is meant: figures and events identify a company to a model that has read of them.
    """
    for pattern in DAYS:
        text = pattern.sub("[DATE]", text)
    for name in sorted(names, key=len, reverse=True):
        # Han names stand without a border; others must not be cut out of longer words.
        border = r"" if re.search(r"[\u4e00-\u9fff]", name) else r"(?<!\w){}(?!\w)"
        text = re.sub((border or "{}").format(re.escape(name)), "[COMPANY]", text, flags=re.IGNORECASE)
    return text


def _newest(facts: Sequence[Fact], decided: datetime, count: int, days: int | None = None) -> list[Fact]:
    """Return the last facts that were available at the decision, oldest first."""
    stop = bisect_right(facts, decided, key=lambda fact: fact.available_at)
    chosen = facts[max(0, stop - count) : stop]
    since = None if days is None else decided - timedelta(days=days)
    return [fact for fact in chosen if since is None or fact.available_at >= since]


def purge(train: Sequence[Row], held_out: Sequence[Row], embargo: timedelta = timedelta()) -> list[Row]:
    """Drop training rows whose outcome was not known, with the embargo to spare, before the first held-out decision.

    A row whose target ends inside the test period has its label in the test's own prices (Lopez de Prado 2018,
    "Advances in Financial Machine Learning", chapter 7).
    """
    if not held_out:
        return list(train)
    first = min(_time(row, "decided_at") for row in held_out)
    return [row for row in train if _time(row, "target_end") + embargo <= first]


def _time(row: Row, field: str) -> datetime:
    return datetime.fromisoformat(row.fields[field])
