"""Prompts and processing: equal to transformers' own processors, and letters that are one token each."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.processing_qwen2_vl import Qwen2VLProcessor
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

from scanfleet.models.errors import ImageUnsuitable, ModelInvalid
from scanfleet.models.families import FAMILIES
from scanfleet.models.inputs.processing import VisionProcessor, load_processor
from scanfleet.models.inputs.prompts import make_prompt
from scanfleet.models.types import Question
from tests.unit.models import tiny_models as tiny

CPU = torch.device("cpu")
PAD = "<|image_pad|>"
OVERLAY = Question(
    name="overlay",
    prompt="Is there text?",
    labels=("overlay", "natural", "none"),
    flags=frozenset({"overlay"}),
    descriptions={"overlay": "text added on top"},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("tiny"), "qwen2_vl")


@pytest.fixture
def ours(folder: Path) -> VisionProcessor:
    return load_processor(folder, FAMILIES["qwen2_vl"])


def classes(count: int) -> Question:
    labels = tuple(f"species {i}" for i in range(count))
    return Question(name="many", prompt="Which?", labels=labels, flags=frozenset())


@pytest.mark.parametrize("theirs", [Qwen2VLProcessor, Qwen2_5_VLProcessor, Qwen3VLProcessor])
def test_inputs_equal_those_of_transformers_own_processor(theirs: Any, ours: VisionProcessor) -> None:
    class WithoutVideo(theirs):  # the video processor, which needs torchvision, is the only part left out
        @classmethod
        def get_attributes(cls) -> list[str]:
            return ["image_processor", "tokenizer"]

    reference = WithoutVideo(ours.reader.image_processor, ours.tokenizer, None, chat_template=tiny.TEMPLATE)
    pictures = [tiny.picture(300, 200, 1), tiny.picture(50, 90, 2), tiny.picture(640, 640, 3)]
    turn = ours.prompt(OVERLAY).turn
    text = turn.text.split("user\n")[1].split("<|vision_start|>")[0]
    size = {"shortest_edge": 4096, "longest_edge": 200_704}
    for picture in pictures:
        content = [{"type": "text", "text": text}, {"type": "image", "image": picture}]
        expected = reference.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"size": size},
        )
        prepared = ours.prepare(picture, max_pixels=200_704, min_pixels=4096)
        found = ours.rows(turn, [prepared], device=CPU, dtype=torch.float32).inputs
        assert turn.ids(prepared.tokens) == expected["input_ids"][0].tolist()
        assert torch.equal(found["image_grid_thw"], expected["image_grid_thw"])
        frames = expected["pixel_values"].view(len(found["pixel_values"]), 3, 2, -1)
        assert torch.equal(frames[:, :, 0], frames[:, :, 1])  # a still picture: one frame is enough
        assert torch.allclose(found["pixel_values"], frames[:, :, 0].flatten(1), atol=1e-6)


def test_a_folder_without_tokenizer_is_named_in_one_line(tmp_path: Any) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen3_vl"}')
    with pytest.raises(ModelInvalid, match="tokenizer or image processor") as caught:
        load_processor(tmp_path, FAMILIES["qwen3_vl"])
    assert "\n" not in str(caught.value)


def test_the_instruction_stands_before_the_image_and_names_every_label(ours: VisionProcessor) -> None:
    text = ours.prompt(OVERLAY).turn.text
    menu = "Is there text?\nA) text added on top\nB) natural\nC) none\nAnswer with the letter."
    assert text.index(menu) < text.index("<|image_pad|>")
    assert text.endswith("<|im_start|>assistant\n")


def test_every_code_is_one_token_at_the_emission_position_and_none_is_shared(ours: VisionProcessor) -> None:
    prompt = ours.prompt(classes(102))
    seen: set[int] = set()
    for code in prompt.codes:
        expected = ours.tokenizer.encode(prompt.turn.text + code.code, add_special_tokens=False)
        assert expected == [*prompt.turn.ids([ours.reader.image_token_id]), code.answer_id]
        assert not seen & set(code.token_ids)
        seen |= set(code.token_ids)
    assert len({code.code for code in prompt.codes}) == 102
    assert prompt.codes[0].token_ids == tuple(ours.tokenizer.convert_tokens_to_ids(["A", "ĠA"]))


def test_codes_that_are_several_tokens_are_never_chosen() -> None:
    tokenizer = tiny.tokenizer(pairs=False)  # "AA" is two tokens here, which leaves 62 codes
    assert len(make_prompt(tokenizer, classes(62), image_token=PAD).codes) == 62
    with pytest.raises(ModelInvalid, match="63 labels but this tokenizer has only 62"):
        make_prompt(tokenizer, classes(63), image_token=PAD)


def test_a_letter_that_melts_into_the_generation_prompt_is_never_chosen() -> None:
    """After "assistant: " the letter A is the one token " A", not a token that follows the prompt; digits are."""
    template = tiny.TEMPLATE.replace("assistant\\n", "assistant: ").replace("assistant\n", "assistant: ")
    prompt = make_prompt(tiny.tokenizer(), OVERLAY, image_token=PAD, chat_template=template)
    assert prompt.turn.text.endswith("assistant: ")
    assert [code.code for code in prompt.codes] == ["0", "1", "2"]


def test_a_placeholder_smuggled_into_the_prompt_is_refused(ours: VisionProcessor) -> None:
    question = Question(name="q", prompt="x <|image_pad|>", labels=("a", "b"), flags=frozenset())
    with pytest.raises(ModelInvalid, match="2 times"):
        ours.prompt(question)


def test_what_is_read_comes_from_lengths_even_when_the_pad_token_stands_in_the_prompt(ours: VisionProcessor) -> None:
    ours.tokenizer.pad_token = "<|im_end|>"  # ends every turn, as in several released checkpoints
    turn = ours.prompt(OVERLAY).turn
    prepared = [ours.prepare(tiny.picture(s, s, s), max_pixels=200_704, min_pixels=3136) for s in (56, 224)]
    rows = ours.rows(turn, prepared, device=CPU, dtype=torch.float32)
    lengths = [p.visual_tokens + len(turn.after) for p in prepared]
    assert rows.last.tolist() == [length - 1 for length in lengths]
    assert rows.n_padding == lengths[1] - lengths[0]
    for ids, length in zip(rows.inputs["input_ids"].tolist(), lengths, strict=True):
        assert tuple(ids[length - len(turn.after) : length]) == turn.after


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1", "I;16"])
def test_any_pil_mode_becomes_three_channels(mode: str, ours: VisionProcessor) -> None:
    image = Image.new(mode, (64, 48))
    prepared = ours.prepare(image, max_pixels=200_704, min_pixels=3136)
    assert prepared.pixels.shape == (prepared.grid[0] * 28, prepared.grid[1] * 28, 3)
    assert prepared.original_size == (64, 48)


def test_sizes_stay_within_the_pixel_budget(ours: VisionProcessor) -> None:
    rng = random.Random(7)
    for _ in range(20):
        image = Image.new("RGB", (rng.randint(20, 1500), rng.randint(20, 1500)))
        width, height = ours.prepare(image, max_pixels=50_176, min_pixels=3136).resized_size
        assert 3136 <= width * height <= 50_176


def test_a_thin_strip_is_an_unsuitable_image_not_a_crash(ours: VisionProcessor) -> None:
    with pytest.raises(ImageUnsuitable, match="3000 x 10 pixels"):
        ours.prepare(Image.new("RGB", (3000, 10)), max_pixels=50_176, min_pixels=3136)


def test_the_prompt_hash_moves_with_every_word_and_label(ours: VisionProcessor) -> None:
    changed = Question(name="o", prompt="Is there some text?", labels=OVERLAY.labels, flags=OVERLAY.flags)
    assert ours.prompt(OVERLAY).sha256 == ours.prompt(OVERLAY).sha256
    assert ours.prompt(OVERLAY).sha256 != ours.prompt(changed).sha256
