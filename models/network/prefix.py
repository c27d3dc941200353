"""The instruction's keys and values: computed once for a check, read by every image, and never added to.

The instruction stands before the image, so what the language model makes of it is the same for all images. A forward
over the rest attends to it through a cache that hands out `[instruction, own]` and keeps nothing of `own`.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from transformers import DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin


class _Layer(CacheLayerMixin):
    """Keys and values of the instruction in one layer, each (1, heads, P, head_dim)."""

    is_sliding = False

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing: it comes filled."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, heads, T, head_dim) each -> (B, heads, P + T, head_dim); nothing is kept."""
        assert self.keys is not None
        assert self.values is not None
        return _join(self.keys, key_states), _join(self.values, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        assert self.keys is not None
        return int(self.keys.shape[-2])

    def get_max_length(self) -> int:
        return -1


def _join(prefix: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    return torch.cat((prefix.expand(len(own), -1, -1, -1), own), dim=-2)


def cache_keyword(network: Any) -> str:
    """The argument that a network's forward takes keys and values by, and the field of its output that has them.

    transformers 5.24 renamed `past_key_values` to `cache`, and takes the old name until 5.40 with a warning.
    """
    return "cache" if "cache" in inspect.signature(type(network).forward).parameters else "past_key_values"


class Prefix:
    """What the language model keeps of the tokens before the image; `length` may be 0.

    keyword: the argument of the model's forward that takes a cache (`cache_keyword`).
    """

    def __init__(self, layers: Sequence[tuple[torch.Tensor, torch.Tensor]], *, length: int, keyword: str) -> None:
        self._layers = layers
        self.length = length
        self.keyword = keyword

    @classmethod
    def of(cls, network: Any, ids: Sequence[int], **inputs: Any) -> Prefix:
        """Run the tokens alone. inputs: further inputs of the forward, such as their positions."""
        keyword = cache_keyword(network)
        if not ids:
            return cls([], length=0, keyword=keyword)
        out = network(input_ids=torch.tensor([ids], device=network.device), use_cache=True, **inputs)
        layers = [(layer.keys.clone(), layer.values.clone()) for layer in getattr(out, keyword).layers]
        return cls(layers, length=len(ids), keyword=keyword)

    def growing(self, rows: int) -> DynamicCache:
        """A cache that begins with the instruction in each of so many rows, and keeps what is added to it."""
        filled = DynamicCache()
        for number, (keys, values) in enumerate(self._layers):
            filled.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), number)
        return filled

    def inputs(self, width: int, device: torch.device, emphasis_bias: torch.Tensor | None = None) -> dict[str, Any]:
        """What a forward over `width` further tokens takes: the cache, and who may look at whom.

        favour: (B, 1, width, width), added to the attention logits among them (`models.network.attention`). Without,
        the mask (1, 1, width, P + width) is causal and the same for all rows: rows are padded on the right, where no
        token of an image ever looks, so that an image's score cannot depend on its neighbours' lengths.
        """
        if not self.length and emphasis_bias is None:
            return {}
        seen = torch.ones(width, self.length + width, dtype=torch.bool, device=device).tril(self.length)[None, None]
        mask = seen if emphasis_bias is None else F.pad(emphasis_bias, (self.length, 0)).masked_fill(~seen, -torch.inf)
        filled = Cache(layers=[_Layer(keys, values) for keys, values in self._layers])
        return {"attention_mask": mask} | ({self.keyword: filled} if self.length else {})
