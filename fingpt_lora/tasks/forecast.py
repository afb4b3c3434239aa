"""Where a share goes next: its direction, or its move in FinGPT Forecaster's bins of one per cent; in two languages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from fingpt_lora.tasks.base import Asked, Language

_DIRECTION: dict[str, dict[Language, str]] = {
    "down": {"en": "down", "zh": "跌"},
    "flat": {"en": "flat", "zh": "平"},
    "up": {"en": "up", "zh": "涨"},
}
# D5+ is below -5 %, D5 from -5 to -4 %, ... U1 from 0 to 1 %, ... U5+ above 5 %.
_BINS = ("D5+", "D5", "D4", "D3", "D2", "D1", "flat", "U1", "U2", "U3", "U4", "U5", "U5+")

_INSTRUCTION: dict[Language, str] = {
    "en": (
        "{subject} {horizon} trading day(s) after this moment, going only by what was known then? "
        "Please choose an answer from {{{choices}}}."
    ),
    "zh": "仅根据当时已知的信息，{subject}（{horizon} 个交易日后）？请从 {{{choices}}} 中选择一个答案。",
}
_SUBJECT: dict[str, dict[Language, str]] = {
    "direction": {"en": "Which way will the share price have gone", "zh": "股价会往哪个方向变动"},
    "bins": {
        "en": "By how many per cent will the share price have moved (U up, D down)",
        "zh": "股价会变动百分之几（U 涨，D 跌）",
    },
}

_ALIASES = {"rise": "up", "fall": "down", "上涨": "up", "下跌": "down", "持平": "flat", "1": "up", "-1": "down"}


@dataclass(frozen=True)
class ForecastTask(Asked):
    """Implements :class:`fingpt_lora.tasks.base.Task` for the move until a number of sessions later.

    ``flat_below`` is the absolute move, as a share, up to which a price counts as unmoved; with 0 the label exists for
    bins only, where FinGPT has it, and a direction is up or down (an unmoved price counts as down: it earned nothing).
    """

    target: Literal["direction", "bins"] = "direction"
    horizon: int = 1
    flat_below: float = 0.0
    asked_in: Literal["auto", "en", "zh"] = "auto"

    name = "forecast"
    several = False
    fields = ("text",)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Canonical labels from the deepest fall to the highest rise."""
        if self.target == "bins":
            return _BINS
        return tuple(label for label in _DIRECTION if label != "flat" or self.flat_below)

    @cached_property
    def aliases(self) -> Mapping[str, str]:
        """Lower-case spelling -> canonical label."""
        own = {self.answer(label, language).lower(): label for label in self.labels for language in ("en", "zh")}
        return own | {word: label for word, label in _ALIASES.items() if label in self.labels}

    def instruction(self, language: Language) -> str:
        """Return the question with its choices."""
        choices = "/".join(self.answer(label, language) for label in self.labels)
        subject = _SUBJECT[self.target][language]
        return _INSTRUCTION[language].format(subject=subject, horizon=self.horizon, choices=choices)

    def answer(self, label: str, language: Language) -> str:
        """Return the exact answer for a canonical label."""
        return _DIRECTION[label][language] if label in _DIRECTION else label

    def parse(self, answer: str, language: Language) -> str | None:
        """Return the label whose answer this is, surrounding white space aside; None for anything else."""
        by_answer = {self.answer(label, language): label for label in self.labels}
        return by_answer.get(answer.strip())

    def label_of(self, move: float) -> str:
        """Return the label of a move, given as a share (0.012 is +1.2 %).

        Raises:
            ValueError: the move is no finite number.
        """
        if not math.isfinite(move):
            raise ValueError(f"a move of {move} is no number")
        if abs(move) <= self.flat_below and "flat" in self.labels:
            return "flat"
        if self.target == "direction":
            return "up" if move > 0 else "down"
        # Rounded, so that a quotient that stands for 1 % is not 1.0000000000000002 of them.
        step = max(1, math.ceil(round(abs(move) * 100, 9)))
        return ("U" if move > 0 else "D") + ("5+" if step > 5 else str(step))
