"""The only place where tokens are sampled: greedy answers, for what cannot be scored by label, and free talk."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from transformers import LogitsProcessorList

from fingpt_lora.batching import Progress, pad_left
from fingpt_lora.constrained import Grammars, Tokens
from fingpt_lora.prompts import PromptEncoder
from fingpt_lora.tasks.base import Written


def generate_answers(
    model: torch.nn.Module,
    encoder: PromptEncoder,
    texts: Sequence[str],
    *,
    batch_size: int = 32,
    constrained: bool = False,
    progress: Progress | None = None,
) -> list[str]:
    """Return the greedy answer to each text, as the model wrote it, end of turn removed.

    It may be as long as the contract keeps room for; where answers are listed, four tokens longer than the longest, so
    that a model that would say more shows it.

    Args:
        model: base or adapted model.
        encoder: task and prompts.
        texts: articles.
        batch_size: texts at a time.
        constrained: keep the answers of a task with written ones within its grammar.
        progress: told how many texts were answered.

    Raises:
        FingptLoraError: there is no grammar, or what it needs is not installed.
    """
    task = encoder.task
    prompts = encoder.prompts(texts)
    room = encoder.contract.answer_tokens
    if room is None:
        room = 4 + max(len(ids) for lang in encoder.contract.frames for ids in encoder.answer_ids(lang).values())
    tokens = None
    if constrained:
        width = model.get_output_embeddings().weight.shape[0]  # type: ignore[operator]
        tokens = Tokens(encoder.tokenizer, encoder.contract.stop_ids, width)
    order = sorted(range(len(texts)), key=lambda i: len(prompts[i].ids))
    answers = [""] * len(texts)
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            rows = [prompts[i].ids for i in part]
            ids = pad_left(rows, encoder.contract.pad_id).to(device)
            processors = []
            if tokens is not None and isinstance(task, Written):
                grammars = [task.grammar(texts[i].strip()) for i in part]
                processors.append(Grammars(tokens, grammars, ids.shape[1], room))
            with torch.inference_mode():
                output = model.generate(  # type: ignore[operator]
                    input_ids=ids,
                    attention_mask=pad_left([[1] * len(row) for row in rows], 0).to(device),
                    do_sample=False,
                    max_new_tokens=room,
                    logits_processor=LogitsProcessorList(processors),
                    eos_token_id=list(encoder.contract.stop_ids),
                    pad_token_id=encoder.contract.pad_id,
                )
            for i, row in zip(part, output[:, ids.shape[1] :].tolist(), strict=True):
                answers[i] = encoder.answer_text(row)
            if progress:
                progress(len(part))
    finally:
        model.train(was_training)
    return answers


def stream_tokens(
    model: torch.nn.Module, ids: Sequence[int], *, stop_ids: Collection[int], max_new_tokens: int
) -> Iterator[int]:
    """Yield the greedy continuation of one prompt, token by token; the stop token that ends it is the last.

    Whoever stops reading stops the model, which is left in the mode in which it came.
    """
    # A learned prompt stands before every forward's input, so nothing of earlier forwards can be kept.
    config = getattr(model, "active_peft_config", None)
    keep = not (config is not None and config.is_prompt_learning)
    was_training = model.training
    model.eval()
    given, cache = list(ids), None
    try:
        for _ in range(max_new_tokens):
            token, cache = _next_token(model, given, cache, keep)
            yield token
            if token in stop_ids:
                return
            given = [*given, token] if cache is None else [token]
    finally:
        model.train(was_training)


@torch.inference_mode()
def _next_token(model: torch.nn.Module, ids: Sequence[int], cache: Any, keep: bool) -> tuple[int, Any]:
    """Return the most probable next token, and the keys and values so far where the model keeps any."""
    inputs = {"past_key_values": cache} if cache is not None else {}
    device = next(model.parameters()).device
    output = model(input_ids=torch.tensor([list(ids)], device=device), use_cache=keep, logits_to_keep=1, **inputs)
    return int(output.logits[0, -1].argmax()), output.get("past_key_values") if keep else None
