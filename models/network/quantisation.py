"""4- and 8-bit weights in a form that several threads can run.

4 bit. On CPUs with AVX-512 BF16, bitsandbytes packs each layer's weights in its first forward, in place. Two threads in
that forward would pack them twice, and every later score would be wrong. Layers whose height it cannot pack would
fail; they run unpacked. Layers whose width is not a multiple of the block size get a quarter of their weights wrong on
any CPU (0.50, M).

8 bit. LLM.int8() (arXiv 2208.07339) decides per *batch* which activation columns are outliers, and rounds activations
row by row. The same image would score differently beside other images (up to 0.03 in margin on tiny models, M). Here
only the weights are 8 bit: each layer multiplies with their dequantised values in the model's dtype, as the 4-bit
layers do. That needs half the memory of bf16, is more exact than LLM.int8(), and does not depend on the batch.
"""

from __future__ import annotations

from typing import Any

import torch
from bitsandbytes.functional import int8_vectorwise_dequant
from bitsandbytes.nn import Linear4bit, Linear8bitLt

from scanfleet.models.errors import ModelInvalid


class WeightOnlyInt8(Linear8bitLt):
    """A bitsandbytes 8-bit linear layer that dequantises its weights in the forward."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer.

        Args:
            x: [..., in_features].

        Returns:
            [..., out_features] in the dtype of `x`.
        """
        weight: torch.Tensor = int8_vectorwise_dequant(self.state.CB, self.state.SCB)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return torch.nn.functional.linear(x, weight.to(x.dtype), bias)


def use_weight_only_int8(network: Any) -> None:
    """Turn every 8-bit layer of a network into its weight-only form, in place. PEFT still recognises the layers.

    Codes and scales move to where bitsandbytes keeps them after a first forward. No forward changes them afterwards, so
    several threads may run the layers.
    """
    for module in network.modules():
        if type(module) is Linear8bitLt:
            module.__class__ = WeightOnlyInt8
            module.init_8bit_state()
            module.weight.data = module.state.CB


_PACKED_ROWS = 32  # outputs packed together


@torch.inference_mode()
def pack_4bit_layers(network: Any) -> None:
    """Run every 4-bit layer of a network once, in one thread, so that its weights are packed.

    Raises:
        ModelInvalid: a CPU would compute a layer wrong.
    """
    for path, module in network.named_modules():
        if isinstance(module, Linear4bit):
            if module.weight.device.type == "cpu":
                _prepare(module, path)
            module(torch.zeros(1, module.in_features, dtype=torch.bfloat16, device=module.weight.device))


def _prepare(module: Linear4bit, path: str) -> None:
    if module.in_features % module.weight.blocksize:
        raise ModelInvalid(
            f"{path} has {module.in_features} inputs, which 4 bit on a CPU computes wrong: use precision int8 or bf16"
        )
    if module.out_features % _PACKED_ROWS:
        module.support_avx512bf16_for_cpu = False
