"""The batch-wise training forward gives the hidden state that transformers gives, with and without LoRA."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scanfleet.models.families import FAMILIES
from scanfleet.models.inputs.processing import VisionProcessor, load_processor
from scanfleet.models.pocket.questions import BAGGAGE, OVERLAY
from scanfleet.models.pocket.recipe import load_recipe
from tests.unit.models.reference_qwen import left_padded
from tools.pocket import forward
from tools.pocket.adapt import prepare
from tools.pocket.architecture import new_model


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, VisionProcessor]:
    torch.set_num_threads(1)
    folder: Path = tmp_path_factory.mktemp("pocket")
    model = new_model(folder, seed=1).eval()
    for p in model.parameters():  # far from the initial zeros and ones, so that every term counts
        torch.nn.init.normal_(p, std=0.1)
    model.config.save_pretrained(folder)
    return model, load_processor(folder, FAMILIES["qwen3_vl"])


def _compare(model, processor: VisionProcessor, questions, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (len(questions), size[1], size[0], 3), dtype=np.uint8)
    turns = [processor.prompt(question).turn for question in questions]
    images = [Image.fromarray(x) for x in pixels]
    inputs = left_padded(processor, turns, images, max_pixels=448 * 448, min_pixels=64 * 64)
    with torch.no_grad():
        expected = model.model(**inputs).last_hidden_state[:, -1]
        lengths = torch.tensor([len(turn.before) for turn in turns])
        before = torch.zeros(len(turns), int(lengths.max()), dtype=torch.long)
        for i, turn in enumerate(turns):
            before[i, -len(turn.before) :] = torch.tensor(turn.before)
        seen = forward.encode_images(model.model.visual, torch.from_numpy(pixels))
        found = forward.read_image(model.model.language_model, seen, before, lengths, torch.tensor(turns[0].after))
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-3)
        if all(question is questions[0] for question in questions):
            shared = forward.read_image(
                model.model.language_model, seen, before[:1], lengths[:1], torch.tensor(turns[0].after)
            )
            torch.testing.assert_close(shared, expected, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("size", [(128, 128), (96, 160), (224, 224)])
def test_prompts_of_several_lengths_in_one_batch(fresh, size) -> None:
    _compare(*fresh, [OVERLAY, BAGGAGE, OVERLAY], size)


def test_one_instruction_shared_by_the_batch(fresh) -> None:
    model, processor = fresh
    _compare(model, processor, [OVERLAY] * 3, (160, 96))


def test_through_lora_layers_of_both_parts(fresh) -> None:
    model, processor = fresh
    wrapped = prepare(model, load_recipe()).eval()
    for name, p in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1)
    _compare(model, processor, [BAGGAGE] * 2, (128, 128))


@pytest.mark.parametrize("sizes", [((128, 128), (96, 96)), ((96, 160), (128, 64))])
def test_two_images_in_one_turn(fresh, sizes) -> None:
    """State and attention of the answer position, positions as transformers' get_rope_index gives them."""
    model, processor = fresh
    turn = processor.prompt(BAGGAGE).turn
    between = [turn.after[0], turn.before[-1]]
    rng = np.random.default_rng(1)
    pixels = [rng.integers(0, 255, (2, height, width, 3), dtype=np.uint8) for width, height in sizes]
    reader = processor.reader
    counts = [height * width // 32**2 for width, height in sizes]
    image = [reader.image_token_id]
    row = [*turn.before, *image * counts[0], *between, *image * counts[1], *turn.after]
    ids = torch.tensor([row, row])
    shown = [Image.fromarray(pixels[k][b]) for b in range(2) for k in range(2)]
    size = {"shortest_edge": 64 * 64, "longest_edge": 448 * 448}
    prepared = dict(reader.image_processor(images=shown, size=size, return_tensors="pt"))
    kinds = (ids == image[0]).long()
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        told = model.model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=kinds,
            output_attentions=True,
            **prepared,
        )
        seen = [forward.encode_images(model.model.visual, torch.from_numpy(x)) for x in pixels]
        found = forward.read_images(
            model.model.language_model,
            seen,
            ids[:1, : len(turn.before)],
            torch.tensor([len(turn.before)]),
            [torch.tensor(between), torch.tensor(turn.after)],
            attention=True,
        )
    model.set_attn_implementation(before)
    torch.testing.assert_close(found.hidden, told.last_hidden_state[:, -1], atol=2e-4, rtol=1e-3)
    expected = torch.stack([layer[:, :, -1] for layer in told.attentions])[..., kinds[0].bool()]
    torch.testing.assert_close(found.attention, expected, atol=1e-5, rtol=1e-3)
