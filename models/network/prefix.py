"""Keys and values that several forwards share: of the tokens before the images, and of images that questions follow.

What stands before the image is the same for all images, so it is computed once per check. Where the image comes first,
it is the same for all questions, so it is computed once per image. A forward over the other tokens attends to them
through a cache that returns `[prefix, own]` and keeps nothing of `own`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from transformers import DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin


class _Layer(CacheLayerMixin):
    """The prefix's keys and values in one layer, each [1 or batch, heads, prefix, head_dim]."""

    is_sliding = False

    def __init__(self, keys: torch.Tensor | None, values: torch.Tensor | None) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.is_initialized = True

    @property
    def held(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values, which exist."""
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Do nothing: the layer is created with its keys and values."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Map [batch, heads, tokens, head_dim] to [batch, heads, prefix + tokens, head_dim] each; keep nothing."""
        if self.keys is None:
            return key_states, value_states
        keys, values = self.held
        return _join(keys, key_states), _join(values, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return 0 if self.keys is None else int(self.keys.shape[-2])

    def get_max_length(self) -> int:
        return -1


class _Kept(Exception):
    """Everything that a prefix needs is computed."""


class _KeepingLayer(_Layer):
    """Keeps `[prefix, own]` of one layer. Behind the keys and values of the last one nothing is needed."""

    def __init__(self, keys: torch.Tensor | None, values: torch.Tensor | None, *, last: bool) -> None:
        super().__init__(keys, values)
        self.last = last

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.keys, self.values = super().update(key_states, value_states)
        if self.last:
            raise _Kept
        return found


def _join(prefix: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    return torch.cat((prefix.expand(len(own), -1, -1, -1), own), dim=-2)


def cache_keyword(network: Any) -> str:
    """Return the name of the forward's cache argument, which is also the field of its output with the cache.

    transformers 5.24 renamed `past_key_values` to `cache`, and accepts the old name until 5.40 with a warning.
    """
    return "cache" if "cache" in inspect.signature(type(network).forward).parameters else "past_key_values"


class Prefix:
    """The language model's keys and values of tokens that stand before others.

    Args:
        layers: keys and values of each layer, each [1 or batch, kv_heads, prefix, head_dim] in the model's dtype.
        length: the number of tokens, `prefix`; may be 0.
        keyword: the argument of the model's forward that takes a cache (`cache_keyword`).
    """

    def __init__(self, layers: Sequence[tuple[torch.Tensor, torch.Tensor]], *, length: int, keyword: str) -> None:
        self._layers = layers
        self.length = length
        self.keyword = keyword

    @classmethod
    def of(cls, network: Any, ids: Sequence[int], **inputs: Any) -> Prefix:
        """Run the tokens through the network and keep their keys and values.

        Args:
            network: the language model.
            ids: token ids; may be empty.
            **inputs: further inputs of the forward, such as positions.
        """
        keyword = cache_keyword(network)
        if not ids:
            return cls([], length=0, keyword=keyword)
        out = network(input_ids=torch.tensor([ids], device=network.device), use_cache=True, **inputs)
        layers = [(layer.keys.clone(), layer.values.clone()) for layer in getattr(out, keyword).layers]
        return cls(layers, length=len(ids), keyword=keyword)

    def with_images(self, run: Callable[[dict[str, Any]], object], inputs: dict[str, Any], n_layers: int) -> Prefix:
        """Return the prefix of these tokens and, behind them, the images of a batch.

        Args:
            run: a forward, given its inputs.
            inputs: of a forward over `width` further tokens in each of `batch` rows.
            n_layers: of the language model.

        Returns:
            [batch, kv_heads, prefix + width, head_dim] each; padded columns hold no token.
        """
        width = inputs["input_ids"].shape[1]
        own: Sequence[tuple[torch.Tensor | None, torch.Tensor | None]] = self._layers or [(None, None)] * n_layers
        layers = [_KeepingLayer(*each, last=number == n_layers) for number, each in enumerate(own, start=1)]
        cached = self.inputs(width, inputs["input_ids"].device) | {self.keyword: Cache(layers=layers)}
        with suppress(_Kept):
            run(inputs | cached)
        kept = [layer.held for layer in layers]
        return Prefix(kept, length=self.length + width, keyword=self.keyword)

    def repeated(self, times: int) -> Prefix:
        """Return the prefix with all of its rows, `times` times over."""
        layers = [(k.repeat(times, 1, 1, 1), v.repeat(times, 1, 1, 1)) for k, v in self._layers]
        return Prefix(layers, length=self.length, keyword=self.keyword)

    def growing(self, rows: int) -> DynamicCache:
        """Return a cache with the instruction in each of `rows` rows, which keeps the tokens added to it."""
        filled = DynamicCache()
        for number, (keys, values) in enumerate(self._layers):
            filled.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), number)
        return filled

    def inputs(self, width: int, device: torch.device, emphasis_bias: torch.Tensor | None = None) -> dict[str, Any]:
        """Return the inputs of a forward over `width` further tokens: the cache and the attention mask.

        Without a bias the mask [1, 1, width, prefix + width] is causal and the same for all rows. Rows are padded on
        the right, where no image token attends, so an image's score does not depend on the lengths of its neighbours.

        Args:
            width: tokens of each row after the instruction.
            device: of the mask.
            emphasis_bias: [batch, 1, width, width], added to the logits among them, from `models.network.attention`;
                None: no emphasis.
        """
        if not self.length and emphasis_bias is None:
            return {}
        seen = torch.ones(width, self.length + width, dtype=torch.bool, device=device).tril(self.length)[None, None]
        mask = seen if emphasis_bias is None else F.pad(emphasis_bias, (self.length, 0)).masked_fill(~seen, -torch.inf)
        return {"attention_mask": mask} | (self.cached() if self.length else {})

    def cached(self) -> dict[str, Any]:
        """Return the input of a forward that holds the prefix; the forward adds nothing to it."""
        return {self.keyword: Cache(layers=[_Layer(keys, values) for keys, values in self._layers])}
