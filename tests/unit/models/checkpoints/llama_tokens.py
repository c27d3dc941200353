"""A tiny tokenizer of the SentencePiece kind, as Llama, Vicuna and Mistral have."""

from __future__ import annotations

from string import ascii_lowercase, ascii_uppercase, printable

from transformers import LlamaTokenizer

SPACE = "▁"


def tokenizer(chat_template: str) -> LlamaTokenizer:
    """Single characters, any byte, " A".." z" and "AA".."ZZ"; a beginning-of-text token; <image> and <pad>."""
    merges = [(SPACE, letter) for letter in ascii_uppercase + ascii_lowercase]
    merges += [(first, second) for first in ascii_uppercase for second in ascii_uppercase]
    characters = [character for character in printable if character not in " \n\t\r\x0b\x0c"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), SPACE, *characters]
    pieces += ["".join(pair) for pair in merges]
    made = LlamaTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges)
    made.add_special_tokens({"pad_token": "<pad>", "additional_special_tokens": ["<image>"]})
    made.chat_template = chat_template
    return made
