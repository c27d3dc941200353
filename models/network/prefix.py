"""The instruction's keys and values: computed once per check, shared by every image, and never extended.

The instruction stands before the image, so its keys and values are the same for all images. A forward over the other
tokens attends to it through a cache that returns `[instruction, own]` and keeps nothing of `own`.
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
    """The instruction's keys and values in one layer, each [1, heads, prefix, head_dim]."""

    is_sliding = False

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Do nothing: the layer is created with its keys and values."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Map [batch, heads, tokens, head_dim] to [batch, heads, prefix + tokens, head_dim] each; keep nothing."""
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
    """Return the name of the forward's cache argument, which is also the field of its output with the cache.

    transformers 5.24 renamed `past_key_values` to `cache`, and accepts the old name until 5.40 with a warning.
    """
    return "cache" if "cache" in inspect.signature(type(network).forward).parameters else "past_key_values"


class Prefix:
    """The language model's keys and values of the tokens before the image.

    Args:
        layers: keys and values of each layer, each [1, kv_heads, prefix, head_dim] in the model's dtype.
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
        filled = Cache(layers=[_Layer(keys, values) for keys, values in self._layers])
        return {"attention_mask": mask} | ({self.keyword: filled} if self.length else {})
