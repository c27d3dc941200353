"""grad-att: the attention that the answer would gain from, by one token's backward pass (ViCrop, arXiv 2502.17422).

    v = log p(likeliest token)        map = mean over heads of A · relu(∂v/∂A)       A: the answer position's attention

Only the last token's path depends on its attention: no earlier token sees it. So everything is prefilled without
gradients and its keys and values are kept. Then the last token alone runs once more, with explicit attention in the
chosen layers. This equals the gradient through eager attention, at the price of about one token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache
from transformers.integrations.sdpa_attention import repeat_kv

from scanfleet.models.families import PreparedImage
from scanfleet.models.network.attention import AttentionHook, attention_modules, hooked
from scanfleet.models.network.recording import last_rows
from scanfleet.models.relevance.gradients import answer_direction, differentiable
from scanfleet.models.relevance.prompt_runner import PreparedForward, PromptRunner


class Explicit(AttentionHook):
    """Attends with one token per row by attention weights that a gradient can be computed for.

    Attributes:
        attention: [batch, heads, keys] fp32 for each hooked layer, in the order in which they ran.
    """

    def __init__(self, modules: Sequence[Any]) -> None:
        super().__init__(modules)
        self.attention: list[torch.Tensor] = []

    def attend(
        self,
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        **settings: Any,
    ) -> tuple[torch.Tensor, None]:
        """Attend as transformers does, up to rounding.

        Args:
            module: the attention module that runs.
            query: [batch, heads, 1, head_dim].
            key: [batch, kv_heads, keys, head_dim].
            value: [batch, kv_heads, keys, head_dim].
            mask: as in `AttentionHook.attend`.
            **settings: as in `AttentionHook.attend`.

        Returns:
            [batch, 1, heads, head_dim], and None in place of the attention weights.
        """
        batch, heads = query.shape[:2]
        only = torch.zeros(batch, dtype=torch.long, device=query.device)
        row = last_rows(query, key, mask, only, settings["scaling"])
        if not row.requires_grad:  # nothing before the first hooked layer has a gradient
            row.requires_grad_()
        self.attention.append(row)
        mixed = torch.einsum("bhk,bhkd->bhd", row.to(value.dtype), repeat_kv(value, heads // value.shape[1]))
        return mixed[:, None], None


@torch.inference_mode(False)
def attention_gradient(
    runner: PromptRunner, images: Sequence[PreparedImage], layers: Sequence[int]
) -> list[NDArray[np.float32]]:
    """Compute grad-att maps.

    Averaging over many layers costs this method 3.5 points (its paper), so it is better to name one layer.

    Args:
        runner: runs the prompt.
        images: one row each.
        layers: as in `models.network.attention.attention_modules`.

    Returns:
        [visual_tokens] fp32 per image, not negative, the mean over heads and layers.
    """
    base = runner.base
    explicit = Explicit(attention_modules(base.network, base.family, layers))
    with differentiable(base), runner.prepared(images) as forward:
        cache = forward.prefix.growing(len(images))
        _prefill(runner, forward, cache)
        with torch.enable_grad(), hooked(explicit):
            hidden = _last_token(forward, cache)
        direction = answer_direction(hidden.detach(), *runner.output)
        grads = torch.autograd.grad(hidden, explicit.attention, direction.to(hidden.dtype))
    pairs = zip(explicit.attention, grads, strict=True)
    # [batch, prefix + tokens + 1]
    values = torch.stack([(row.detach() * grad.relu()).mean(1) for row, grad in pairs]).mean(
        0
    )  # [batch, prefix + tokens + 1]
    ids = forward.rows.inputs["input_ids"]
    own = values[:, forward.prefix.length : -1].cpu()
    visual = (ids == base.processor.reader.image_token_id).cpu()
    return [row[there].numpy() for row, there in zip(own, visual, strict=True)]


@torch.no_grad()
def _prefill(runner: PromptRunner, forward: PreparedForward, cache: DynamicCache) -> None:
    """Fill the cache with the keys and values of whole rows."""
    ids, start = forward.rows.inputs["input_ids"], forward.prefix.length
    width = ids.shape[1]
    seen = torch.ones(width, start + width, dtype=torch.bool, device=ids.device).tril(start)
    inputs = forward.rows.inputs | {forward.prefix.keyword: cache, "attention_mask": seen[None, None]}
    runner.base.processor.reader.hidden(forward.network, inputs)


def _last_token(forward: PreparedForward, cache: DynamicCache) -> torch.Tensor:
    """Return the last hidden state of each row's last token, [batch, features].

    The token attends to its row's earlier tokens and itself.
    """
    rows, start = forward.rows, forward.prefix.length
    ids, places = rows.inputs["input_ids"], rows.inputs["position_ids"]
    n, width = ids.shape
    at = torch.arange(n, device=ids.device)
    before = torch.arange(start + width, device=ids.device) < (start + rows.last)[:, None]
    seen = torch.cat((before, before.new_ones(n, 1)), dim=-1)[:, None, None]
    hidden: torch.Tensor = forward.network.base_model(
        input_ids=ids[at, rows.last][:, None],
        position_ids=places[..., at, rows.last][..., None],
        attention_mask=seen,
        use_cache=True,
        **{forward.prefix.keyword: cache},
    ).last_hidden_state
    return hidden[:, -1]
