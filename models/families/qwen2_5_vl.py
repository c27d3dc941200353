"""Qwen2.5-VL and what was tuned from it (RolmOCR)."""

from __future__ import annotations

from models.families.family import LANGUAGE_LINEAR, Family
from models.families.qwen_vl import VISION, QwenReader, quicken

FAMILY = Family(
    model_type="qwen2_5_vl",
    reader=QwenReader,
    vision=VISION,
    language_linear=LANGUAGE_LINEAR,
    boxes="resized_pixels",
    quicken=quicken,
)
