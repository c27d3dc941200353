"""More attention to a region: the image's tokens there count `factor` times in every softmax that comes after them.

Multiplying a token's attention by c before the weights are normalised is adding ln c to its column of the logits, so it
goes into the additive mask that scaled dot-product attention takes anyway. The queries are those after the last image,
the text that ends with the answer position; the images' tokens read each other as ever.

    share of the region = c · m / (1 + (c - 1) · m)      m: its share without, in the first layer exactly

Other rows of the same forward get a mask of zeros where they may look. That is what torch makes of a boolean mask, so
their answers do not change; without an instruction before the image there is no mask otherwise, and they change by
rounding. Without any emphasis in a forward, or with factor 1, there is no additive mask at all.

The attention of the answer position, taken from the very queries and keys that a forward attends with.

    row = softmax(q_last Kᵀ · scaling + mask)        mean over heads, (B, keys)

ViCrop (arXiv 2502.17422) reads it from eager attention, which holds (heads, T, T) numbers a layer. One row is enough:
the language model keeps torch's fused kernel, over weights of any precision, and the row of chosen layers is computed
beside it, after the rotary embedding, with the instruction's cached keys, and only while a recorder is active in the
thread that runs the forward. Without one, attention is transformers' own, bit for bit.
"""

from __future__ import annotations

import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from models.errors import ModelInvalid
from models.families.family import Family, ImageReader

if TYPE_CHECKING:
    from models.inputs.processing import Rows


NAME = "scanfleet_last_row"

_KEPT = "sdpa"  # the attention that this one stands in for


class AttentionHook(ABC):
    """What is done beside, or in place of, the attention of some of a language model's layers."""

    def __init__(self, modules: Sequence[Any]) -> None:
        self._modules = {id(module) for module in modules}

    def applies_to(self, module: Any) -> bool:
        return id(module) in self._modules

    @abstractmethod
    def attend(
        self,
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        **settings: Any,
    ) -> tuple[torch.Tensor, None]:
        """query (B, heads, T, head_dim), key and value (B, kv heads, P + T, head_dim) -> (B, T, heads, head_dim)."""


class _Active(threading.local):
    """One watcher a thread: two lanes run forwards of one network at the same time."""

    hook: AttentionHook | None = None


_active = _Active()


@contextmanager
def hooked(hook: AttentionHook) -> Iterator[None]:
    """This thread's forwards in here pass through the watcher. Not to be nested."""
    assert _active.hook is None
    _active.hook = hook
    try:
        yield
    finally:
        _active.hook = None


class LastTokenRecorder(AttentionHook):
    """Records the answer position's attention. last: (B,) index of each row's answer position among the T tokens."""

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
        """As ever; the rows are kept."""
        self._rows.append(last_rows(query, key, mask, self._last, settings["scaling"]).mean(1))
        out: tuple[torch.Tensor, None] = sdpa_attention_forward(module, query, key, value, mask, **settings)
        return out

    @property
    def mean(self) -> torch.Tensor:
        """(B, P + T) fp32: the mean over heads and layers; nothing where a row's answer position sees nothing.

        Raises ModelInvalid unless every watched layer came by just once.
        """
        if len(self._rows) != len(self._modules):
            raise ModelInvalid("the language model's attention passes transformers' interface by: no map can be made")
        return torch.stack(self._rows).mean(0)


@contextmanager
def recording(
    network: Any, family: Family, reader: ImageReader, layers: Sequence[int] | None, rows: Rows
) -> Iterator[list[NDArray[np.float32] | None]]:
    """The answer position's attention to the visual tokens of each row, after the one forward that is made in here.

    The list holds (visual tokens,) a row, mean over heads and layers, once the context is left. layers: as `watched`
    takes them; None: nothing is recorded. Raises ModelInvalid as `watched` does.
    """
    found: list[NDArray[np.float32] | None] = [None] * len(rows.last)
    if layers is None:
        yield found
        return
    hook = LastTokenRecorder(attention_modules(network, family, layers), rows.last)
    with hooked(hook):
        yield found
    ids = rows.inputs["input_ids"]
    own = hook.mean[:, -ids.shape[1] :].cpu()  # (B, T), without the instruction
    visual = (ids == reader.image_token_id).cpu()
    found[:] = [row[there].numpy() for row, there in zip(own, visual, strict=True)]


def last_rows(
    query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, last: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """(B, heads, P + T) fp32: attention of the tokens at `last` (B,) among the T that ask.

    mask: (B or 1, heads or 1, T, P + T), bool (seen) or added to the products; None: causal.
    """
    batch, heads, width, head_dim = query.shape
    rows = torch.arange(batch, device=query.device)
    asking = query[rows, :, last].float()  # (B, heads, head_dim)
    keys = repeat_kv(key, heads // key.shape[1]).float()
    products = torch.einsum("bhd,bhkd->bhk", asking, keys) * (head_dim**-0.5 if scaling is None else scaling)
    if mask is None:
        places = torch.arange(key.shape[2], device=query.device)
        unseen = places > (last + key.shape[2] - width)[:, None]  # (B, P + T)
        products = products.masked_fill(unseen[:, None], -torch.inf)
    else:
        own = mask.expand(batch, -1, -1, -1)[rows, :, last]  # (B, heads or 1, P + T)
        products = products.masked_fill(~own, -torch.inf) if own.dtype == torch.bool else products + own.float()
    return products.softmax(-1)


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' own attention, past this thread's watcher where it watches the module."""
    hook = _active.hook
    if hook is not None and hook.applies_to(module):
        return hook.attend(module, query, key, value, attention_mask, **settings)
    out: tuple[torch.Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    return out


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)  # the masks, or none, that its attention is given


def use_hooked_attention(network: Any, family: Family) -> None:
    """Let the language model of a loaded network attend through `attend`, which changes no number."""
    for attention in _attentions(network, family):
        if attention.config._attn_implementation == _KEPT:
            attention.config._attn_implementation = {"": NAME}  # of its own configuration, not of parts of it


def attention_modules(network: Any, family: Family, layers: Sequence[int]) -> list[Any]:
    """The attention of these layers of the language model, 0-based; of the middle third where none are named.

    Averaging over layers costs rel-att 0.28 points only (arXiv 2502.17422). Raises ModelInvalid for layers that the
    model lacks, and for a model whose attention cannot be watched.
    """
    every = _attentions(network, family)
    if not every or any(attention.config._attn_implementation != NAME for attention in every):
        raise ModelInvalid(
            f"a {family.model_type} model's attention cannot be recorded here: use the looks larger or tiles, "
            "which need no map"
        )
    missing = [layer for layer in layers if not 0 <= layer < len(every)]
    if missing:
        raise ModelInvalid(f"the language model has layers 0 to {len(every) - 1}, no layer {missing[0]}")
    return [every[layer] for layer in layers] or every[len(every) // 3 : len(every) - len(every) // 3]


def _attentions(network: Any, family: Family) -> list[Any]:
    """The language model's attention modules, in the order of its layers."""
    names = (name for name, _ in network.named_modules() if re.fullmatch(family.language_linear, name))
    paths = dict.fromkeys(name.rpartition(".")[0] for name in names if ".self_attn." in name)
    found = [network.get_submodule(path) for path in paths]
    return sorted(found, key=lambda attention: int(attention.layer_idx))


def emphasis_bias(emphasis: torch.Tensor | None, after: torch.Tensor, *, dtype: torch.dtype) -> torch.Tensor | None:
    """What is added to the attention logits of a forward, (B, 1, T, T), for `Prefix.inputs`; None: nothing.

    emphasis: (B, T), the logarithm of each token's factor. after: (B,), the first token behind each row's images. Both
    as in `models.inputs.processing.Rows`. dtype: of the language model.
    """
    if emphasis is None:
        return None
    asking = torch.arange(emphasis.shape[1], device=after.device) >= after[:, None]
    return torch.where(asking[:, :, None], emphasis[:, None], 0).to(dtype)[:, None]
