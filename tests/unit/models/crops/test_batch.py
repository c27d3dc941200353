"""Every kind of crop pass on the pocket model, through one protocol: finite answers, and every token counted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, get_args

import pytest
import torch
from PIL import Image, ImageDraw

from scanfleet.models import factory
from scanfleet.models.crops.batch import TwoPassReading, run_crop_pass
from scanfleet.models.crops.policy import CropPolicy, Look
from scanfleet.models.crops.reader import PolicyCropReader, Views
from scanfleet.models.crops.whole_image import WHOLE_IMAGE_LOOKS, whole_image_rows
from scanfleet.models.network.base import BaseModel, load_base
from scanfleet.models.pocket.scenes.planted import planted
from scanfleet.models.relevance.regions import Method
from scanfleet.models.types import Pointed, Question

BUDGET = 192 * 192  # small, so that the tests are quick
QUESTION = Question(
    name="razor", prompt="Is there a blade?", labels=("blade", "none"), flags=frozenset({"blade"}), max_pixels=BUDGET
)
LOOKS: tuple[Look, ...] = get_args(Look)
BACK_AND_FORTH = 3  # a way back costs as much as two forth


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return load_base("pocket", device="cpu")


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    """A bag with a wire net over a part of it, another one, and the first where nothing is left to see."""
    first, second = (planted(3, index).image.resize((480, 320)) for index in (0, 1))
    for x in range(100, 200, 8):
        ImageDraw.Draw(first).line((x, 60, x, 220), fill=(0, 0, 0))
    return [first, second.resize((300, 400)), first.resize((100, 100))]


@dataclass
class Count:
    tokens: int = 0


@contextmanager
def counting(base: BaseModel) -> Iterator[Count]:
    """The image tokens that the network really reads in here."""
    count, image_token_id = Count(), base.processor.reader.image_token_id

    def look(_: object, args: object, kwargs: dict[str, Any]) -> None:
        seen = int((kwargs["input_ids"] == image_token_id).sum())
        count.tokens += seen * (BACK_AND_FORTH if torch.is_grad_enabled() else 1)

    hook = base.network.base_model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield count
    finally:
        hook.remove()


class Decided(PolicyCropReader):
    """Points somewhere even when the map is diffuse, so that every crop pass runs to its end."""

    def point(self, views: Sequence[Views]) -> list[Pointed]:
        return [
            pointed if pointed.corners else replace(pointed, corners=(30, 20, 90, 80), why_not="")
            for pointed in super().point(views)
        ]


def looked(base: BaseModel, policy: CropPolicy, images: list[Image.Image]) -> tuple[list[TwoPassReading], int]:
    """Both passes over the images, and the tokens read in the second one; blank images were read before."""
    scorer = factory.scorer(base, QUESTION, policy=policy)
    crop_reader = Decided(base=base, scorer=factory.scorer(base, QUESTION), policy=policy)
    firsts = scorer.score([scorer.prepare(image) for image in images])
    run_crop_pass(scorer, crop_reader, images, firsts)
    with counting(base) as count:
        found = run_crop_pass(scorer, crop_reader, images, firsts)
    return found, count.tokens


def policy_of(look: Look, **settings: Any) -> CropPolicy:
    pixels = {"larger": 256 * 256, "adapted": 384 * 384}.get(look, BUDGET)
    return CropPolicy(look=look, crop_pixels=pixels, context_pixels=BUDGET, **settings)


def check(found: list[TwoPassReading], tokens: int) -> None:
    assert sum(each.tokens for each in found) == tokens
    for each in found:
        assert all(math.isfinite(value) for value in (each.fused.margin, *each.fused.logits))
        assert each.fused.visual_tokens == each.first.visual_tokens + sum(row.visual_tokens for row in each.second)
        assert bool(each.second) or each.fused.margin == each.first.margin


@pytest.mark.parametrize("look", LOOKS)
def test_every_crop_pass_gives_finite_margins_and_counts_its_tokens(
    base: BaseModel, images: list[Image.Image], look: Look
) -> None:
    found, tokens = looked(base, policy_of(look), images)
    check(found, tokens)
    assert any(each.second for each in found), "no crop pass would prove nothing"
    # The map is made of the attention that the first pass recorded.
    assert all(each.pointed is None or each.pointed.tokens == 0 for each in found)


@pytest.mark.parametrize(("method", "tiled"), [("rel-att", True), ("grad-att", False), ("pure-grad", False)])
def test_every_map_counts_what_it_costs(
    base: BaseModel, images: list[Image.Image], method: Method, tiled: bool
) -> None:
    found, tokens = looked(base, policy_of("crop", method=method, tiled=tiled, reference="generic"), images[:2])
    check(found, tokens)
    assert all(each.pointed is not None and each.pointed.tokens > 0 for each in found)


def test_a_reweighted_pass_by_a_factor_of_one_is_the_first(base: BaseModel, images: list[Image.Image]) -> None:
    for each in looked(base, policy_of("reweight", emphasis=1.0, fuse="second"), images)[0]:
        assert each.fused.margin == pytest.approx(each.first.margin, abs=1e-5)  # rounding, in another company
    moved = [
        abs(each.fused.margin - each.first.margin)
        for each in looked(base, policy_of("reweight", emphasis=4.0, fuse="second"), images)[0]
        if each.second
    ]
    assert moved
    assert min(moved) > 1e-4


def test_two_scales_are_fused_either_way(base: BaseModel, images: list[Image.Image]) -> None:
    """A smaller budget than the first pass's is a crop pass like any other."""
    smaller = replace(policy_of("larger"), crop_pixels=96 * 96)
    for fuse in ("mean", "max"):
        for each in looked(base, replace(smaller, fuse=fuse), images[:2])[0]:
            (second,) = each.second
            assert second.visual_tokens < each.first.visual_tokens
            both = (each.first.margin, second.margin)
            expected = max(both) if fuse == "max" else sum(both) / 2  # of two labels
            assert each.fused.margin == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("look", "size"),
    [("larger", (500, 3000)), ("adapted", (500, 3000)), ("tiles", (500, 3000)), ("tiles", (6000, 4000))],
)
def test_large_and_tall_images_are_read_whole(base: BaseModel, look: Look, size: tuple[int, int]) -> None:
    reader, policy = base.processor.reader, policy_of(look)
    rows = whole_image_rows(Image.new("RGB", size, (99, 99, 99)), reader=reader, question=QUESTION, policy=policy)
    assert look in WHOLE_IMAGE_LOOKS
    assert len(rows) == {"larger": 1, "adapted": 0, "tiles": 16}[look]  # on grey paper no edge was lost
    assert all(0 < row.visual_tokens <= policy.crop_pixels // 1024 for row in rows)
