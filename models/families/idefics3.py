"""Idefics3 (arXiv 2408.12637), and the first SmolVLM, whose checkpoints bear its name: read as SmolVLM is."""

from __future__ import annotations

from models.families.family import Family
from models.families.smolvlm import LANGUAGE_LINEAR, VISION, TileReader

FAMILY = Family(model_type="idefics3", reader=TileReader, vision=VISION, language_linear=LANGUAGE_LINEAR)
