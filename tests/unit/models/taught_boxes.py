"""A tiny Qwen3-VL that was taught, in seconds, what to say of a few pictures: a letter to the check's question, and
boxes to the question where. Nothing in it is scripted: it generates, like any model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import Qwen3VLForConditionalGeneration

from scanfleet.models.inputs.prompts import Turn
from scanfleet.models.network.base import BaseModel, load_base
from scanfleet.models.scoring.boxes import boxes_instruction
from scanfleet.models.types import Question
from tests.unit.models import tiny_models as tiny

QUESTION = Question(
    name="guns",
    prompt="Gun?",
    labels=("gun", "none"),
    flags=frozenset({"gun"}),
    max_pixels=64 * 96,
    min_pixels=32 * 32,
    order="instruction-first",
)
# Per picture: size and colour, the label to answer, what to write when asked where (in thousandths).
TAUGHT: dict[str, tuple[tuple[int, int], tuple[int, int, int], str, str]] = {
    "one": ((96, 64), (255, 0, 0), "gun", '[{"bbox_2d": [10, 20, 900, 500], "label": "gun"}]'),
    "empty": ((64, 32), (0, 0, 255), "gun", "[]"),
    "bad": ((32, 64), (0, 255, 0), "gun", '[{"bbox_2d": [10, 20], "label": "gun"}]'),
    "clear": ((64, 64), (255, 255, 255), "none", "[]"),
}
STEPS = 400
GOOD_ENOUGH = 0.02  # mean loss per token
IGNORED = -100


def picture(name: str) -> Image.Image:
    size, colour, _, _ = TAUGHT[name]
    return Image.new("RGB", size, colour)


def teach(folder: Path) -> Path:
    """Write the checkpoint. Trained by transformers' own forward, with whole sequences: nothing of ours generates."""
    tiny.checkpoint(folder, "qwen3_vl", seed=1)
    base = load_base(str(folder), precision="fp32", device="cpu")
    network = Qwen3VLForConditionalGeneration.from_pretrained(folder)
    network.model.visual.requires_grad_(False)
    inputs, targets = _lessons(base)
    optimiser = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=2e-3)
    for _ in range(STEPS):
        hidden = network.model(**inputs, use_cache=False).last_hidden_state[:, :-1][targets[:, 1:] != IGNORED]
        loss = torch.nn.functional.cross_entropy(network.lm_head(hidden), targets[:, 1:][targets[:, 1:] != IGNORED])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if loss.item() < GOOD_ENOUGH:
            break
    network.save_pretrained(folder)
    return folder


def _lessons(base: BaseModel) -> tuple[dict[str, Any], torch.Tensor]:
    """Two rows a picture, right-padded, and the tokens to be learnt."""
    processor = base.processor
    score = processor.prompt(QUESTION)
    where = processor.turn(boxes_instruction(QUESTION), image_first=QUESTION.image_first)
    rows, pixels = [], []
    for name, (_, _, label, text) in TAUGHT.items():
        for turn, answer in ((score.turn, [score.answer_ids[label]]), (where, processor.tokenizer.encode(text))):
            rows.append(_row(base, turn, name, answer))
            pixels.append(_pixels(base, name))
    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in rows])
    targets = torch.tensor([learnt + [IGNORED] * (width - len(learnt)) for _, learnt in rows])
    mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in rows])
    inputs = {key: torch.cat([each[key] for each in pixels]) for key in ("pixel_values", "image_grid_thw")}
    types = (ids == processor.reader.image_token_id).long()
    return inputs | {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": types}, targets


def _row(base: BaseModel, turn: Turn, name: str, answer: list[int]) -> tuple[list[int], list[int]]:
    image = base.processor.prepare(picture(name), max_pixels=QUESTION.max_pixels, min_pixels=QUESTION.min_pixels)
    asked = turn.ids(image.tokens)
    learnt = [*answer, int(base.processor.tokenizer.eos_token_id)]
    return [*asked, *learnt], [IGNORED] * len(asked) + learnt


def _pixels(base: BaseModel, name: str) -> dict[str, torch.Tensor]:
    size = {"shortest_edge": QUESTION.min_pixels, "longest_edge": QUESTION.max_pixels}
    made: dict[str, torch.Tensor] = base.processor.reader.image_processor(
        images=picture(name), size=size, return_tensors="pt"
    )
    return made
