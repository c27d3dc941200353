"""A tiny Phi-4-multimodal with its vision LoRA, and the inputs that its documentation and image processor describe."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from PIL import Image
from safetensors.torch import save_file
from transformers import Phi4MultimodalConfig, Phi4MultimodalForCausalLM

from scanfleet.models.network.base import BaseModel
from scanfleet.models.types import Question
from tests.unit.models.checkpoints import widen
from tests.unit.models.tiny_models import tokenizer

LINEAR = 8  # four projections in each of two layers
SIDE, PATCH, MOST = 56, 14, 36
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|image|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
RANK = 2
LORA = {"r": RANK, "lora_alpha": 4, "peft_type": "LORA", "bias": "none", "modules_to_save": []}
TARGETS = {"target_modules": r"model\.layers\.\d+\..*_proj"}


def config(image: int, audio: int, **text: Any) -> Phi4MultimodalConfig:
    layers = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    small = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32, "num_blocks": 2}
    wide = {"ext_pw_out_channel": 32, "depthwise_separable_out_channel": 32, "nemo_conv_channels": 8}
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "sliding_window": 8192}
    factors = {"short_factor": [1.0] * 6, "long_factor": [4.0] * 6, "original_max_position_embeddings": 4096}
    return Phi4MultimodalConfig(
        **sizes | {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0} | text,
        rope_parameters={"rope_type": "longrope", "rope_theta": 10_000.0, "partial_rotary_factor": 0.75, **factors},
        vision_config={"image_size": SIDE, "crop_size": SIDE, "patch_size": PATCH, "image_token_id": image, **layers},
        audio_config={"audio_token_id": audio, **small, **wide},
    )


def checkpoint(folder: Path) -> Path:
    made = tokenizer()
    made.add_tokens(["<|image|>", "<|audio|>", "<|user|>", "<|assistant|>", "<|end|>"], special_tokens=True)
    made.chat_template = TEMPLATE
    image, audio = made.convert_tokens_to_ids(["<|image|>", "<|audio|>"])
    network = Phi4MultimodalForCausalLM(config(image, audio, vocab_size=len(made)))
    widen(network)
    network.save_pretrained(folder)
    made.save_pretrained(folder)
    settings = {"image_processor_type": "Phi4MultimodalImageProcessorFast", "dynamic_hd": MOST, "patch_size": PATCH}
    settings["size"] = {"height": SIDE, "width": SIDE}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    _save_lora(folder / "vision-lora", network)
    return folder


def _save_lora(folder: Path, network: Any) -> None:
    """As PEFT saves one, over the same layers as the released one."""
    folder.mkdir()
    tensors = {}
    for name, module in network.model.layers.named_modules(prefix="base_model.model.model.layers"):
        if isinstance(module, torch.nn.Linear):
            tensors[f"{name}.lora_A.weight"] = torch.randn(RANK, module.in_features) * 0.1
            tensors[f"{name}.lora_B.weight"] = torch.randn(module.out_features, RANK) * 0.1
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(LORA | TARGETS))


def reference_inputs(base: BaseModel, prompt_text: str, image: Image.Image, question: Question) -> dict[str, Any]:
    """Step by step as transformers' image processor does it with torchvision, one image, plain loops."""
    most = max(1, min(MOST, question.max_pixels // SIDE**2 - 1))
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]
    columns, rows = math.ceil(image.width / SIDE), math.ceil(image.height / SIDE)
    if columns * rows > most:
        shapes = [(i, j) for area in range(1, most + 1) for i in range(1, area + 1) for j in (area / i,) if j % 1 == 0]
        aspect = image.width / image.height
        least = min(abs(aspect - i / j) for i, j in shapes)
        near = [(i, int(j)) for i, j in shapes if abs(aspect - i / j) == least]
        large = [(i, j) for i, j in near[1:] if image.width * image.height > 0.5 * SIDE**2 * i * j]
        columns, rows = [near[0], *large][-1]
    scale = min(columns * SIDE / image.width, rows * SIDE / image.height)
    height, width = (min(int(old * scale + 1e-9), full) for old, full in _sides(image, rows, columns))
    resized = F.interpolate(pixels, (height, width), mode="bilinear", antialias=True).float()
    canvas = torch.full((1, 3, rows * SIDE, columns * SIDE), 255.0)
    canvas[:, :, :height, :width] = resized
    canvas = (canvas / 255 - 0.5) / 0.5
    crops = [F.interpolate(canvas, (SIDE, SIDE), mode="bicubic", align_corners=False, antialias=False)]
    side = SIDE // PATCH
    mask = torch.ones(rows * side, columns * side)
    empty_rows, empty_columns = (rows * SIDE - height) // PATCH, (columns * SIDE - width) // PATCH
    mask[rows * side - empty_rows :] = 0
    mask[:, columns * side - empty_columns :] = 0
    masks = [torch.ones(side, side)]
    for row in range(rows):
        for column in range(columns):
            crops.append(canvas[:, :, row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE])
            masks.append(mask[row * side : (row + 1) * side, column * side : (column + 1) * side])
    half = mask[::2, ::2]
    tokens = (side // 2) ** 2 + 1 + int(half.sum()) + int(half[:, 0].sum()) + side // 2
    ids = base.processor.tokenizer(prompt_text.replace("<|image|>", "<|image|>" * tokens), return_tensors="pt")
    return {
        "input_ids": ids.input_ids,
        "image_pixel_values": torch.cat(crops)[None],
        "image_attention_mask": torch.stack(masks)[None],
        "image_sizes": torch.tensor([[rows * SIDE, columns * SIDE]]),
    }


def _sides(image: Image.Image, rows: int, columns: int) -> tuple[tuple[int, int], tuple[int, int]]:
    return (image.height, rows * SIDE), (image.width, columns * SIDE)
