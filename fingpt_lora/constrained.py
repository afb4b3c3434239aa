"""Constrained decoding: at every step, only tokens with which the answer can still come out in the task's format.

The grammars are llguidance's (an extra: ``pip install fingpt-lora[constrained]``); a piece of the text is part of them,
so what is copied from the text really stands in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from transformers import LogitsProcessor

from fingpt_lora.errors import ModelError
from fingpt_lora.installed import need_llguidance

# Tokens that are kept for coming to an end: the head of an event with a Chinese type, a value and what closes them take
# about forty where each character takes three.
_RESERVE = 64
_CLOSING = set('"]}.。')
_PUSH = 1e4  # above any difference of logits


class Tokens:
    """What llguidance knows of a tokenizer and a model; made once, used for any number of batches."""

    def __init__(self, tokenizer: Tokenizer, stop_ids: Sequence[int], width: int) -> None:
        """Args: tokenizer of the prompts, ids with any of which an answer may end, columns of the model's output.

        Raises:
            RecipeError: llguidance is not installed.
        """
        need_llguidance()
        from llguidance import LLTokenizer

        # Many models put out more columns than there are tokens.
        self.known = LLTokenizer(tokenizer.to_str(), eos_token=list(stop_ids), n_vocab=width)
        self.stop_ids = list(stop_ids)
        spelled = tokenizer.decode_batch([[token] for token in range(min(width, tokenizer.get_vocab_size()))])
        self.closing = [token for token, text in enumerate(spelled) if text and set(text) <= _CLOSING]


class Grammars(LogitsProcessor):  # type: ignore[misc]
    """Keeps the answers of a batch within a grammar each, and leads them to an end before their room runs out."""

    def __init__(self, tokens: Tokens, grammars: Sequence[str], start: int, room: int) -> None:
        """Begin.

        Args:
            tokens: of the model.
            grammars: of each row, in llguidance's dialect of Lark.
            start: length of the padded prompts.
            room: tokens that an answer may have.

        Raises:
            ModelError: a grammar cannot be used.
        """
        from llguidance import LLMatcher

        self._matchers = [LLMatcher(tokens.known, grammar) for grammar in grammars]
        for matcher in self._matchers:
            if matcher.is_error():
                raise ModelError(f"A grammar cannot be used: {matcher.get_error().splitlines()[0]}")
        self._seen, self._tokens = start, tokens
        self._late = start + room - min(_RESERVE, room // 2)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Return the scores with minus infinity where a token would lead out of the grammar.

        # (rows, tokens so far), (rows, vocabulary)
        """
        from llguidance.torch import allocate_token_bitmask, apply_token_bitmask_inplace, fill_next_token_bitmask

        new, self._seen = input_ids[:, self._seen :].tolist(), input_ids.shape[1]
        mask = allocate_token_bitmask(1, scores.shape[1])
        for row, (matcher, tokens) in enumerate(zip(self._matchers, new, strict=True)):
            if matcher.is_stopped() or (tokens and not matcher.consume_tokens(tokens)) or matcher.is_stopped():
                # Nothing can follow: the answer ends here, if it has not ended before.
                kept = scores[row, self._tokens.stop_ids[0]].clone()
                scores[row] = float("-inf")
                scores[row, self._tokens.stop_ids[0]] = kept
                continue
            fill_next_token_bitmask(matcher, mask)
            apply_token_bitmask_inplace(scores[row : row + 1], mask.to(scores.device))
            if self._seen >= self._late:  # a model that repeats itself would be cut off, and say nothing
                scores[row, self._tokens.closing] += _PUSH
                scores[row, self._tokens.stop_ids] += 2 * _PUSH
        return scores
