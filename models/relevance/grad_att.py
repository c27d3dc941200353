"""grad-att: attention that the answer would gain from, by one token's way back (ViCrop, arXiv 2502.17422).

    v = log p(likeliest token)        map = mean over heads of A · relu(∂v/∂A)       A: the answer position's attention

Only the last token's own path depends on its attention: no earlier token sees it. So everything is prefilled without
gradients, its keys and values kept, and the last token alone goes through once more with the attention of the chosen
layers made explicit. That is exactly the gradient through eager attention, at the price of about a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache
from transformers.integrations.sdpa_attention import repeat_kv

from models.families import PreparedImage
from models.network.attention import AttentionHook, attention_modules, hooked, last_rows
from models.relevance.gradients import answer_direction, differentiable
from models.relevance.prompt_runner import PreparedForward, PromptRunner


class Explicit(AttentionHook):
    """Attends with one token a row by numbers that a gradient can be asked of.

    attention: (B, heads, keys) fp32 for each watched layer, in the order in which they ran.
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
        """The same as ever, up to rounding."""
        batch, heads = query.shape[:2]
        only = torch.zeros(batch, dtype=torch.long, device=query.device)
        row = last_rows(query, key, mask, only, settings["scaling"])
        if not row.requires_grad:  # nothing before the first of them has a gradient
            row.requires_grad_()
        self.attention.append(row)
        mixed = torch.einsum("bhk,bhkd->bhd", row.to(value.dtype), repeat_kv(value, heads // value.shape[1]))
        return mixed[:, None], None


@torch.inference_mode(False)
def attention_gradient(
    runner: PromptRunner, images: Sequence[PreparedImage], layers: Sequence[int]
) -> list[NDArray[np.float32]]:
    """(visual tokens,) each, mean over heads and layers. layers: as `models.network.attention.watched` takes them.

    Averaging over many layers costs this method 3.5 points (its paper): better to name one.
    """
    base = runner.base
    explicit = Explicit(attention_modules(base.network, base.family, layers))
    with differentiable(base), runner.prepared(images) as forward:
        cache = forward.prefix.growing(len(images))
        _prefill(runner, forward, cache)
        with torch.enable_grad(), hooked(explicit):
            hidden = _last_token(forward, cache)
        way = answer_direction(hidden.detach(), *runner.output)
        grads = torch.autograd.grad(hidden, explicit.attention, way.to(hidden.dtype))
    pairs = zip(explicit.attention, grads, strict=True)
    values = torch.stack([(row.detach() * grad.relu()).mean(1) for row, grad in pairs]).mean(0)  # (B, P + T + 1)
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
    """The last hidden state (B, d) of each row's last token, which sees what came before it in its row, and itself."""
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
