from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fingpt_lora.contract import load_tokenizer, make_contract
from fingpt_lora.generate import generate_answers
from fingpt_lora.prompts import IGNORED, PromptEncoder
from fingpt_lora.scoring import discriminating_ids, score_labels
from fingpt_lora.tasks import SentimentTask
from tests.conftest import TEXTS, random_model


def by_whole_sequences(model: Any, encoder: PromptEncoder, with_end: bool) -> np.ndarray:
    """The slow, plain way: one forward per text and label."""
    scores = np.zeros((len(TEXTS), len(encoder.contract.labels)))
    with torch.no_grad():
        for i, text in enumerate(TEXTS):
            for j, label in enumerate(encoder.contract.labels):
                example = encoder.examples([text], [label])[0]
                logs = model(input_ids=torch.tensor([example.ids])).logits[0].double().log_softmax(-1)
                answer = [p for p, token in enumerate(example.labels) if token != IGNORED]
                answer = answer if with_end else answer[:-1]
                scores[i, j] = sum(logs[p - 1, example.ids[p]].item() for p in answer)
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_scores_are_those_of_whole_sequences(
    encoder: PromptEncoder, shallow: Callable[..., Any], attention: str, batch_size: int
) -> None:
    model = shallow(3, attention)
    scores = score_labels(model, encoder, TEXTS, batch_size=batch_size)
    np.testing.assert_allclose(scores, by_whole_sequences(model, encoder, with_end=False), atol=2e-4)
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1)


def test_labels_of_several_tokens_that_begin_alike(checkpoint: Any, shallow: Callable[..., Any]) -> None:
    task = SentimentTask(7)
    contract = make_contract(task, checkpoint, template="chat", system=None, max_length=400)
    encoder = PromptEncoder(contract, load_tokenizer(checkpoint), task)
    model = shallow(2)
    np.testing.assert_allclose(
        score_labels(model, encoder, TEXTS), by_whole_sequences(model, encoder, with_end=False), atol=2e-4
    )


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("Mistral", {"sliding_window": 8}),
        ("Gemma2", {"head_dim": 16, "attn_logit_softcapping": 0.01, "query_pre_attn_scalar": 1}),
        ("Mamba", {"state_size": 4}),
    ],
)
@pytest.mark.parametrize("classes", [3, 7])
def test_models_that_cannot_share_are_scored_by_padded_rows(
    checkpoint: Any, kind: str, settings: dict[str, Any], classes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    task = SentimentTask(classes)
    contract = make_contract(task, checkpoint, template="chat", system=None, max_length=400)
    encoder = PromptEncoder(contract, load_tokenizer(checkpoint), task)
    model = random_model(kind, **settings)
    expected = by_whole_sequences(model, encoder, with_end=False)
    for _ in range(2):
        np.testing.assert_allclose(score_labels(model, encoder, TEXTS, batch_size=4), expected, atol=2e-4)
    assert capsys.readouterr().err.count("scoring computes whole padded rows") == 1


def test_one_text_alone_and_among_others(encoder: PromptEncoder, shallow: Callable[..., Any]) -> None:
    model = shallow(2)
    together = score_labels(model, encoder, TEXTS)
    alone = np.concatenate([score_labels(model, encoder, [text]) for text in TEXTS])
    np.testing.assert_allclose(alone, together, atol=2e-4)


def test_a_longer_row_than_was_tried_is_tried(encoder: PromptEncoder, capsys: pytest.CaptureFixture[str]) -> None:
    model = random_model("Mistral", sliding_window=150)
    longer = [*TEXTS, "profit rose " * 100]
    short = max(len(prompt.ids) for prompt in encoder.prompts(TEXTS))
    assert short < 150 < len(encoder.prompts(longer)[-1].ids)
    score_labels(model, encoder, TEXTS)
    assert not capsys.readouterr().err
    together = score_labels(model, encoder, longer)
    assert "whole padded rows" in capsys.readouterr().err
    np.testing.assert_allclose(together[-1:], score_labels(model, encoder, longer[-1:]), atol=2e-4)


def test_the_end_of_turn_counts_where_one_answer_begins_another() -> None:
    assert discriminating_ids([[5, 0], [5, 6, 0]], stop_ids=[0]) == [[5, 0], [5, 6, 0]]
    assert discriminating_ids([[5, 0], [6, 7, 0]], stop_ids=[0]) == [[5], [6, 7]]


def test_scoring_leaves_the_mode_as_it_was(encoder: PromptEncoder, shallow: Callable[..., Any]) -> None:
    model = shallow(1).train()
    seen: list[int] = []
    score_labels(model, encoder, TEXTS[:2], progress=seen.append)
    assert model.training and sum(seen) == 2


def test_the_greedy_answer_is_the_best_scored_token(encoder: PromptEncoder, shallow: Callable[..., Any]) -> None:
    model = shallow(3)
    answers = generate_answers(model, encoder, TEXTS, batch_size=4)
    alone = [generate_answers(model, encoder, [text])[0] for text in TEXTS]
    assert answers == alone  # padding changes nothing
    assert len(answers) == len(TEXTS)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_each_of_several_labels_is_yes_against_no(
    event_encoder: PromptEncoder, shallow: Callable[..., Any], batch_size: int
) -> None:
    model = shallow(2)
    expected = np.zeros((len(TEXTS), 3))
    with torch.no_grad():
        for i, text in enumerate(TEXTS):
            language = event_encoder.task.language(text)
            for j, question in enumerate(event_encoder.answer_ids(language).values()):
                totals = []
                for verdict in event_encoder.verdict_ids(language):
                    ids = [*event_encoder.prompts([text])[0].ids, *question, *verdict]
                    logs = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
                    places = range(len(ids) - len(verdict), len(ids))
                    totals.append(sum(logs[place - 1, ids[place]].item() for place in places))
                expected[i, j] = totals[0] - np.logaddexp(*totals)
    scores = score_labels(model, event_encoder, TEXTS, batch_size=batch_size)
    np.testing.assert_allclose(scores, expected, atol=2e-4)
    np.testing.assert_allclose(score_labels(model, event_encoder, TEXTS[:1]), expected[:1], atol=2e-4)  # padded rows
