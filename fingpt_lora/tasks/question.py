"""Questions about a text and its tables: spans of it, or a calculation with its numbers.

The answer ``= (166 + 178) / 2 (million)`` is computed by us, not by the model; ``166 | 178 (million)`` names spans. A
scale in brackets says in what the answer is counted. Compared is what was asked for: a number to two decimals with its
scale, or words but for case, articles and punctuation (as TAT-QA's own exact match, Zhu et al. 2021).
"""

from __future__ import annotations

import ast
import json
import operator
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from fingpt_lora.tasks.base import Answer, Asked, Fact, Language

SCALES = ("thousand", "million", "billion", "percent")
_INSTRUCTIONS: dict[Language, str] = {
    "en": (
        "The last line asks about the text and tables before it. Answer with words copied from them, several divided "
        "by ' | ', or with '= ' and a calculation with their numbers. Add the scale in brackets where there is one: "
        "(thousand), (million), (billion) or (percent)."
    ),
    "zh": (
        "最后一行就其上的文本和表格提问。请照抄原文作答，多个答案用“ | ”分开；需要计算时写“= ”和用原文数字的算式。"
        "有单位时在末尾用括号注明：(thousand)、(million)、(billion) 或 (percent)。"
    ),
}
_BETWEEN = " | "
_SCALE = re.compile(rf"(?P<said>.*\S) \((?P<scale>{'|'.join(SCALES)})\)", re.DOTALL)
_NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
_TOKEN = re.compile(rf"\s*(?:(?P<number>(?:{_NUMBER})%?)|(?P<sign>[-+*/()]))")
_AMOUNT = re.compile(rf"(?P<sign>[-+]?)[$€£¥]?\s?(?P<worth>{_NUMBER})\s?%?")
_WHOLE_NUMBER = re.compile(rf"(?<![\d.,])(?:{_NUMBER})%?(?![\d]|,\d)")
_OPERATIONS: dict[type[ast.AST], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_LONGEST = 400  # characters of a calculation
_ROUND_NUMBERS = (*map(str, range(13)), "100", "1000", "1,000")  # of counts, means and shares


@dataclass(frozen=True)
class QuestionTask(Asked):
    """Implements :class:`fingpt_lora.tasks.base.Written`.

    Attributes:
        asked_in: language of the instruction, or ``auto`` where each row decides.
    """

    asked_in: Literal["auto", "en", "zh"] = "auto"

    name = "question"
    several = False
    fields = ("text", "question")
    columns = ("answer",)
    labels = ("number", "words", "list")
    aliases: ClassVar[Mapping[str, str]] = {}

    def instruction(self, language: Language) -> str:
        """Return what stands before the text."""
        return _INSTRUCTIONS[language]

    def gold(self, raw: Any, text: str) -> Answer | str:
        """Return the answer of a row.

        Args:
            raw: words, a number, or a list of them; TAT-QA's ``{answer, scale, derivation}`` or FinQA's
                ``{answer, exe_ans, program}``, whose calculation is kept where it comes to the answer.
            text: of the row.
        """
        found: Mapping[str, Any] = raw if isinstance(raw, Mapping) else {"answer": raw}
        scale = str(found.get("scale") or "").strip().lower()
        if scale and scale not in SCALES:
            return f"the scale '{scale}', which is none of {', '.join(SCALES)}"
        answer = found.get("exe_ans") if found.get("answer") in (None, "", []) else found["answer"]
        values = [str(value).strip() for value in (answer if isinstance(answer, list) else [answer])]
        if answer is None or not all(values) or not values:
            return "it has no answer"
        written = self._calculated(found, values, scale) or self.write(values, scale)
        read = self.read(written, text)
        # Words that look like a calculation, or like a scale.
        if read is None or (written[:2] != "= " and read.content["values"] != values):
            return f"its answer '{written:.60}' cannot be told apart from another"
        return read

    def _calculated(self, found: Mapping[str, Any], values: Sequence[str], scale: str) -> str | None:
        """Return the calculation that the data gives, where it comes to the answer that the data gives."""
        asked = _amount(values[0]) if len(values) == 1 else None
        if asked is None:
            return None
        stated = values[0]
        program, derivation = found.get("program"), found.get("derivation")
        if isinstance(program, str) and program:
            steps = _from_program(program)
            scale = "percent" if stated.endswith("%") else scale
            executed = _amount(str(found.get("exe_ans")))
            if executed is not None:  # the answer beside it is rounded
                asked, stated = _in_scale(executed, scale), ""
        elif found.get("answer_type", "arithmetic") == "count":
            return f"= {values[0]}" + (f" ({scale})" if scale else "")
        else:
            steps = str(derivation or "") or None
            if found.get("answer_type") == "span":
                steps = None
        calculation = None if steps is None else _spaced(steps)
        # "4.00 - 1.90" of two percentages is written without their signs.
        for steps in () if calculation is None else (calculation, f"({calculation}) / 100"):
            worth = _worth(steps)
            if worth is not None and abs(_in_scale(worth, scale) - asked) <= _half_a_digit(stated, asked):
                return self.write_calculation(steps, scale)
        if found.get("answer_type") == "arithmetic" or program:
            # The steps are not told, or come to something else: the number itself.
            number = _spaced(f"{values[0].rstrip('%')}{'%' if scale == 'percent' else ''}")
            return None if number is None else self.write_calculation(number, scale)
        return None

    def write(self, values: Sequence[str], scale: str = "") -> str:
        """Return the answer that names words of the text."""
        return _BETWEEN.join(values) + (f" ({scale})" if scale else "")

    def write_calculation(self, calculation: str, scale: str = "") -> str:
        """Return the answer that calculates."""
        return f"= {calculation}" + (f" ({scale})" if scale else "")

    def read(self, written: str, text: str) -> Answer | None:
        """Return what an answer says, or None where it is not exactly in the format."""
        match = _SCALE.fullmatch(written)
        said, scale = (match["said"], match["scale"]) if match else (written, "")
        if said.startswith("="):
            if not said.startswith("= "):
                return None
            worth = _worth(said[2:])
            if worth is None or _spaced(said[2:]) != said[2:]:
                return None
            value = _in_scale(worth, scale)
            known = {*_ROUND_NUMBERS, *_numbers_of(text)}
            grounded = all(number in known for number in _numbers(said[2:]))
            fact = Fact("number", (_plain_number(value), scale), grounded=grounded)
            return Answer(written, (fact,), {"values": [_plain_number(value)], "scale": scale, "calculation": said[2:]})
        values = said.split(_BETWEEN)
        if not all(value and value == value.strip() and "|" not in value for value in values):
            return None
        kind, plain = "list", tuple(sorted(_plain_words(value) for value in values))
        if len(values) == 1:
            amount = _amount(values[0])
            kind = "words" if amount is None else "number"
            if amount is not None:
                plain = (_plain_number(amount),)
                scale = scale or ("percent" if values[0].endswith("%") else "")
        fact = Fact(kind, (*plain, scale), grounded=all(value.casefold() in text.casefold() for value in values))
        return Answer(written, (fact,), {"values": values, "scale": scale, "calculation": None})

    def grammar(self, text: str) -> str:
        """Return the grammar of all answers to a text: pieces of it, or a calculation with its numbers."""
        document = text.rpartition("\n")[0] or text
        found = [match[0] for match in _WHOLE_NUMBER.finditer(document)]
        allowed = " | ".join(map(_quoted, dict.fromkeys([*found, *_numbers_of(document), *_ROUND_NUMBERS])))
        scales = " | ".join(_quoted(f" ({scale})") for scale in SCALES)
        chunks, words = json.dumps({"substring_chunks": list(document)}, ensure_ascii=False), "|".join(SCALES)
        return (
            f'start: "= " sum ({scales})? | SPANS\n'
            'sum: term ((" + " | " - ") term)*\nterm: factor ((" * " | " / ") factor)*\n'
            f'factor: "-"? (number | "(" sum ")")\nnumber: {allowed}\n'
            # Spans, their separators and the scale are one terminal: of several, the first would take the space.
            f'SPANS: SPAN (" | " SPAN)* ({scales})?\n'
            f"SPAN: %regex {chunks} & /[^\\s=|]([^|\\n]*[^\\s|])?/ & ~/.* \\(({words})\\)/\n"
        )

    def by_heart(self, known: Sequence[Answer]) -> Callable[[str], frozenset[Fact]]:
        """Return what gives the training rows' most frequent answer to every question."""
        counts = Counter(fact for answer in known for fact in answer.facts)
        first = frozenset(fact for fact, _ in counts.most_common(1))
        return lambda _: first


def ask(text: str, question: str) -> str:
    """Return the text of a row: the question on a line of its own, behind what it is about."""
    return f"{text.strip()}\n{' '.join(question.split())}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _numbers_of(text: str) -> list[str]:
    """Return the numbers of a text, without the sign of a percentage: as they stand there, and without commas."""
    found = [match[0].rstrip("%") for match in _WHOLE_NUMBER.finditer(text)]
    return [*found, *(number.replace(",", "") for number in found)]


def _half_a_digit(stated: str, worth: float) -> float:
    """Return how far a value may be from a rounded one: half of its last digit; of one in full, rounding errors."""
    if not stated:
        return max(1e-4, 1e-4 * abs(worth))
    decimals = len(stated.rstrip("%").partition(".")[2])
    return float(0.5001 * 10.0**-decimals)


def _numbers(calculation: str) -> list[str]:
    """Return the numbers of a calculation as they stand there, without the sign of a percentage."""
    return [match["number"].rstrip("%") for match in _TOKEN.finditer(calculation) if match["number"]]


def _spaced(steps: str) -> str | None:
    """Return a calculation as we write it, or None where it is none."""
    text = re.sub(r"[$€£¥]", "", steps).translate(str.maketrans("[]{}×÷–−", "()()*/--"))
    written, place = "", 0
    text = text.strip()
    before = ""  # the last token
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            return None
        token = match["number"] or match["sign"]
        binary = token in "*/" or (token in "+-" and before not in ("", "(", "+", "-", "*", "/"))
        written += f" {token} " if binary else token
        before, place = token, match.end()
    return written or None


def _worth(calculation: str) -> float | None:
    """Return what a calculation comes to; None where it is none, or divides by nothing."""
    place, parts = 0, []
    while place < len(calculation.rstrip()):
        match = _TOKEN.match(calculation, place)
        if match is None or len(calculation) > _LONGEST:
            return None
        number = match["number"]
        if number is None:
            parts.append(match["sign"])
        else:
            plain = number.replace(",", "").rstrip("%").lstrip("0") or "0"  # Python refuses 007
            plain = f"0{plain}" if plain.startswith(".") else plain
            parts.append(f"({plain}/100)" if number.endswith("%") else plain)
        place = match.end()
    try:
        return _evaluated(ast.parse(" ".join(parts), mode="eval").body)
    except (SyntaxError, ZeroDivisionError, OverflowError, RecursionError, ValueError):
        return None


def _evaluated(node: ast.AST) -> float:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        return _OPERATIONS[type(node.op)](_evaluated(node.left), _evaluated(node.right))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        worth = _evaluated(node.operand)
        return -worth if isinstance(node.op, ast.USub) else worth
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return float(node.value)
    raise ValueError("not a sum, a product or a number")


def _in_scale(worth: float, scale: str) -> float:
    return 100 * worth if scale == "percent" else worth


_PROGRAM_STEP = re.compile(r"(add|subtract|multiply|divide)\(([^,()]+), *([^,()]+)\)")
_SIGNS = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/"}


def _from_program(program: str) -> str | None:
    """Return FinQA's ``subtract(5829, 5735), divide(#0, 5735)`` as one calculation; None of what is no arithmetic."""
    results: list[str] = []
    if _PROGRAM_STEP.sub("", program).strip(", ") or not program:
        return None
    for name, *operands in _PROGRAM_STEP.findall(program):
        worded = []
        for operand in map(str.strip, operands):
            if operand.startswith("#"):
                if not operand[1:].isdigit() or int(operand[1:]) >= len(results):
                    return None
                worded.append(f"({results[int(operand[1:])]})")
            else:
                worded.append(operand.removeprefix("const_").replace("m1", "-1"))
        results.append(f"{worded[0]} {_SIGNS[name]} {worded[1]}")
    return results[-1]


def _amount(words: str) -> float | None:
    """Return the number that words are, as accountants write it: ``$1,234``, ``(57)``, ``12.5%``."""
    plain = words.strip()
    bracketed = re.fullmatch(r"([$€£¥]?\s?)\((.*)\)(\s?%?)", plain)
    match = _AMOUNT.fullmatch("".join(bracketed.groups()) if bracketed else plain)
    if match is None:
        return None
    worth = float(match["worth"].replace(",", ""))
    return -worth if bracketed or match["sign"] == "-" else worth


def _plain_number(worth: float) -> str:
    """Return a number to two decimals; one too small for them to two digits."""
    if 0 < abs(worth) < 0.095:
        return f"{worth:.2g}"
    return f"{round(worth, 2) + 0.0:.2f}".rstrip("0").rstrip(".")


def _plain_words(words: str) -> str:
    lower = re.sub(r"[^\w\s.%$€£¥-]", "", words.casefold())
    return " ".join(word for word in lower.split() if word not in ("a", "an", "the")).rstrip(".")
