"""Attention by groups of segments is attention segment by segment, and a packed vision tower uses it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from scanfleet.models.families.segments import attend_in_segments


@pytest.mark.parametrize("lengths", [[5], [4, 4, 4], [3, 7, 3, 1, 7], [0, 6, 2]])
def test_each_token_sees_its_own_segment_and_no_other(lengths: list[int]) -> None:
    generator = torch.Generator().manual_seed(3)
    query, key, value = (torch.randn(1, 2, sum(lengths), 8, generator=generator) for _ in range(3))
    ends = torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32)
    found, _ = attend_in_segments(None, query, key, value, None, cu_seq_lens_q=ends, scaling=0.5)
    parts = [torch.split(tensor, lengths, dim=2) for tensor in (query, key, value)]
    alone = [F.scaled_dot_product_attention(q, k, v, scale=0.5) for q, k, v in zip(*parts, strict=True)]
    assert torch.allclose(found, torch.cat(alone, dim=2).transpose(1, 2), atol=1e-6)
