"""4-bit weights in the form in which they are multiplied, before any thread runs them; and what a CPU cannot do.

On CPUs with AVX-512 BF16, bitsandbytes packs each layer's weights anew in its first forward, in place: two threads that
run that forward at once would pack them twice, and every later score would be wrong. Layers of some heights it cannot
pack, and fails; they are multiplied without. Layers whose width is no whole number of blocks come out wrong by a
quarter of their weights on any CPU (0.50, M).

8-bit weights without 8-bit activations.

LLM.int8() (arXiv 2208.07339) decides per *batch* which activation columns are outliers, and rounds activations row by
row: the same image then scores differently beside other neighbours (up to 0.03 in margin on tiny models, M), which our
verdicts must not. Here bitsandbytes keeps the weights in 8 bit, and each layer multiplies with their dequantised
values in the model's own dtype, as the 4-bit layers do: half the memory of bf16, more exact, and batch-invariant.
"""

from __future__ import annotations

from typing import Any

import torch
from bitsandbytes.functional import int8_vectorwise_dequant
from bitsandbytes.nn import Linear4bit, Linear8bitLt

from models.errors import ModelInvalid


class WeightOnlyInt8(Linear8bitLt):
    """A bitsandbytes 8-bit linear layer whose forward dequantises the weights."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., in) -> (..., out), in the dtype of x."""
        weight: torch.Tensor = int8_vectorwise_dequant(self.state.CB, self.state.SCB)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return torch.nn.functional.linear(x, weight.to(x.dtype), bias)


def use_weight_only_int8(network: Any) -> None:
    """Turn every 8-bit layer of a network into its weight-only form, in place; PEFT still knows them by class.

    Codes and scales move to where bitsandbytes keeps them after a first forward, so that no forward changes anything:
    several threads may run them.
    """
    for module in network.modules():
        if type(module) is Linear8bitLt:
            module.__class__ = WeightOnlyInt8
            module.init_8bit_state()
            module.weight.data = module.state.CB


_PACKED_ROWS = 32  # outputs that are packed together


@torch.inference_mode()
def pack_4bit_layers(network: Any) -> None:
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
