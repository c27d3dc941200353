"""4-bit layers of any height run and change nothing; those of a width that comes out wrong are refused."""

import pytest
import torch
from bitsandbytes.nn import Linear4bit

from scanfleet.models.errors import ModelInvalid
from scanfleet.models.network.quantisation import pack_4bit_layers


def layer(n_in: int, n_out: int, weight: torch.Tensor) -> Linear4bit:
    made = Linear4bit(n_in, n_out, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4")
    made.load_state_dict({"weight": weight})
    return made.to("cpu").eval().requires_grad_(False)


@pytest.mark.parametrize(("n_in", "n_out"), [(64, 64), (64, 48), (128, 33)])
def test_a_layer_of_any_height_multiplies_with_its_weights(n_in: int, n_out: int) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(n_out, n_in), torch.randn(5, n_in, dtype=torch.bfloat16)
    settled = layer(n_in, n_out, weight)
    pack_4bit_layers(settled)
    held = settled.weight.data.clone()
    with torch.inference_mode():
        y = settled(x).float()
    exact = x.float() @ weight.T
    assert (y - exact).norm() < 0.15 * exact.norm()  # 4-bit normal floats are off by about a tenth
    assert torch.equal(settled.weight.data, held)


@pytest.mark.parametrize("n_in", [32, 96])
def test_a_width_that_comes_out_wrong_is_refused(n_in: int) -> None:
    with pytest.raises(ModelInvalid, match=f"has {n_in} inputs.*use precision int8 or bf16"):
        pack_4bit_layers(torch.nn.Sequential(layer(n_in, 64, torch.randn(64, n_in))))
