"""What transformers' own eager attention gives for one image: the reference for everything that avoids it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from scanfleet.models.families import PreparedImage
from scanfleet.models.inputs.prompts import Turn
from scanfleet.models.network.attention import attention_modules
from scanfleet.models.network.base import BaseModel, Precision, load_base


def eager(folder: Path, precision: Precision = "fp32") -> BaseModel:
    """A base whose language model attends eagerly."""
    base = load_base(str(folder), precision=precision, device="cpu")
    for attention in attention_modules(base.network, base.family, range(int(text_config(base).num_hidden_layers))):
        attention.config._attn_implementation = {"": "eager"}
    return base


def text_config(base: BaseModel) -> Any:
    return base.network.config.get_text_config(decoder=True)


def attend(base: BaseModel, turn: Turn, image: PreparedImage, **more: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The last hidden state (d,), and each layer's attention (1, heads, T, T), of the whole turn in one forward."""
    reader, ids = base.processor.reader, torch.tensor([turn.ids(image.tokens)])
    before = len(turn.before)
    behind = reader.positions(before=before, rows=[[image]], between=0, width=ids.shape[1] - before)
    first = torch.arange(before).expand(*behind.shape[:-1], before)
    inputs = {"input_ids": ids, "position_ids": torch.cat((first, behind), -1)}
    inputs |= reader.stack([image], device=base.device, dtype=base.network.dtype) | more
    out = base.network.base_model(**inputs, use_cache=False, output_attentions=True)
    return out.last_hidden_state[0, -1], list(out.attentions)


def visual(base: BaseModel, turn: Turn, image: PreparedImage) -> torch.Tensor:
    """(T,) bool: which tokens of the turn stand for the image."""
    return torch.tensor(turn.ids(image.tokens)) == base.processor.reader.image_token_id
