"""InstructBLIP (arXiv 2305.06500) over a decoder such as Vicuna.

A Q-Former that reads the instruction turns the image into 32 tokens, which stand before all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer

from scanfleet.models.errors import ModelInvalid
from scanfleet.models.families.family import Family, ImageReader, PreparedImage, normalise
from scanfleet.models.types import Detail

# The paper's template for a question with options (appendix on instruction templates). The text begins after the image,
# with a space, because a Llama tokenizer adds its own one only where nothing stands before the first word.
TEMPLATE = (
    "<image>{{ bos_token }} {% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %} Short answer:"
)


class InstructBlipReader(ImageReader):
    """Keeps [side, side, 3] pixels: every image becomes one square of the same size, whatever the budget.

    Args:
        folder: the checkpoint.
        tokenizer: its tokenizer.

    Raises:
        ModelInvalid: the text model has an encoder, such as FLAN-T5.
    """

    image_token = "<image>"  # noqa: S105 - a placeholder, not a secret
    blind_to_questions = False  # the Q-Former reads the instruction

    def __init__(self, folder: Path, tokenizer: Any) -> None:
        super().__init__(folder, tokenizer)
        if not self.config.use_decoder_only_language_model:
            kind = self.config.text_config.model_type
            raise ModelInvalid(f"{folder.name} uses {kind}, which has an encoder; use InstructBLIP over Vicuna")
        tokenizer.chat_template = None  # the text model's template has no place for an image
        subfolder = folder / "qformer_tokenizer"
        self._qformer_tokenizer = AutoTokenizer.from_pretrained(subfolder, local_files_only=True)
        self._instructions: dict[tuple[int, ...], list[int]] = {}  # ids of the language model -> of the Q-Former

    @property
    def chat_template(self) -> str:
        return TEMPLATE

    @property
    def side(self) -> int:
        """Side of the square that the vision tower reads, in pixels."""
        return int(self.image_processor.size["height"])

    def prepare(self, image: Image.Image, *, max_pixels: int, min_pixels: int | None) -> PreparedImage:
        """Resize to the square, ignoring the aspect ratio and the pixel budget."""
        resample = Image.Resampling(self.image_processor.resample)
        resized = image.convert("RGB").resize((self.side, self.side), resample)
        count = int(self.config.num_query_tokens)
        return PreparedImage(
            pixels=torch.from_numpy(np.array(resized)),
            tokens=(self.image_token_id,) * count,
            visual_tokens=count,
            original_size=image.size,
            resized_size=resized.size,
        )

    def detail(self, *, max_pixels: int) -> Detail:
        """Return the size for decoding; both sides are resized to that of the square."""
        return Detail(pixels=4 * self.side**2, short_side=2 * self.side)

    def stack(self, images: Sequence[PreparedImage], *, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """Return pixel_values [batch, 3, side, side]."""
        pixels = torch.stack([image.pixels.to(device, non_blocking=True) for image in images])
        return {"pixel_values": normalise(pixels.permute(0, 3, 1, 2), self.image_processor, dtype=dtype)}

    def hidden(self, network: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """Run the network's own forward without its logits: [batch, width, features]."""
        ids = inputs["input_ids"]
        instruction = torch.tensor([self._instruction(ids[0].tolist())], device=ids.device).expand(len(ids), -1)
        seen = network.get_image_features(inputs["pixel_values"], instruction, return_dict=True).pooler_output
        embeds = network.get_input_embeddings()(ids)
        embeds = embeds.masked_scatter((ids == self.image_token_id)[..., None], seen.to(embeds.dtype))
        out: torch.Tensor = network.language_model.base_model(
            inputs_embeds=embeds, position_ids=inputs["position_ids"], use_cache=False
        ).last_hidden_state
        return out

    def _instruction(self, row: list[int]) -> list[int]:
        """Return the Q-Former's token ids for the text after the image. Raises ModelInvalid if there are too many."""
        after = tuple(token for token in row if token != self.image_token_id)
        if after not in self._instructions:
            text = self.tokenizer.decode(after, skip_special_tokens=True)
            found = self._qformer_tokenizer(text).input_ids
            limit = int(self.config.qformer_config.max_position_embeddings)
            if len(found) > limit:
                raise ModelInvalid(f"the question has {len(found)} tokens and the Q-Former reads {limit}; shorten it")
            self._instructions[after] = found
        return self._instructions[after]


FAMILY = Family(
    model_type="instructblip",
    reader=InstructBlipReader,
    vision=("vision_model", "query_tokens", "qformer", "language_projection"),
    language_linear=r"language_model\.model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)",
)
