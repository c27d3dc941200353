"""Record the attention of the answer position during a forward.

The attention is computed from the queries and keys of the forward itself:

    row = softmax(q_last Kᵀ · scaling + mask)        mean over heads, [batch, keys]

ViCrop (arXiv 2502.17422) reads it from eager attention, which holds [heads, tokens, tokens] numbers per layer. One row
is enough: the language model keeps torch's fused kernel. The row is computed beside it, after the rotary embedding and
with the instruction's cached keys, and only while a recorder is active in the thread that runs the forward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

from scanfleet.models.errors import ModelInvalid
from scanfleet.models.families.family import Family, ImageReader
from scanfleet.models.network.attention import AttentionHook, attention_modules, hooked

if TYPE_CHECKING:
    from scanfleet.models.inputs.processing import Rows


class LastTokenRecorder(AttentionHook):
    """Records the attention of each row's answer position.

    Args:
        modules: the attention modules to record, from `attention_modules`.
        last: [batch] int64, the index of each row's answer position among the tokens of the forward.
    """

    def __init__(self, modules: Sequence[Any], last: torch.Tensor) -> None:
        super().__init__(modules)
        self._last = last
        self._rows: list[torch.Tensor] = []

    def attend(
        self,
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        **settings: Any,
    ) -> tuple[torch.Tensor, None]:
        """Record the answer position's row, [batch, prefix + tokens], and attend as transformers does."""
        self._rows.append(last_rows(query, key, mask, self._last, settings["scaling"]).mean(1))
        out: tuple[torch.Tensor, None] = sdpa_attention_forward(module, query, key, value, mask, **settings)
        return out

    @property
    def mean(self) -> torch.Tensor:
        """The mean attention over heads and layers, [batch, prefix + tokens] fp32, each row summing to 1.

        It is 0 at positions that the answer position does not see.

        Raises:
            ModelInvalid: a layer bypassed the attention interface, or ran more than once.
        """
        if len(self._rows) != len(self._modules):
            raise ModelInvalid(
                "this model bypasses the transformers attention interface, so relevance maps are not available"
            )
        return torch.stack(self._rows).mean(0)


@contextmanager
def recording(
    network: Any, family: Family, reader: ImageReader, layers: Sequence[int] | None, rows: Rows
) -> Iterator[list[NDArray[np.float32] | None]]:
    """Record the attention to the visual tokens in the one forward that runs inside the block.

    Args:
        network: the loaded network.
        family: its family.
        reader: the reader of its images.
        layers: as in `attention_modules`; None: record nothing.
        rows: the inputs of the forward.

    Yields:
        A list with one entry per row, filled in when the block ends: [visual_tokens] fp32, the mean over heads and
            layers.
        Entries stay None when nothing is recorded.

    Raises:
        ModelInvalid: see `attention_modules` and `LastTokenRecorder.mean`.
    """
    found: list[NDArray[np.float32] | None] = [None] * len(rows.last)
    if layers is None:
        yield found
        return
    hook = LastTokenRecorder(attention_modules(network, family, layers), rows.last)
    with hooked(hook):
        yield found
    ids = rows.inputs["input_ids"]
    own = hook.mean[:, -ids.shape[1] :].cpu()  # [batch, tokens], without the instruction
    visual = (ids == reader.image_token_id).cpu()
    found[:] = [row[there].numpy() for row, there in zip(own, visual, strict=True)]


def last_rows(
    query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, last: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """Compute the attention of one token per row.

    Args:
        query: [batch, heads, tokens, head_dim].
        key: [batch, kv_heads, prefix + tokens, head_dim].
        mask: [batch or 1, heads or 1, tokens, prefix + tokens], bool (True: visible) or added to the logits; None:
            causal.
        last: [batch] int64, the index of that token among `tokens`.
        scaling: factor of the logits; None: head_dim ** -0.5.

    Returns:
        [batch, heads, prefix + tokens] fp32; each row sums to 1.
    """
    batch, heads, width, head_dim = query.shape
    rows = torch.arange(batch, device=query.device)
    asking = query[rows, :, last].float()  # [batch, heads, head_dim]
    keys = repeat_kv(key, heads // key.shape[1]).float()
    products = torch.einsum("bhd,bhkd->bhk", asking, keys) * (head_dim**-0.5 if scaling is None else scaling)
    if mask is None:
        places = torch.arange(key.shape[2], device=query.device)
        unseen = places > (last + key.shape[2] - width)[:, None]  # [batch, prefix + tokens]
        products = products.masked_fill(unseen[:, None], -torch.inf)
    else:
        own = mask.expand(batch, -1, -1, -1)[rows, :, last]  # [batch, heads or 1, prefix + tokens]
        products = products.masked_fill(~own, -torch.inf) if own.dtype == torch.bool else products + own.float()
    return products.softmax(-1)
