"""Prompts and processing: equal to transformers' own processors, and letters that are one token each."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from PIL import Image
from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.processing_qwen2_vl import Qwen2VLProcessor
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

from models.errors import ImageUnsuitable, ModelInvalid
from models.processing import VisionProcessor, load_processor
from models.prompts import make_prompt
from models.types import Question
from tests.unit import tiny_models as tiny

OVERLAY = Question(
    name="overlay",
    prompt="Is there text?",
    labels=("overlay", "natural", "none"),
    flags=frozenset({"overlay"}),
    descriptions={"overlay": "text added on top"},
)


def processor(patch_size: int = 14) -> VisionProcessor:
    return VisionProcessor(tokenizer=tiny.tokenizer(), image_processor=tiny.image_processor(patch_size))


def classes(count: int) -> Question:
    labels = tuple(f"species {i}" for i in range(count))
    return Question(name="many", prompt="Which?", labels=labels, flags=frozenset())


@pytest.mark.parametrize("theirs", [Qwen2VLProcessor, Qwen2_5_VLProcessor, Qwen3VLProcessor])
def test_tensors_equal_those_of_transformers_own_processor(theirs: Any) -> None:
    class WithoutVideo(theirs):  # the video processor, which needs torchvision, is the only part left out
        @classmethod
        def get_attributes(cls) -> list[str]:
            return ["image_processor", "tokenizer"]

    ours = processor()
    reference = WithoutVideo(ours.image_processor, ours.tokenizer, None, chat_template=tiny.TEMPLATE)
    pictures = [tiny.picture(300, 200, 1), tiny.picture(50, 90, 2), tiny.picture(640, 640, 3)]
    prompt = ours.prompt(OVERLAY)
    prepared = [ours.prepare(p, max_pixels=200_704, min_pixels=4096) for p in pictures]
    inputs = ours.collate([prompt.turn] * 3, prepared)

    text = prompt.turn.text.split("user\n")[1].split("<|vision_start|>")[0]
    expected = reference.apply_chat_template(
        [
            [{"role": "user", "content": [{"type": "text", "text": text}, {"type": "image", "image": p}]}]
            for p in pictures
        ],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={
            "padding": True,
            "padding_side": "left",
            "size": {"shortest_edge": 4096, "longest_edge": 200_704},
        },
    )
    assert set(inputs) == set(expected)
    for name, tensor in inputs.items():
        assert torch.equal(tensor, expected[name].to(tensor.dtype)), name


def test_a_saved_processor_is_read_back_from_its_folder(tmp_path: Any) -> None:
    tiny.tokenizer().save_pretrained(tmp_path)
    tiny.image_processor(16).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen3_vl"}')
    loaded = load_processor(tmp_path)
    assert loaded.patch_size == 16
    assert loaded.prompt(OVERLAY) == processor().prompt(OVERLAY)


def test_a_folder_without_tokenizer_is_named_in_one_line(tmp_path: Any) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen3_vl"}')
    with pytest.raises(ModelInvalid, match="tokenizer or image processor") as caught:
        load_processor(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_instruction_stands_before_the_image_and_names_every_label() -> None:
    text = processor().prompt(OVERLAY).turn.text
    menu = "Is there text?\nA) text added on top\nB) natural\nC) none\nAnswer with the letter."
    assert text.index(menu) < text.index("<|image_pad|>")
    assert text.endswith("<|im_start|>assistant\n")


def test_every_code_is_one_token_at_the_emission_position_and_none_is_shared() -> None:
    ours = processor()
    prompt = ours.prompt(classes(102))
    seen: set[int] = set()
    for code in prompt.codes:
        expected = ours.tokenizer.encode(prompt.turn.text + code.code, add_special_tokens=False)
        assert expected == [*prompt.turn.ids(1), code.answer_id]
        assert not seen & set(code.token_ids)
        seen |= set(code.token_ids)
    assert len({code.code for code in prompt.codes}) == 102
    assert prompt.codes[0].token_ids == tuple(ours.tokenizer.convert_tokens_to_ids(["A", "ĠA"]))


def test_codes_that_are_several_tokens_are_never_chosen() -> None:
    tokenizer = tiny.tokenizer(pairs=False)  # "AA" is two tokens here, which leaves 62 codes
    assert len(make_prompt(tokenizer, classes(62)).codes) == 62
    with pytest.raises(ModelInvalid, match="63 labels but this tokenizer has only 62"):
        make_prompt(tokenizer, classes(63))


def test_a_letter_that_melts_into_the_generation_prompt_is_never_chosen() -> None:
    """After "assistant: " the letter A is the one token " A", not a token that follows the prompt; digits are."""
    template = tiny.TEMPLATE.replace("assistant\\n", "assistant: ").replace("assistant\n", "assistant: ")
    prompt = make_prompt(tiny.tokenizer(), OVERLAY, chat_template=template)
    assert prompt.turn.text.endswith("assistant: ")
    assert [code.code for code in prompt.codes] == ["0", "1", "2"]


def test_a_placeholder_smuggled_into_the_prompt_is_refused() -> None:
    question = Question(name="q", prompt="x <|image_pad|>", labels=("a", "b"), flags=frozenset())
    with pytest.raises(ModelInvalid, match="2 times"):
        processor().prompt(question)


def test_the_mask_comes_from_lengths_even_when_the_pad_token_stands_in_the_prompt() -> None:
    ours = processor()
    ours.tokenizer.pad_token = "<|im_end|>"  # ends every turn, as in several released checkpoints
    prompt = ours.prompt(OVERLAY)
    prepared = [ours.prepare(tiny.picture(s, s, s), max_pixels=200_704, min_pixels=3136) for s in (56, 224)]
    inputs = ours.collate([prompt.turn] * 2, prepared)
    assert inputs["attention_mask"].sum(1).tolist() == [prompt.turn.length(p.visual_tokens) for p in prepared]
    assert inputs["mm_token_type_ids"].sum(1).tolist() == [p.visual_tokens for p in prepared]
    assert torch.equal(inputs["mm_token_type_ids"].bool(), inputs["input_ids"] == prompt.turn.image_token_id)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1", "I;16"])
def test_any_pil_mode_becomes_three_channels(mode: str) -> None:
    image = Image.new(mode, (64, 48))
    prepared = processor().prepare(image, max_pixels=200_704, min_pixels=3136)
    assert prepared.pixel_values.shape == (prepared.grid[1] * prepared.grid[2], 3 * 2 * 14 * 14)
    assert prepared.original_size == (64, 48)


def test_sizes_stay_within_the_pixel_budget() -> None:
    ours = processor()
    rng = random.Random(7)
    for _ in range(20):
        image = Image.new("RGB", (rng.randint(20, 1500), rng.randint(20, 1500)))
        _, h, w = ours.prepare(image, max_pixels=50_176, min_pixels=3136).grid
        assert 3136 <= h * w * 14 * 14 <= 50_176


def test_a_thin_strip_is_an_unsuitable_image_not_a_crash() -> None:
    with pytest.raises(ImageUnsuitable, match="3000 x 10 pixels"):
        processor().prepare(Image.new("RGB", (3000, 10)), max_pixels=50_176, min_pixels=3136)


def test_the_prompt_hash_moves_with_every_word_and_label() -> None:
    ours = processor()
    changed = Question(name="o", prompt="Is there some text?", labels=OVERLAY.labels, flags=OVERLAY.flags)
    assert ours.prompt(OVERLAY).sha256 == ours.prompt(OVERLAY).sha256
    assert ours.prompt(OVERLAY).sha256 != ours.prompt(changed).sha256
