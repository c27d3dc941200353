"""A tiny qwen2_5_vl, from `tests.unit.models.tiny_models`."""

from __future__ import annotations

from functools import partial

from tests.unit.models import tiny_models
from tests.unit.models.checkpoints.qwen_common import LINEAR, reference_inputs

__all__ = ["LINEAR", "checkpoint", "reference_inputs"]

checkpoint = partial(tiny_models.checkpoint, family="qwen2_5_vl")
