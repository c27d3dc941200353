"""The usual loops around a vision-language model, with transformers alone.

Stock modules, stock attention, the checkpoint's own PIL image processor, and the adapter merged by PEFT.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from scanfleet.models.adapters.card import read_adapter
from scanfleet.models.network.base import BaseModel
from scanfleet.models.network.lora import load_lora
from scanfleet.models.scoring.prefill import PrefillScorer

IMAGE = "<|image_pad|>"


class GenerateLoop:
    """Opens and preprocesses images, generates answers batch by batch, and reads the answer's first letter."""

    def __init__(self, base: BaseModel, scorer: PrefillScorer, adapter: Path, *, threads: int) -> None:
        self._threads = threads  # torch's default: all cores
        self._question = scorer.question
        self._prompt = scorer.prompt
        self._processor = base.processor.reader.image_processor
        self._tokenizer = base.processor.tokenizer
        network = AutoModelForImageTextToText.from_pretrained(
            base.checkpoint.folder, local_files_only=True, dtype=base.network.dtype, device_map={"": base.device}
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = read_adapter(adapter)
            self._network = load_lora(network, found, name="default").merge_and_unload().eval()

    @torch.inference_mode()
    def run(self, files: Sequence[bytes], *, batch: int, new_tokens: int) -> list[str]:
        """Return the letter of each image; each answer has exactly `new_tokens` tokens."""
        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            return self._run(files, batch=batch, new_tokens=new_tokens)
        finally:
            torch.set_num_threads(before)

    def _run(self, files: Sequence[bytes], *, batch: int, new_tokens: int) -> list[str]:
        letters = []
        for start in range(0, len(files), batch):
            images = [Image.open(io.BytesIO(data)).convert("RGB") for data in files[start : start + batch]]
            inputs = self._inputs(images)
            out = self._network.generate(
                **inputs, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False
            )
            answers = self._tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            letters += [answer.strip()[:1] for answer in answers]
        return letters

    def _inputs(self, images: Sequence[Image.Image]) -> dict[str, Any]:
        size = {"shortest_edge": self._question.min_pixels, "longest_edge": self._question.max_pixels}
        pixels = self._processor(images=list(images), size=size, return_tensors="pt")
        counts = (pixels["image_grid_thw"].prod(-1) // self._processor.merge_size**2).tolist()
        texts = [self._prompt.turn.text.replace(IMAGE, IMAGE * count) for count in counts]
        text = self._tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
        image_id = self._tokenizer.convert_tokens_to_ids(IMAGE)
        types = (text["input_ids"] == image_id).long()
        inputs = {**text, **pixels, "mm_token_type_ids": types}
        return {name: tensor.to(self._network.device) for name, tensor in inputs.items()}
