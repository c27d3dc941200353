"""A training forward for equal-sized images: transformers' own modules and weights, called batch-wise.

transformers packs images and runs attention image by image, which costs most of the time of a model this small.
Here a batch has one image size, the answer position alone is computed in the last layer, and an instruction shared
by the batch is read once (its keys and values are the same for every image, since the instruction stands first).
Works through PEFT's wrapped layers too. `tests/unit/models/pocket/test_forward.py` proves that both give the same
state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor
from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

PATCH, MERGE = 16, 2


@dataclass(frozen=True, kw_only=True, eq=False)
class VisionFeatures:
    """The vision tower's output for a batch.

    Attributes:
        merged: merged tokens [batch, M, features].
        deep: [batch, M, features] per deepstack layer.
    """

    merged: Tensor
    deep: tuple[Tensor, ...]
    grid: tuple[int, int]  # merged tokens down and across


def patches(images: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 to (B, patches, 3 * 16 * 16) float32, normalised to -1..1, in merge-block order."""
    b, h, w, _ = images.shape
    block = PATCH * MERGE
    x = images.view(b, h // block, MERGE, PATCH, w // block, MERGE, PATCH, 3)
    x = x.permute(0, 1, 4, 2, 5, 7, 3, 6).reshape(b, (h // PATCH) * (w // PATCH), 3 * PATCH * PATCH)
    return x.float().mul_(2 / 255).sub_(1)


@lru_cache(maxsize=16)
def _geometry(h: int, w: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Position table indices, their weights, and (h, w) ids of a grid of h x w patches."""
    grid = torch.tensor([[1, h, w]])
    indices, weights = get_vision_interpolation_indices_and_weights(
        grid, num_grid_per_side=side, mode="bilinear", align_corners=True, spatial_merge_size=MERGE
    )
    return indices, weights, get_vision_position_ids(grid, MERGE)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


def encode_images(visual: Any, images: Tensor) -> VisionFeatures:
    """Run the vision tower on [batch, height, width, 3] uint8 images; height and width are multiples of 32."""
    b, height, width, _ = images.shape
    h, w = height // PATCH, width // PATCH
    indices, weights, places = _geometry(h, w, visual.num_grid_per_side)
    embed = visual.patch_embed.proj
    # A still image repeats its frame; summing the kernel over time is the same at half the work.
    x = F.linear(patches(images), embed.weight.sum(2).flatten(1), embed.bias)
    x = x + (visual.pos_embed(indices) * weights[..., None]).sum(1)
    cos, sin = visual.rotary_pos_emb(x, places)
    deep = []
    for number, block in enumerate(visual.blocks):
        x = x + _self_attention(block.attn, block.norm1(x), cos, sin)
        x = x + block.mlp(block.norm2(x))
        if number in visual.deepstack_visual_indexes:
            merger = visual.deepstack_merger_list[visual.deepstack_visual_indexes.index(number)]
            deep.append(merger(x).view(b, h * w // MERGE**2, -1))
    merged = visual.merger(x).view(b, h * w // MERGE**2, -1)
    return VisionFeatures(merged=merged, deep=tuple(deep), grid=(h // MERGE, w // MERGE))


def _self_attention(attn: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    b, n, d = x.shape
    q, k, v = attn.qkv(x).view(b, n, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(_rotate(q, cos, sin), _rotate(k, cos, sin), v)
    return attn.proj(mixed.transpose(1, 2).reshape(b, n, d))


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """The language model's output for a turn.

    Attributes:
        hidden: [batch, features], the answer position's state after the final norm.
        attention: [layers, batch, heads, M], the answer position's attention in every layer to the tokens of all images
            in order (a softmax over the whole turn, so a row sums to at most 1); empty unless requested.
    """

    hidden: Tensor
    attention: Tensor


def read_image(text: Any, seen: VisionFeatures, before: Tensor, lengths: Tensor, after: Tensor) -> Tensor:
    """Last hidden state at the answer position, (B, d), after the final norm; see `read_images`."""
    return read_images(text, [seen], before, lengths, [after]).hidden


def read_images(
    text: Any,
    images: Sequence[VisionFeatures],
    before: Tensor,
    lengths: Tensor,
    after: Sequence[Tensor],
    *,
    attention: bool = False,
) -> Answer:
    """Read one turn with one or more images, for a batch.

    text: the language model (`model.model.language_model`, possibly with LoRA). before: (G, P) ids left of the first
    image, left-padded, where G is B, or 1 for an instruction that all rows share; lengths: (G,) real tokens in each
    row. after: for each image the (S,) ids that follow it, the last ending with the generation prompt.
    """
    b, p = len(images[0].merged), before.shape[1]
    parts = [x for seen, ids in zip(images, after, strict=True) for x in (seen.merged, _words(text, ids, b))]
    own = torch.cat(parts, 1)
    deep = [_spread(images, after, number) for number in range(len(images[0].deep))]
    where_before, where_own = _positions(lengths, p, [seen.grid for seen in images], [len(ids) for ids in after])
    head = text.embed_tokens(before)
    cos_head, sin_head = text.rotary_emb(head, where_before)
    cos_own, sin_own = text.rotary_emb(own, where_own)
    turns = (cos_head[:, None], sin_head[:, None]), (cos_own[:, None], sin_own[:, None])
    causal, mask = _masks(lengths, p, own.shape[1])
    last, kept = len(text.layers) - 1, []
    for number, layer in enumerate(text.layers):
        kv_head, head = _step_head(layer, head, turns[0], causal, done=number == last)
        if attention:
            kept.append(_last_attention(layer, own, kv_head, turns[1])[..., p:])
        own = _step_own(layer, own, kv_head, turns[1], mask, final=number == last)
        if number < len(deep):
            own = own + deep[number]
    shown = _is_image([len(seen.merged[0]) for seen in images], [len(ids) for ids in after])
    return Answer(
        hidden=_norm(text.norm, own[:, -1]), attention=torch.stack(kept)[..., shown] if attention else torch.empty(0)
    )


def _words(text: Any, ids: Tensor, b: int) -> Tensor:
    words: Tensor = text.embed_tokens(ids).expand(b, -1, -1)
    return words


def _spread(images: Sequence[VisionFeatures], after: Sequence[Tensor], number: int) -> Tensor:
    """One deepstack feature of all images at their places among a turn's own tokens, zero at words: (B, T, d)."""
    parts = []
    for seen, ids in zip(images, after, strict=True):
        parts += [seen.deep[number], seen.merged.new_zeros(len(seen.merged), len(ids), seen.merged.shape[-1])]
    return torch.cat(parts, 1)


def _is_image(tokens: Sequence[int], words: Sequence[int]) -> Tensor:
    parts = [
        torch.full((n,), shown) for t, w in zip(tokens, words, strict=True) for n, shown in ((t, True), (w, False))
    ]
    return torch.cat(parts)


def _last_attention(layer: Any, x: Tensor, before: tuple[Tensor, Tensor], turn: tuple[Tensor, Tensor]) -> Tensor:
    """The answer position's attention in one layer, (B, heads, P + T)."""
    attn, inner = layer.self_attn, _norm(layer.input_layernorm, x)
    k = torch.cat((before[0].expand(len(x), -1, -1, -1), _heads(attn, inner, turn)[0]), 2)
    k = k.repeat_interleave(attn.num_key_value_groups, 1)
    end = inner[:, -1:]
    q = _norm(attn.q_norm, attn.q_proj(end).view(len(x), 1, -1, attn.head_dim)).transpose(1, 2)
    q = _rotate(q, turn[0][:, :, -1:], turn[1][:, :, -1:])
    return torch.softmax(q @ k.transpose(2, 3) * attn.head_dim**-0.5, -1)[:, :, 0]


def _positions(
    lengths: Tensor, p: int, grids: Sequence[tuple[int, int]], tails: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return three-axis positions [3, G, P] and [3, G, T]: text counts up, image tokens have rows and columns.

    The text after an image continues from the larger of its sides, as in transformers' `get_rope_index`.
    """
    plain = (torch.arange(p) - (p - lengths)[:, None]).clamp(min=0)
    axes, at = [], 0
    for (rows, columns), tail in zip(grids, tails, strict=True):
        y = torch.arange(rows).repeat_interleave(columns)
        x = torch.arange(columns).repeat(rows)
        axes.append(torch.stack((torch.zeros_like(y), y, x)) + at)
        at += max(rows, columns)
        axes.append((torch.arange(tail) + at).expand(3, -1))
        at += tail
    own = torch.cat(axes, 1)[:, None] + lengths[None, :, None]
    return plain[None].expand(3, -1, -1), own


def _masks(lengths: Tensor, p: int, own: int) -> tuple[Tensor, Tensor]:
    """Return the attention masks: [G, 1, P, P] among the tokens before, and [G, 1, own, P + own] for the rest."""
    real = torch.arange(p) >= (p - lengths)[:, None]
    causal = torch.ones(p, p, dtype=torch.bool).tril() & real[:, None, None, :]
    causal = causal | torch.eye(p, dtype=torch.bool)  # a padded row must see something, or it becomes nan
    among = torch.ones(own, own, dtype=torch.bool).tril().expand(len(lengths), 1, -1, -1)
    return causal, torch.cat((real[:, None, None, :].expand(-1, 1, own, -1), among), -1)


def _norm(module: Any, x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), module.weight, module.variance_epsilon)


def _heads(attn: Any, x: Tensor, turn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Keys and values, (B, kv heads, T, head_dim), keys turned to their positions."""
    shape = (*x.shape[:2], -1, attn.head_dim)
    k = _rotate(_norm(attn.k_norm, attn.k_proj(x).view(shape)).transpose(1, 2), *turn)
    return k, attn.v_proj(x).view(shape).transpose(1, 2)


def _attend(attn: Any, x: Tensor, turn: tuple[Tensor, Tensor], k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    b, t, _ = x.shape
    q = _rotate(_norm(attn.q_norm, attn.q_proj(x).view(b, t, -1, attn.head_dim)).transpose(1, 2), *turn)
    k, v = (y.repeat_interleave(attn.num_key_value_groups, 1) for y in (k, v))
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return attn.o_proj(mixed.transpose(1, 2).reshape(b, t, -1))


def _step_head(
    layer: Any, x: Tensor, turn: tuple[Tensor, Tensor], causal: Tensor, *, done: bool
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Keys and values of the tokens before the image, and their states for the next layer (unused when done)."""
    inner = _norm(layer.input_layernorm, x)
    kv = _heads(layer.self_attn, inner, turn)
    if done:
        return kv, x
    x = x + _attend(layer.self_attn, inner, turn, *kv, causal)
    return kv, x + layer.mlp(_norm(layer.post_attention_layernorm, x))


def _step_own(
    layer: Any, x: Tensor, before: tuple[Tensor, Tensor], turn: tuple[Tensor, Tensor], mask: Tensor, *, final: bool
) -> Tensor:
    inner = _norm(layer.input_layernorm, x)
    own = _heads(layer.self_attn, inner, turn)
    b = len(x)
    k, v = (torch.cat((a.expand(b, -1, -1, -1), c), 2) for a, c in zip(before, own, strict=True))
    if final:  # only the answer position is read
        x, inner, mask = x[:, -1:], inner[:, -1:], mask[:, :, -1:]
        turn = (turn[0][:, :, -1:], turn[1][:, :, -1:])
    x = x + _attend(layer.self_attn, inner, turn, k, v, mask)
    return x + layer.mlp(_norm(layer.post_attention_layernorm, x))
