"""Constrained decoding: a grammar takes what its task reads, and nothing else comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

pytest.importorskip("llguidance", reason="an extra: pip install 'fingpt-lora[constrained]'")

from llguidance import LLMatcher, LLTokenizer

from fingpt_lora.constrained import Grammars, Tokens
from fingpt_lora.contract import load_tokenizer, make_contract
from fingpt_lora.errors import RecipeError
from fingpt_lora.generate import generate_answers
from fingpt_lora.plan import make_plan
from fingpt_lora.prompts import PromptEncoder
from fingpt_lora.recipe import parse_recipe
from fingpt_lora.tasks.base import Answer, Written
from fingpt_lora.tasks.entity import EntityTask
from fingpt_lora.tasks.event_extraction import EventExtractionTask
from fingpt_lora.tasks.question import QuestionTask, ask
from fingpt_lora.tasks.relation_extraction import RelationExtractionTask
from tests.test_relation_extraction import PARTY

ENTITY = EntityTask({"PER": "person", "ORG": "organization"}, "auto")
EVENTS = EventExtractionTask({"merger": ("buyer", "target"), "质押": ("sub-org",)}, "auto")
SUBJECTS = EventExtractionTask({"merger": ("buyer", "target"), "质押": ()}, "auto", triggers=False)
QUESTION = QuestionTask("auto")
RELATIONS = RelationExtractionTask({"hires": "hires", "works_in": "works in"}, "auto")
TEXT = 'Nokia Oyj "N" hired Pekka Lundmark (Espoo) for 1,250.5 million.'
ZH = "甲公司质押乙公司300万股。"
ASKED = ask(TEXT, "How much?")
GOOD = [
    (ENTITY, TEXT, "none"),
    (ENTITY, TEXT, 'Nokia Oyj "N" is an organization, Pekka Lundmark is a person.'),
    (ENTITY, ZH, "甲公司是organization，乙公司是organization。"),
    (EVENTS, TEXT, "[]"),
    (EVENTS, TEXT, '[{"type":"merger","trigger":"hired","buyer":["Nokia Oyj \\"N\\""],"target":["Pekka","Espoo"]}]'),
    (EVENTS, ZH, '[{"type":"质押","trigger":"质押","sub-org":["甲公司"]},{"type":"merger","trigger":"质押"}]'),
    (SUBJECTS, ZH, '[{"type":"质押"},{"type":"merger","target":["乙公司"]}]'),
    (RELATIONS, TEXT, "none"),
    (RELATIONS, TEXT, "hires: Nokia Oyj, Pekka Lundmark; works in: Pekka, Espoo."),
    (RELATIONS, TEXT, "hires: Nokia, 1,250.5 million."),
    (QUESTION, ASKED, "Nokia Oyj | Espoo"),
    (QUESTION, ASKED, "1,250.5 (million)"),
    (QUESTION, ASKED, "Pekka Lundmark (Espoo)"),
    (QUESTION, ASKED, "= 1250.5 / 100"),
    (QUESTION, ASKED, "= 11"),
    (QUESTION, ASKED, "= (1,250.5 - 3) / 2 * -1 (million)"),
]
BAD = [
    (ENTITY, TEXT, "Ericsson is an organization."),
    (ENTITY, TEXT, "Nokia is a bank."),
    (ENTITY, TEXT, "Nokia is an organization"),
    (EVENTS, TEXT, '[{"type":"loan","trigger":"hired"}]'),
    (EVENTS, TEXT, '[{"type":"merger","trigger":"fired"}]'),
    (EVENTS, TEXT, '[{"type":"merger","trigger":"hired","sub-org":["Nokia"]}]'),
    (EVENTS, TEXT, '[{"type":"merger","trigger":"hired"}'),
    (SUBJECTS, ZH, '[{"type":"质押","trigger":"质押"}]'),
    (RELATIONS, TEXT, "hires: Nokia, Ericsson."),
    (RELATIONS, TEXT, "hires: Nokia."),
    (QUESTION, ASKED, "Ericsson"),
    (QUESTION, ASKED, "= 777 - 3"),
    (QUESTION, ASKED, "Nokia Oyj |"),
]


@pytest.fixture(scope="module")
def accepts(checkpoint: Path) -> Any:
    tokenizer = load_tokenizer(checkpoint)
    eos = tokenizer.token_to_id("<|im_end|>")
    own = LLTokenizer(tokenizer.to_str(), eos_token=[eos])

    def accept(task: Written, text: str, answer: str) -> bool:
        matcher = LLMatcher(own, task.grammar(text))
        assert not matcher.is_error(), matcher.get_error()
        ids = tokenizer.encode(answer, add_special_tokens=False).ids
        return bool(matcher.consume_tokens([*ids, eos]))

    return accept


@pytest.mark.parametrize(("task", "text", "answer"), GOOD)
def test_what_is_right_may_be_said(accepts: Any, task: Any, text: str, answer: str) -> None:
    assert task.read(answer, text) is not None
    assert accepts(task, text, answer)


@pytest.mark.parametrize(("task", "text", "answer"), BAD)
def test_nothing_else_may_be_said(accepts: Any, task: Any, text: str, answer: str) -> None:
    assert not accepts(task, text, answer)


@given(st.lists(st.tuples(st.sampled_from(RELATIONS.labels), PARTY, PARTY), max_size=3, unique=True))
def test_every_relation_that_rows_state_may_be_said(accepts: Any, triples: list[tuple[str, str, str]]) -> None:
    text = " and ".join(f"{head} {tail}" for _, head, tail in triples)
    gold = RELATIONS.gold([list(triple) for triple in triples], text)
    assert isinstance(gold, Answer) and accepts(RELATIONS, text, gold.text)


@given(
    st.lists(st.sampled_from([*"AB,;. \n\x1c京", "hires: ", ", ", "; "]), max_size=8).map("".join),
    st.lists(st.sampled_from([*"AB,;. \n\x1c京", "hires: ", ", ", "; "]), max_size=8).map("".join),
    st.sampled_from(["", "AB,B;A. A\n,B", "AB,;. \n\x1cA京 A, B; hires: A"]),
)
def test_of_relations_what_may_be_said_is_what_is_read(accepts: Any, head: str, tail: str, text: str) -> None:
    text += f" {head} {tail}"
    for said in (f"hires: {head}, {tail}.", f"hires: A, B; works in: {head}, {tail}。", f"{head}{tail}"):
        read = RELATIONS.read(said, text)
        assert accepts(RELATIONS, text, said) == (read is not None and all(fact.grounded for fact in read.facts))


@pytest.mark.parametrize("task", [ENTITY, EVENTS, QUESTION, RELATIONS])
def test_a_model_that_knows_nothing_stays_within_the_format(small_base: Path, task: Any) -> None:
    tokenizer = load_tokenizer(small_base)
    contract = make_contract(
        task, small_base, template="chat", system=None, max_length=512, answer_tokens=48, tokenizer=tokenizer
    )
    encoder = PromptEncoder(contract, tokenizer, task)
    model = AutoModelForCausalLM.from_pretrained(small_base, dtype=torch.float32).eval()
    model.resize_token_embeddings(49_408)  # wider than the tokenizer, as many models are
    texts = [ASKED, ask(ZH, "多少？")] if task is QUESTION else [TEXT, ZH]
    answers = generate_answers(model, encoder, texts, constrained=True)
    own = LLTokenizer(tokenizer.to_str(), eos_token=list(contract.stop_ids))
    for text, answer in zip(texts, answers, strict=True):
        read = task.read(answer, text)
        ids = tokenizer.encode(answer, add_special_tokens=False).ids
        # A small model may not come to an end within the room; what it said so far is within the format, too.
        assert isinstance(read, Answer) or LLMatcher(own, task.grammar(text)).consume_tokens(ids)
        assert read is None or all(fact.grounded for fact in read.facts)


@pytest.mark.parametrize("room", [40, 90, 200])
@pytest.mark.parametrize("task", [EVENTS, SUBJECTS], ids=["triggers", "without"])
def test_events_come_to_an_end_within_their_room(checkpoint: Path, task: EventExtractionTask, room: int) -> None:
    """A model may repeat itself for ever: here one that would say anything but what ends something."""
    tokenizer = load_tokenizer(checkpoint)
    stop = tokenizer.token_to_id("<|im_end|>")
    tokens, texts = Tokens(tokenizer, [stop], 49_152), [TEXT, ZH, ZH * 5, TEXT[:9]]
    ids = torch.zeros(len(texts), 7, dtype=torch.long)
    keep = Grammars(tokens, [task.grammar(text) for text in texts], ids.shape[1], room)
    generator = torch.Generator().manual_seed(room)
    words = tokenizer.decode_batch([[token] for token in range(49_152)], skip_special_tokens=False)
    ends = [stop, *(token for token, word in enumerate(words) if "]" in word or "}" in word)]
    for _ in range(room):
        wanted = torch.randn(len(texts), 49_152, generator=generator)
        wanted[:, ends] -= 50
        ids = torch.cat([ids, keep(ids, wanted).argmax(dim=1, keepdim=True)], dim=1)  # type: ignore[arg-type]
    for text, row in zip(texts, ids[:, 7:].tolist(), strict=True):
        assert stop in row
        answer = tokenizer.decode(row[: row.index(stop)])
        read = task.read(answer, text)
        assert read is not None and all(fact.grounded is not False for fact in read.facts), answer


def test_without_the_extra_the_recipe_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "llguidance" else find(name))
    recipe = parse_recipe(
        "task: {name: entity, types: [ORG]}\ndata: {path: nowhere.jsonl}\nevaluation: {mode: constrained}\n"
    )
    with pytest.raises(RecipeError, match="needs llguidance"):
        make_plan(recipe)
