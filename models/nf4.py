"""4-bit weights in the form in which they are multiplied, before any thread runs them.

On CPUs with AVX-512 BF16, bitsandbytes packs each layer's weights anew in its first forward, in place: two threads that
run that forward at once would pack them twice, and every later score would be wrong.
"""

from __future__ import annotations

from typing import Any

import torch
from bitsandbytes.nn import Linear4bit


@torch.inference_mode()
def settle(network: Any) -> None:
    """Run every 4-bit layer of a network once, alone."""
    for module in network.modules():
        if isinstance(module, Linear4bit):
            module(torch.zeros(1, module.in_features, dtype=torch.bfloat16, device=module.weight.device))
