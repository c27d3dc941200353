"""The pocket model as a server would run it: transformers' own classes, the whole vocabulary, and no code of scanfleet.

What it says is compared with what `models.scoring.prefill` says, so it shares nothing with that.
"""

import threading
from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from tests.services.chat_server import Asked, Tokens

WEIGHTS = Path(__file__).parents[2] / "models" / "pocket" / "weights"
IMAGE = "<|image_pad|>"


class PocketAnswers:
    """Return the likeliest first tokens and their exact logprobs."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(WEIGHTS)
        self._tokenizer.chat_template = (WEIGHTS / "chat_template.jinja").read_text()
        self._images: Any = AutoImageProcessor.from_pretrained(WEIGHTS, backend="pil")
        self._network: Any = AutoModelForImageTextToText.from_pretrained(WEIGHTS, dtype=torch.float32).eval()
        self._lock = threading.Lock()

    def __call__(self, asked: Asked) -> Tokens:
        content = [{"type": "text", "text": asked.text}, {"type": "image"}]
        rendered = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        with self._lock:
            logprobs = self._logprobs(rendered, self._images(images=[asked.image], return_tensors="pt"))
        values, ids = logprobs.topk(int(asked.fields["top_logprobs"]))
        texts = self._tokenizer.batch_decode([[int(token)] for token in ids])
        return list(zip(texts, values.tolist(), strict=True))

    @torch.inference_mode()
    def _logprobs(self, rendered: str, image: Any) -> torch.Tensor:
        """(V,) at the answer's position."""
        n = int(image["image_grid_thw"].prod()) // self._images.merge_size**2
        ids = torch.tensor([self._tokenizer.encode(rendered.replace(IMAGE, IMAGE * n), add_special_tokens=False)])
        is_image = (ids == self._tokenizer.convert_tokens_to_ids(IMAGE)).int()
        out = self._network(input_ids=ids, mm_token_type_ids=is_image, **image)
        logprobs: torch.Tensor = out.logits[0, -1].log_softmax(-1)
        return logprobs
