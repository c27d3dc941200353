"""Qwen3-VL."""

from __future__ import annotations

from models.families.family import LANGUAGE_LINEAR, Family
from models.families.qwen_vl import VISION, QwenReader, quicken

FAMILY = Family(
    model_type="qwen3_vl",
    reader=QwenReader,
    vision=VISION,
    language_linear=LANGUAGE_LINEAR,
    boxes="thousandths",
    quicken=quicken,
)
