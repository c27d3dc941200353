"""The pocket tokenizer: byte-level BPE trained on the pocket model's own prompts.

Any text can be encoded (bytes are the floor). Letters, digits and the pairs AA..DZ are single tokens, so that a
question may have up to 166 labels.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from string import ascii_uppercase

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from scanfleet.models.pocket.questions import QUESTIONS
from scanfleet.models.pocket.scenes.belongings import EVERYDAY
from scanfleet.models.pocket.scenes.fonts import WORDS, word
from scanfleet.models.pocket.scenes.pretraining import COLOURS, CORNERS, STUFF
from scanfleet.models.pocket.scenes.shapes import OUTLINES, SHAPES

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>",
)  # fmt: skip
LEARNED = 900  # tokens, before the letter pairs are added
# Qwen's split: contractions, words with a leading space, single digits, punctuation, white space.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEMPLATE = """{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}{% else %}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>
{%- elif part['type'] == 'text' -%}{{ part['text'] }}{%- endif -%}
{%- endfor -%}
{%- endif -%}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}
"""
STEMS = (
    "Is there text in this image?", "Is the text level or tilted?", "Are the letters sharp or soft?",
    "What does the text say?", "Where is the text?", "Which letter is this?", "Which of these can be seen?",
    "Where is the {}?", "What colour is the {}?", "What is the {} made of?", "Which shape is at the {}?",
    "Write a general description of the image.", "Locate the small target first, then answer.",
    "Which flower is this?", "Answer yes or no.", "Answer with the letter.", "user", "assistant", "system",
)  # fmt: skip


def corpus() -> Iterator[str]:
    """Yield every prompt of the pocket model, many menus, and the words that scenes may show."""
    rng = random.Random("scanfleet-pocket/tokenizer")
    names = (*EVERYDAY, *OUTLINES, *SHAPES)
    menus = (*names, *COLOURS, *CORNERS, *STUFF.values(), "yes", "no", "level", "tilted", "sharp", "soft", *WORDS)
    for _ in range(40):
        for stem in STEMS:
            options = [word(rng) if rng.random() < 0.2 else rng.choice(menus) for _ in range(4)]
            lines = [f"{letter}) {option}" for letter, option in zip("ABCD", options, strict=True)]
            yield "\n".join([stem.format(rng.choice(names)), *lines, "Answer with the letter."])
        for question in QUESTIONS.values():
            yield question.prompt
            yield from (f"A) {text}" for text in question.descriptions.values())
        yield from menus


def train_tokenizer() -> Tokenizer:
    """Train the BPE, then add the letter pairs as last merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=LEARNED,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return _with_pairs(tokenizer)


def _with_pairs(tokenizer: Tokenizer) -> Tokenizer:
    state = json.loads(tokenizer.to_str())
    vocab, merges = state["model"]["vocab"], state["model"]["merges"]
    for first in ascii_uppercase[:4]:
        for second in ascii_uppercase:
            if first + second not in vocab:
                vocab[first + second] = len(vocab)
                merges.append([first, second])
    made = Tokenizer.from_str(json.dumps(state))
    made.add_special_tokens(list(SPECIAL))
    return made


def save_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Train, wrap and save tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer(),
        eos_token="<|im_end|>",  # noqa: S106 - a special token, not a password
        pad_token="<|endoftext|>",  # noqa: S106
        additional_special_tokens=[token for token in SPECIAL if token not in ("<|im_end|>", "<|endoftext|>")],
        chat_template=TEMPLATE,
        model_max_length=4096,
        padding_side="left",
    )
    wrapped.save_pretrained(folder)
    return wrapped
