"""Nine questions about a headline on a commodity, after Sinha & Khandait 2020 (arXiv 2009.04202) and FinGPT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from fingpt_lora.tasks.base import Language
from fingpt_lora.tasks.yes_no import YesNoTask

_QUESTIONS: dict[str, dict[Language, str]] = {
    "price": {"en": "price", "zh": "价格"},
    "up": {"en": "up", "zh": "上涨"},
    "constant": {"en": "constant", "zh": "持平"},
    "down": {"en": "down", "zh": "下跌"},
    "past price": {"en": "past price", "zh": "过去价格"},
    "future price": {"en": "future price", "zh": "未来价格"},
    "past event": {"en": "past event", "zh": "过去事件"},
    "future event": {"en": "future event", "zh": "未来事件"},
    "comparison": {"en": "comparison", "zh": "资产比较"},
}
_INSTRUCTIONS: dict[Language, str] = {
    "en": (
        "Which of these does the headline speak of: a price, its going up, staying constant or going down, a past "
        "or a future price, a past or a future event other than a price, a comparison of assets? Answer yes or no "
        "for each: {choices}."
    ),
    "zh": (
        "这条标题谈到了下列哪些内容：价格，价格上涨、持平或下跌，过去或未来的价格，价格以外的过去或未来的事件，"
        "资产之间的比较？请逐项回答是或否：{choices}。"
    ),
}
_WORDS = {"pastprice": "past price", "futureprice": "future price", "pastnews": "past event"}
_WORDS |= {"futurenews": "future event", "asset comparison": "comparison", "price or not": "price"}

# Columns of the published table, as it spells them.
_MOVES = {"up": "Price Direction Up", "constant": "Price Direction Constant", "down": "Price Direction Down"}


def headline_task(asked_in: Literal["auto", "en", "zh"]) -> YesNoTask:
    """Return the task."""
    return YesNoTask("headline", _QUESTIONS, _INSTRUCTIONS, _WORDS, asked_in)


def from_gold_columns(values: Mapping[str, Any]) -> list[str]:
    """Return the labels of a record of the gold headlines' table.

    A headline is about a price where it tells of a direction, or where its price sentiment is not ``none``. The
    table says of the past and the future only that a headline speaks of them: of the price where it is about one,
    else of an event.

    Raises:
        KeyError: a column is missing.
        ValueError: a column holds neither 0 nor 1.
    """
    found = [label for label, column in _MOVES.items() if _flag(values, column)]
    sentiment = str(values["Price Sentiment"]).strip().lower()
    about_price = bool(found) or sentiment not in ("none", "")
    what = "price" if about_price else "event"
    if about_price:
        found.append("price")
    found += [f"{when} {what}" for when in ("past", "future") if _flag(values, f"{when.capitalize()} Information")]
    return [*found, "comparison"] if _flag(values, "Asset Comparision") else found


def _flag(values: Mapping[str, Any], column: str) -> bool:
    value = str(values[column]).strip()
    if value not in ("0", "1"):
        raise ValueError(f"'{value[:20]}' in column '{column}' is neither 0 nor 1")
    return value == "1"
