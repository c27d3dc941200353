"""Greedy decoding of a batch behind keys and values that its rows share (`models.network.prefix`).

Rows are padded on the right, and a generated token sees the tokens of its own row only, so neighbours change nothing
but rounding: where two tokens are almost equally likely, 16 bit may choose the other one in another batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from scanfleet.models.inputs.processing import Rows
from scanfleet.models.network.prefix import Prefix

if TYPE_CHECKING:
    from scanfleet.models.network.base import BaseModel


@dataclass(kw_only=True, eq=False)
class Answer:
    """The tokens that one row generated.

    Attributes:
        ids: Generated token ids.
        ended: The row needs no further token.
        cut: Why it was stopped before the end of its turn; empty otherwise.
    """

    ids: list[int] = field(default_factory=list)
    ended: bool = False
    cut: str = ""


def decode(
    base: BaseModel,
    network: Any,
    prefix: Prefix,
    rows: Rows,
    *,
    take: Callable[[Answer, int], None],
    heartbeat: Callable[[], None],
) -> list[Answer]:
    """Generate an answer for each row.

    Args:
        base: The loaded base model.
        network: Its network, with the adapter.
        prefix: Of the tokens before the rows.
        rows: At least one.
        take: Adds a token to an answer that has not ended, and ends it in time.
        heartbeat: Called after each token.
    """
    answers = [Answer() for _ in range(len(rows.last))]
    decoding = _Decoding(base, network, prefix, rows)
    while True:
        for answer, token in zip(answers, decoding.best(), strict=True):
            if not answer.ended:
                take(answer, token)
        heartbeat()
        if all(answer.ended for answer in answers):
            return answers
        decoding.advance()


class _Decoding:
    """A batch under generation, one token per row at a time."""

    def __init__(self, base: BaseModel, network: Any, prefix: Prefix, rows: Rows) -> None:
        ids = rows.inputs["input_ids"]
        n, width = ids.shape
        at = torch.arange(n, device=ids.device)
        self._network = network
        self._cache = {prefix.keyword: prefix.growing(n)}
        self._next = rows.inputs["position_ids"][..., at, rows.last] + 1  # [batch] or [3, batch]
        seen = torch.ones(width, prefix.length + width, dtype=torch.bool, device=ids.device).tril(prefix.length)
        inputs = rows.inputs | self._cache | {"attention_mask": seen[None, None]}
        self._hidden = base.processor.reader.hidden(network, inputs)[at, rows.last]
        places = torch.arange(prefix.length + width, device=ids.device)
        self._seen = (places[None] <= (prefix.length + rows.last)[:, None])[:, None, None]  # [batch, 1, 1, tokens]
        self._tokens = ids.new_zeros(n)

    def best(self) -> list[int]:
        """Return the most likely next token of each row."""
        self._tokens = self._network.get_output_embeddings()(self._hidden).argmax(-1)
        found: list[int] = self._tokens.tolist()
        return found

    def advance(self) -> None:
        """Feed each row the token that `best` chose; rows that ended continue, and their tokens are ignored."""
        self._seen = torch.cat((self._seen, self._seen.new_ones(len(self._seen), 1, 1, 1)), dim=-1)
        inputs = {"input_ids": self._tokens[:, None], "position_ids": self._next[..., None]}
        out = self._network.base_model(**inputs, **self._cache, attention_mask=self._seen, use_cache=True)
        self._hidden = out.last_hidden_state[:, -1]
        self._next = self._next + 1


def stops(base: BaseModel) -> frozenset[int]:
    """Return the tokens that end a turn."""
    eos = base.network.generation_config.eos_token_id
    every: Sequence[int | None] = [
        *(eos if isinstance(eos, list | tuple) else [eos]),
        base.processor.tokenizer.eos_token_id,
    ]
    return frozenset(int(token) for token in every if token is not None)
