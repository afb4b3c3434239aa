"""Where a share goes next: its direction, or its move in FinGPT Forecaster's bins of one per cent; in two languages."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from fingpt_lora.tasks.base import Answer, Asked, Fact, Language

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


_REASONS: dict[Language, str] = {
    "en": " Write the answer on a line of its own, and your reasons below it.",
    "zh": "答案单独一行，理由写在其下。",
}


@dataclass(frozen=True)
class ReasonedForecastTask(Asked):
    """Implements :class:`fingpt_lora.tasks.base.Written`: the move on the first line, its reasons below.

    Rows carry the reasons as ``rationale``, written before the outcome (``rationale_available_at``): reasons that knew
    it teach a model to sound right. Only the move is measured; reasons are not.
    """

    forecast: ForecastTask

    name = "forecast"
    several = False
    fields = ("text", "rationale")

    @property
    def asked_in(self) -> Literal["auto", "en", "zh"]:  # type: ignore[override]
        """That of the forecast."""
        return self.forecast.asked_in

    @property
    def labels(self) -> tuple[str, ...]:
        """Those of the forecast."""
        return self.forecast.labels

    @property
    def aliases(self) -> Mapping[str, str]:
        """Those of the forecast."""
        return self.forecast.aliases

    def instruction(self, language: Language) -> str:
        """Return the question, and the wish for reasons."""
        return self.forecast.instruction(language) + _REASONS[language]

    def gold(self, raw: Any, text: str) -> Answer | str:
        """Return the answer of a row, given as ``{label, rationale}``."""
        label, reasons = (str(raw.get(key) or "").strip() for key in ("label", "rationale"))
        known = self.aliases.get(label.lower())
        if known is None:
            return f"unknown label '{label:.40}'; valid here: {', '.join(self.labels)}"
        if not reasons:
            return "it gives no reasons (column rationale)"
        found = self.read(f"{self.forecast.answer(known, self.language(text))}\n{reasons}", text)
        return found or "its reasons cannot be told apart from its answer"

    def read(self, written: str, text: str) -> Answer | None:
        """Return what an answer says, or None where its first line is no answer, or nothing is below it."""
        first, _, reasons = written.partition("\n")
        label = self.forecast.parse(first, self.language(text))
        if label is None or first != first.strip() or not reasons.strip():
            return None
        return Answer(written, (Fact(label, ("move",)),), {"label": label, "rationale": reasons.strip()})

    def grammar(self, text: str) -> str:
        """Return the grammar of all answers."""
        language = self.language(text)
        answers = " | ".join(json.dumps(self.forecast.answer(label, language)) for label in self.labels)
        return f'start: ({answers}) "\\n" REASONS\nREASONS: /\\S(.|\\n)*/\n'

    def by_heart(self, known: Sequence[Answer]) -> Callable[[str], frozenset[Fact]]:
        """Return what forecasts the training rows' most frequent move for everything."""
        counts = Counter(fact for answer in known for fact in answer.facts)
        first = frozenset(fact for fact, _ in counts.most_common(1))
        return lambda _: first
