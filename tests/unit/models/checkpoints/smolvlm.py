"""A tiny SmolVLM: the tiny Idefics3 under its own classes."""

from __future__ import annotations

from functools import partial

from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from tests.unit.models.checkpoints import idefics3
from tests.unit.models.checkpoints.idefics3 import LINEAR, reference_inputs

__all__ = ["LINEAR", "checkpoint", "reference_inputs"]

checkpoint = partial(
    idefics3.checkpoint,
    config_class=SmolVLMConfig,
    network_class=SmolVLMForConditionalGeneration,
    processor_class=SmolVLMImageProcessorPil,
)
