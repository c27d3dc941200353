"""A tiny InstructBLIP over a Llama-like decoder, and the inputs that transformers' own processor makes."""

from __future__ import annotations

from pathlib import Path
from string import ascii_letters, ascii_lowercase, digits, punctuation
from typing import Any

from PIL import Image
from transformers import (
    AddedToken,
    BertTokenizer,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    LlamaTokenizer,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from scanfleet.models.network.base import BaseModel
from scanfleet.models.types import Question
from tests.unit.models.checkpoints import widen

LINEAR = 14  # seven projections in each of two layers
QUERIES = 4


def _llama() -> LlamaTokenizer:
    """Single characters, each also at the beginning of a word, and bytes for the rest."""
    letters = [*ascii_letters, *digits, *punctuation]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *letters]
    merges = [("▁", letter) for letter in letters]
    pieces += ["".join(pair) for pair in merges]
    made = LlamaTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges, add_bos_token=True)
    made.add_tokens([AddedToken("<image>", normalized=False, special=True)], special_tokens=True)
    made.pad_token = "</s>"
    return made


def _bert() -> BertTokenizer:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *ascii_lowercase, *digits, *punctuation]
    pieces += [f"##{piece}" for piece in ascii_lowercase + digits]
    return BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)})


def checkpoint(folder: Path) -> Path:
    made, reading = _llama(), _bert()
    layers = {"num_hidden_layers": 2, "intermediate_size": 64, "num_attention_heads": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    text = layers | heads | {"hidden_size": 64, "intermediate_size": 128, "vocab_size": len(made)}
    config = InstructBlipConfig(
        text_config={"model_type": "llama", **text},
        vision_config={"hidden_size": 32, "image_size": 56, "patch_size": 14, **layers},
        qformer_config={"hidden_size": 32, "vocab_size": len(reading), **layers},
        num_query_tokens=QUERIES,
        image_token_index=made.convert_tokens_to_ids("<image>"),
    )
    network = InstructBlipForConditionalGeneration(config)
    widen(network)
    network.save_pretrained(folder)
    made.save_pretrained(folder)
    reading.save_pretrained(folder / "qformer_tokenizer")
    BlipImageProcessorPil(size={"height": 56, "width": 56}).save_pretrained(folder)
    return folder


def reference_inputs(base: BaseModel, prompt_text: str, image: Image.Image, question: Question) -> dict[str, Any]:
    """What transformers' processor makes of the text without the image's place and the token that begins it."""
    text = prompt_text.removeprefix("<image><s> ")
    assert text != prompt_text
    pixels = BlipImageProcessorPil.from_pretrained(base.checkpoint.folder)
    made = LlamaTokenizer.from_pretrained(base.checkpoint.folder)
    processor = InstructBlipProcessor(pixels, made, _bert(), num_query_tokens=QUERIES)
    return dict(processor(images=image, text=text, return_tensors="pt"))
