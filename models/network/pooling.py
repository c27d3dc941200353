"""The mean of each image's visual tokens, taken where the language model gets them in a forward that runs anyway.

It is read at the input of the first decoder layer, so it is the tower's output behind the projector in every family.
Another read of the tower would double its cost; this one is a sum over what is there.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from scanfleet.models.families.family import Family, ImageReader

if TYPE_CHECKING:
    from scanfleet.models.inputs.processing import Rows

Pooled = NDArray[np.float32]


class _Active(threading.local):
    """`[batch, tokens]` bool of each thread's forward, whose hidden states are wanted; None: no forward's are."""

    visual: torch.Tensor | None = None
    found: torch.Tensor | None = None


_active = _Active()


def watch_inputs(network: Any, family: Family) -> bool:
    """Let `pooling` see what enters the first decoder layer. Returns False if the family has none of that form."""
    names = (name for name, _ in network.named_modules() if re.fullmatch(family.language_linear, name))
    layers = {name.partition(".self_attn.")[0] for name in names if ".self_attn." in name}
    first = [name for name in layers if name.rpartition(".")[2] == "0"]
    if len(first) != 1:
        return False
    network.get_submodule(first[0]).register_forward_pre_hook(_see, with_kwargs=True)
    return True


def _see(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    visual = _active.visual
    if visual is None:
        return
    states = (args[0] if args else kwargs["hidden_states"]).float()  # [batch, tokens, features]
    share = visual.to(states.dtype) / visual.sum(1, keepdim=True).clamp(min=1)
    _active.found = torch.einsum("btf,bt->bf", states, share)


@contextmanager
def pooling(reader: ImageReader, rows: Rows, *, wanted: bool) -> Iterator[list[Pooled | None]]:
    """Pool the visual tokens of the one forward that runs inside the block.

    Yields:
        A list with one entry per row, filled in when the block ends: `[features]` fp32; None where not wanted.
    """
    found: list[Pooled | None] = [None] * len(rows.last)
    if not wanted:
        yield found
        return
    _active.visual = rows.inputs["input_ids"] == reader.image_token_id
    try:
        yield found
        if _active.found is not None:
            found[:] = list(_active.found.cpu().numpy())
    finally:
        _active.visual = _active.found = None
