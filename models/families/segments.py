"""Attention within the segments of a packed sequence, all segments of one length at a time.

The Qwen-VL vision towers pack the patches of all images (in Qwen2.5-VL, of all windows) into one sequence. Without the
flash-attention package transformers loops over the segments, which takes most of a forward's time for small images. It
calls an attention function whose name contains "flash" for all segments at once. This one groups them by length and
passes each group to torch's own kernel.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from transformers import AttentionInterface

NAME = "scanfleet_flash_segments"


def attend_in_segments(
    module: Any,  # noqa: ARG001 - the interface's signature
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cu_seq_lens_q: torch.Tensor,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each segment of a packed sequence.

    Args:
        query: [1, heads, patches, head_dim].
        key: [1, heads, patches, head_dim].
        value: [1, heads, patches, head_dim].
        attention_mask: must be None.
        cu_seq_lens_q: [segments + 1] integers, the start of each segment and the end of the last one.
        scaling: factor of the logits; None: head_dim ** -0.5.

    Returns:
        [1, patches, heads, head_dim], and None in place of the attention weights.
    """
    assert attention_mask is None
    lengths = cu_seq_lens_q.diff()
    whole = torch.stack((query[0], key[0], value[0])).transpose(1, 2)  # [3, patches, heads, head_dim]
    shortest, longest = lengths.aminmax()
    if shortest == longest:
        return _attend(whole, int(longest), scaling)[None], None
    out = torch.empty_like(whole[0])
    of_length = lengths.repeat_interleave(lengths)  # [patches]
    for length in sorted(set(lengths.tolist())):
        here = (of_length == length).nonzero().squeeze(1)
        if length:
            out[here] = _attend(whole[:, here], length, scaling)
    return out[None], None


def _attend(qkv: torch.Tensor, length: int, scaling: float | None) -> torch.Tensor:
    """Map [3, segments * length, heads, head_dim] to [segments * length, heads, head_dim]."""
    heads, width = qkv.shape[2:]
    query, key, value = qkv.view(3, -1, length, heads, width).transpose(2, 3).unbind()
    mixed = F.scaled_dot_product_attention(query, key, value, scale=scaling)
    return mixed.transpose(1, 2).reshape(-1, heads, width)


def use_segments(vision_config: Any) -> None:
    """Make a loaded vision tower with this configuration attend by groups of segments."""
    vision_config._attn_implementation = NAME


AttentionInterface.register(NAME, attend_in_segments)
