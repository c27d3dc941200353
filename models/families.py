"""The model families that can be scored, and what differs between them. Adding one is adding an entry and a
test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.errors import ModelInvalid


@dataclass(frozen=True, kw_only=True)
class Family:
    """What loading, fine-tuning and box parsing need to know about one architecture.

    model_type: as in the checkpoint's config.json. vision: name prefix of the vision tower and its merger;
    never quantised, frozen by default. language_linear: regex (full match) of the language model's linear
    layers. A list of suffixes will not do: in
        Qwen2.5-VL the vision MLP has gate/up/down_proj too, and would be adapted with them.
    boxes: what generated coordinates mean: thousandths of the image, or pixels of the resized image.
    """

    model_type: str
    vision: str = "model.visual"
    language_linear: str = r"model\.language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
    boxes: Literal["thousandths", "resized_pixels"]


_ALL = (
    Family(model_type="qwen2_vl", boxes="thousandths"),
    Family(model_type="qwen2_5_vl", boxes="resized_pixels"),
    Family(model_type="qwen3_vl", boxes="thousandths"),
)
FAMILIES = {family.model_type: family for family in _ALL}


def family_of(model_type: str | None, *, name: str) -> Family:
    """The family of a checkpoint; raises ModelInvalid naming those that are supported."""
    if model_type not in FAMILIES:
        supported = ", ".join(FAMILIES)
        raise ModelInvalid(f"{name} is a {model_type} model; supported families: {supported}")
    return FAMILIES[model_type]
