"""4-bit weights in the form in which they are multiplied, before any thread runs them; and what a CPU cannot do.

On CPUs with AVX-512 BF16, bitsandbytes packs each layer's weights anew in its first forward, in place: two threads that
run that forward at once would pack them twice, and every later score would be wrong. Layers of some heights it cannot
pack, and fails; they are multiplied without. Layers whose width is no whole number of blocks come out wrong by a
quarter of their weights on any CPU (0.50, M).
"""

from __future__ import annotations

from typing import Any

import torch
from bitsandbytes.nn import Linear4bit

from models.errors import ModelInvalid

_PACKED_ROWS = 32  # outputs that are packed together


@torch.inference_mode()
def settle(network: Any) -> None:
    """Run every 4-bit layer of a network once, alone. Raises ModelInvalid for one that a CPU would get wrong."""
    for path, module in network.named_modules():
        if isinstance(module, Linear4bit):
            if module.weight.device.type == "cpu":
                _prepare(module, path)
            module(torch.zeros(1, module.in_features, dtype=torch.bfloat16, device=module.weight.device))


def _prepare(module: Linear4bit, path: str) -> None:
    if module.in_features % module.weight.blocksize:
        raise ModelInvalid(
            f"{path} has {module.in_features} inputs, which 4 bit on a CPU gets wrong: use precision int8 or bf16"
        )
    if module.out_features % _PACKED_ROWS:
        module.support_avx512bf16_for_cpu = False
