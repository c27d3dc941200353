"""Phi-4-multimodal (arXiv 2503.01743): the image on a white canvas of square crops, and the whole of it in one more.

transformers' image processor of this family needs torchvision; its steps are done here without. The vision LoRA that
comes with the checkpoint becomes part of the language model; the parts for sound are dropped.

Where an image lies on a canvas of equal square crops, as Phi-4-multimodal lays it. Arithmetic alone.

A LoRA that a checkpoint brings along for images, in its folder vision-lora: part of the language model from loading.

    W' = round(W + alpha / r · B·A)     the sum in fp32, rounded once to W's dtype
    y = W x + alpha / r · B A x         beside weights in 4 and 8 bit, to which nothing can be added

With it the model is the one that was released; what is fine-tuned comes on top.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers.image_processing_base import ImageProcessingMixin

from models.errors import ImageUnsuitable, ModelInvalid, one_line, unreadable
from models.families.family import Family, ImageReader, PreparedImage, normalise
from models.types import Detail


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """Rows and columns of crops of `side` pixels; the image fills width x height pixels from the upper left corner."""

    rows: int
    columns: int
    width: int
    height: int
    side: int

    @property
    def margins(self) -> tuple[int, int]:
        """Empty pixels on the right and below."""
        return self.columns * self.side - self.width, self.rows * self.side - self.height

    def filled(self, patch: int) -> tuple[int, int]:
        """Rows and columns of patches of the canvas that hold some of the image."""
        right, below = self.margins
        per_crop = self.side // patch
        return self.rows * per_crop - below // patch, self.columns * per_crop - right // patch


def lay_out(width: int, height: int, *, side: int, most: int) -> Canvas:
    """The canvas for an image of width x height pixels, of at most `most` crops.

    As many crops as the image covers at its own size; where those are too many, the shape nearest to its own. The
    image then grows or shrinks until it fills the canvas one way; its aspect ratio stays.
    """
    columns, rows = math.ceil(width / side), math.ceil(height / side)
    if columns * rows > most:
        columns, rows = _nearest(width, height, side, most)
    across, down = columns * side / width, rows * side / height
    if across < down:
        return Canvas(rows=rows, columns=columns, width=columns * side, height=int(height * across), side=side)
    return Canvas(rows=rows, columns=columns, width=int(width * down), height=rows * side, side=side)


def _nearest(width: int, height: int, side: int, most: int) -> tuple[int, int]:
    """Columns and rows; among equally near ones the larger, when the image has pixels enough to fill half of it."""
    best, gap = (1, 1), math.inf
    for columns, rows in _shapes(most):
        found = abs(width / height - columns / rows)
        if found < gap or (found == gap and width * height > 0.5 * side**2 * columns * rows):
            best, gap = (columns, rows), found
    return best


@lru_cache(maxsize=64)
def _shapes(most: int) -> list[tuple[int, int]]:
    """All (columns, rows) of at most `most` crops, the smallest first."""
    shapes = [(columns, rows) for columns in range(1, most + 1) for rows in range(1, most // columns + 1)]
    return sorted(shapes, key=lambda shape: shape[0] * shape[1])


FOLDER = "vision-lora"
_PREFIX = "base_model.model."  # that PEFT puts before a module's own name
_CHANGES_THE_SUM = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save")


def add_vision_lora(network: Any, checkpoint: Path) -> None:
    """Add the deltas to a loaded network, in place; nothing when the checkpoint has none.

    Raises ModelInvalid for a LoRA that cannot be read or does not fit.
    """
    folder = checkpoint / FOLDER
    if not folder.is_dir():
        return
    scale, tensors = _read(folder)
    names = sorted(name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight"))
    if {f"{name}.lora_{part}.weight" for name in names for part in "AB"} != tensors.keys():
        raise ModelInvalid(f"{folder} holds other tensors than pairs of lora_A and lora_B; fetch the checkpoint again")
    for name in names:
        layer = _layer(network, name.removeprefix(_PREFIX), folder)
        a, b = (tensors[f"{name}.lora_{part}.weight"].to(layer.weight.device) for part in "AB")
        if (len(b), a.shape[1], len(a)) != (layer.out_features, layer.in_features, b.shape[1]):
            raise ModelInvalid(f"{folder}: {name} does not fit the model's weights; fetch the checkpoint again")
        if layer.weight.is_floating_point():
            total = layer.weight.data.float() + scale * (b.float() @ a.float())
            layer.weight.data = total.to(layer.weight.dtype)
        else:
            layer.register_forward_hook(_beside(a.to(network.dtype), b.to(network.dtype), scale))


def _beside(a: torch.Tensor, b: torch.Tensor, scale: float) -> Callable[..., torch.Tensor]:
    """a (r, in), b (out, r): a hook that adds the delta to a layer's output."""

    def add(_layer: torch.nn.Module, args: tuple[torch.Tensor], out: torch.Tensor) -> torch.Tensor:
        return out + scale * F.linear(F.linear(args[0], a), b)

    return add


def _layer(network: Any, name: str, folder: Path) -> Any:
    try:
        return network.get_submodule(name)
    except AttributeError as error:
        raise ModelInvalid(f"{folder} changes {name}, which the model does not have") from error


def _read(folder: Path) -> tuple[float, dict[str, torch.Tensor]]:
    """alpha / r, and the tensors by PEFT's names. Of the settings only what is needed is used."""
    try:
        settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "adapter_model.safetensors")
        scale = float(settings["lora_alpha"]) / int(settings["r"])
    except OSError as error:
        raise unreadable(str(folder), error) from error
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ModelInvalid(f"{folder} cannot be read: {one_line(error)}") from error
    unknown = [name for name in _CHANGES_THE_SUM if settings.get(name)]
    if unknown:
        raise ModelInvalid(f"{folder}: {', '.join(unknown)} is set, which is not supported; use a plain LoRA")
    return scale, tensors


SETTINGS = {
    "size": {"height": 448, "width": 448},
    "patch_size": 14,
    "dynamic_hd": 36,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "rescale_factor": 1 / 255,
}  # of transformers' processor, where a checkpoint's file names none
THINNEST = 10  # pixels of a resized side
WHITE = 255


class PhiReader(ImageReader):
    """`prepare` keeps the (H, W, 3) pixels of the canvas, and in `extra` the Canvas; `grid` is its rows and columns."""

    def __init__(self, folder: Path, tokenizer: Any) -> None:
        super().__init__(folder, tokenizer)
        self.image_token = str(tokenizer.convert_ids_to_tokens(int(self.config.vision_config.image_token_id)))
        self.side = int(self.image_processor.size["height"])  # of a crop, in pixels
        self.patches = self.side // int(self.image_processor.patch_size)  # along a side of a crop

    def load_image_processor(self, folder: Path) -> SimpleNamespace:
        """Its settings alone."""
        found, _ = ImageProcessingMixin.get_image_processor_dict(folder, local_files_only=True)
        return SimpleNamespace(**{name: found.get(name) or usual for name, usual in SETTINGS.items()})

    def prepare(self, image: Image.Image, *, max_pixels: int, min_pixels: int) -> PreparedImage:
        """As many crops as the budget holds beside the whole image, at least one.

        Raises ImageUnsuitable for an image that would be thinner than 10 pixels.
        """
        canvas = lay_out(image.width, image.height, side=self.side, most=self._most(max_pixels))
        if min(canvas.width, canvas.height) < THINNEST:
            raise ImageUnsuitable(f"image of {image.width} x {image.height} pixels: the model takes no such thin strip")
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]
        # As torchvision resizes 8 bit, which differs from PIL by a grey level here and there.
        resized = F.interpolate(pixels, (canvas.height, canvas.width), mode="bilinear", antialias=True)[0]
        right, below = canvas.margins
        count = self._count(canvas)
        return PreparedImage(
            pixels=F.pad(resized, (0, right, 0, below), value=WHITE).permute(1, 2, 0).contiguous(),
            tokens=(self.image_token_id,) * count,
            visual_tokens=count,
            grid=(canvas.rows, canvas.columns),
            original_size=image.size,
            resized_size=(canvas.width, canvas.height),
            extra=canvas,
        )

    def detail(self, *, max_pixels: int) -> Detail:
        """One crop is the least that is read."""
        return Detail(pixels=4 * max(max_pixels, self.side**2), short_side=1)

    def stack(self, images: Sequence[PreparedImage], *, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """image_pixel_values (B, crops, 3, side, side), the whole image first, empty crops last; image_attention_mask
        (B, crops, patches, patches); image_sizes (B, 2), height and width of the canvas, on the host where it is read.
        """
        most = max(1 + rows * columns for rows, columns in (image.grid for image in images))
        values = torch.zeros(len(images), most, 3, self.side, self.side, dtype=dtype, device=device)
        mask = torch.ones(len(images), most, self.patches, self.patches, dtype=torch.bool, device=device)
        for i, image in enumerate(images):
            crops = self._cut(image.pixels.to(device, non_blocking=True))
            values[i, : len(crops)] = crops
            mask[i, 1 : len(crops)] = self._mask(image.extra).to(device)
        sizes = torch.tensor([image.pixels.shape[:2] for image in images])
        return {"image_pixel_values": values, "image_attention_mask": mask, "image_sizes": sizes}

    def positions(
        self, *, before: int, rows: Sequence[Sequence[PreparedImage]], between: int, width: int
    ) -> torch.Tensor:
        """As of any text. Raises ModelInvalid where question and image together would pass the short rotary factors."""
        if self._longest is not None and before + width > self._longest:
            raise ModelInvalid(
                f"question and image are {before + width} tokens, of {self._longest} before the model turns to other "
                "rotary factors; shorten the question or lower max_pixels"
            )
        return super().positions(before=before, rows=rows, between=between, width=width)

    @property
    def _longest(self) -> int | None:
        """Tokens up to which the short rotary factors hold; None: there is one set.

        Beyond, all tokens take the long ones, the instruction's too, whose keys were computed with the short.
        """
        rope = self.config.rope_parameters
        return int(rope["original_max_position_embeddings"]) if rope["rope_type"] == "longrope" else None

    def _most(self, max_pixels: int) -> int:
        """Crops of a canvas: what the checkpoint and the budget allow, and three quarters of the short positions."""
        most = min(int(self.image_processor.dynamic_hd), max_pixels // self.side**2 - 1)
        if self._longest is not None:
            along = (self.patches + 1) // 2
            most = min(most, (self._longest * 3 // 4 - along * (along + 1) - 1) // (along * (along + 1)))
        return max(most, 1)

    def _count(self, canvas: Canvas) -> int:
        """Tokens: two by two patches of the canvas that hold some image, a token after each row, one between, the
        same of the whole image."""
        along = (self.patches + 1) // 2
        rows, columns = (
            sum(at % self.patches % 2 == 0 for at in range(filled))
            for filled in canvas.filled(int(self.image_processor.patch_size))
        )
        return rows * (columns + 1) + 1 + along * (along + 1)

    def _cut(self, pixels: torch.Tensor) -> torch.Tensor:
        """(H, W, 3) -> the whole image and its crops, row by row, (1 + rows * columns, 3, side, side)."""
        values = normalise(pixels.permute(2, 0, 1), self.image_processor, dtype=torch.float32)
        whole = F.interpolate(values[None], (self.side, self.side), mode="bicubic")
        crops = values.unfold(1, self.side, self.side).unfold(2, self.side, self.side)
        return torch.cat((whole, crops.permute(1, 2, 0, 3, 4).flatten(0, 1)))

    def _mask(self, canvas: Canvas) -> torch.Tensor:
        """(rows * columns, patches, patches): which patches of the crops hold some of the image."""
        mask = torch.zeros(canvas.rows * self.patches, canvas.columns * self.patches, dtype=torch.bool)
        rows, columns = canvas.filled(int(self.image_processor.patch_size))
        mask[:rows, :columns] = True
        return mask.unfold(0, self.patches, self.patches).unfold(1, self.patches, self.patches).flatten(0, 1)


def complete(network: Any, folder: Path) -> None:
    """Add the vision LoRA, let patches see each other, and give back the memory of the sound parts."""
    add_vision_lora(network, folder)
    extend = network.base_model.embed_tokens_extend
    extend.audio_embed = None
    # transformers calls the tower's attention causal, and SDPA then makes it so whenever no crop of a batch has an
    # empty patch: an image would score otherwise beside other neighbours. Eager attention never looks at the flag.
    for layer in extend.image_embed.img_processor.encoder.layers:
        layer.self_attn.is_causal = False


FAMILY = Family(
    model_type="phi4_multimodal",
    reader=PhiReader,
    vision=("model.embed_tokens_extend",),
    language_linear=r"model\.layers\.\d+\.(self_attn\.(qkv|o)_proj|mlp\.(gate_up|down)_proj)",
    complete=complete,
)
