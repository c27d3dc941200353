"""Rows of questions behind images: the keys and values of the images once, then a row for each image and question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from scanfleet.models.network.base import BaseModel
from scanfleet.models.network.prefix import Prefix


def show(base: BaseModel, network: Any, instruction: Prefix, inputs: dict[str, Any]) -> Prefix:
    """Return the keys and values of the tokens before the images and of the images.

    Args:
        base: The loaded base model.
        network: Its network, with the adapter.
        instruction: Of the tokens before the images.
        inputs: Of a forward over the images alone, padded on the right.
    """
    reader = base.processor.reader
    n_layers = int(reader.config.get_text_config(decoder=True).num_hidden_layers)
    return instruction.with_images(lambda inputs: reader.hidden(network, inputs), inputs, n_layers)


def ask(
    network: Any,
    asked: Sequence[Sequence[int]],
    n_tokens: torch.Tensor,
    places: torch.Tensor,
    shown: Prefix,
) -> torch.Tensor:
    """Run a row for each question and image behind the images.

    Args:
        network: The base's network, with the adapter.
        asked: Token ids of each question, shorter ones padded on the right.
        n_tokens: `[batch]`, the tokens of each image.
        places: `[batch, most + width]` or `[3, batch, most + width]`: positions of the longest image's tokens and of
            the longest question's; a row's question begins behind its own image.
        shown: The keys and values of the images, padded on the right.

    Returns:
        The last hidden states, `[questions, batch, tokens, hidden]`.
    """
    device, n, k, width = n_tokens.device, len(n_tokens), len(asked), max(map(len, asked))
    ids = torch.tensor([[*question, *[0] * (width - len(question))] for question in asked], device=device)
    most = int(n_tokens.max())
    own = n_tokens[:, None] + torch.arange(width, device=device)  # [batch, tokens]: where the questions stand
    places = places.gather(-1, own.expand(*places.shape[:-1], -1))
    seen = torch.ones(width, shown.length + width, dtype=torch.bool, device=device).tril(shown.length)[None, None]
    if int(n_tokens.min()) < most:
        column = torch.arange(shown.length + width, device=device)
        padding = (column >= shown.length - most + n_tokens[:, None]) & (column < shown.length)
        seen = (seen & ~padding[:, None, None]).repeat(k, 1, 1, 1)
    inputs = {
        "input_ids": ids.repeat_interleave(n, 0),
        "position_ids": torch.cat([places] * k, dim=-2),
        "attention_mask": seen,
        "use_cache": False,
    }
    hidden: torch.Tensor = network.base_model(**inputs, **shown.repeated(k).cached()).last_hidden_state
    return hidden.view(k, n, width, -1)
