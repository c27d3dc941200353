"""Load a checkpoint's weights as a frozen network, in one precision, on one device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import AutoModelForMultimodalLM, BitsAndBytesConfig
from transformers.utils import logging as transformers_logging

from scanfleet.models.errors import ModelInvalid, ModelUnavailable, one_line, unreadable
from scanfleet.models.families import Family
from scanfleet.models.network.attention import use_hooked_attention
from scanfleet.models.network.cpu.gelu import fast_gelu
from scanfleet.models.network.tower import keep_outputs

Precision = Literal["fp32", "bf16", "nf4", "int8"]


def load_network(folder: Path, family: Family, precision: Precision, device: str) -> Any:
    """Load a checkpoint for inference.

    Args:
        folder: the checkpoint.
        family: its family.
        precision: of the weights; the vision tower and the output head stay in bf16 in 4 and 8 bit.
        device: "cpu", "cuda:0" and so on.

    Returns:
        The transformers model in evaluation mode, without gradients.

    Raises:
        ModelInvalid: the weights are damaged or do not fit, or bitsandbytes is missing.
        ModelUnavailable: the device is out of memory or failed.
    """
    try:
        with _quiet():
            network, report = AutoModelForMultimodalLM.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32 if precision == "fp32" else torch.bfloat16,
                quantization_config=_quantisation(precision, family),
                device_map={"": device},
                output_loading_info=True,
            )
    except torch.OutOfMemoryError as error:
        raise ModelUnavailable(
            f"{device} has too little memory for {folder.name}: free memory or use precision nf4"
        ) from error
    except torch.AcceleratorError as error:
        raise ModelUnavailable(f"{device} failed while loading {folder.name}: {one_line(error)}") from error
    except OSError as error:
        raise unreadable(str(folder), error) from error
    except (ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise ModelInvalid(f"{folder} cannot be loaded: {one_line(error)}") from error
    wrong = sorted(report["missing_keys"]) or sorted(str(key) for key in report["mismatched_keys"])
    if wrong:  # transformers would only warn and fill these with random numbers
        raise ModelInvalid(f"{folder}: {len(wrong)} weights are missing or have the wrong shape, first {wrong[0]}")
    if precision == "int8":
        from scanfleet.models.network.quantisation import use_weight_only_int8

        use_weight_only_int8(network)
    if precision == "nf4":
        from scanfleet.models.network.quantisation import pack_4bit_layers

        pack_4bit_layers(network)
    network.requires_grad_(False)
    if family.complete is not None:
        family.complete(network, folder)
    if family.optimise is not None:
        family.optimise(network)
    use_hooked_attention(network, family)
    keep_outputs(network, family)
    if network.device.type == "cpu":
        fast_gelu(network)
    return network.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the progress bar of the weights: a worker's output is its log."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _quantisation(precision: Precision, family: Family) -> Any:
    if precision not in ("nf4", "int8"):
        return None
    try:
        import bitsandbytes  # noqa: F401 - transformers' own error comes later and is longer
    except ImportError as error:
        raise ModelInvalid(
            f"precision {precision} needs bitsandbytes: "
            "in a clone of scanfleet run: pip install -c constraints.txt '.[worker]' (docs/install.md)"
        ) from error
    # transformers matches from the start of a module's name: "visual" alone would skip nothing.
    skip = [*family.vision, "lm_head"]
    if precision == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skip)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=skip,
    )


def device_named(name: str) -> str:
    """Return the torch device that a name, or "auto", stands for. Raises ModelInvalid if there is none."""
    if name == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ModelInvalid("no CUDA device is visible; use --device cpu or auto")
    return name
