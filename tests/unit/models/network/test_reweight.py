"""Attention to a region multiplied: against attention that is multiplied by hand, and with nothing else moved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.integrations.sdpa_attention import repeat_kv

from scanfleet.models import factory
from scanfleet.models.crops.emphasis import emphasised
from scanfleet.models.families import PreparedImage, PreparedRow
from scanfleet.models.families.cells import Cells
from scanfleet.models.network.attention import AttentionHook, attention_modules, emphasis_bias, hooked
from scanfleet.models.network.base import BaseModel, load_base
from scanfleet.models.network.recording import last_rows
from scanfleet.models.relevance.regions import Region
from scanfleet.models.scoring.prefill import PrefillScorer
from scanfleet.models.types import Question
from tests.unit.models import tiny_models as tiny
from tests.unit.models.checkpoints import TINY

QUESTION = Question(
    name="q",
    prompt="Is there text?",
    labels=("a", "b"),
    flags=frozenset({"a"}),
    max_pixels=200 * 200,
    order="instruction-first",
)
CORNER = Region(x0=0, y0=0, x1=150, y1=90)
EVERY = tuple(range(2))  # layers of a tiny model
IMAGE_FIRST = (
    "{% for m in messages %}{% for part in m['content'] %}{% if part['type'] == 'image' %}<|image_pad|>{% endif %}"
    "{% endfor %}{% for part in m['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endfor %}\nassistant: "
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    folder: Path = tiny.checkpoint(tmp_path_factory.mktemp("tiny") / "qwen", "qwen3_vl")
    return load_base(str(folder), precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def scorer(base: BaseModel) -> PrefillScorer:
    return factory.scorer(base, QUESTION)


@pytest.fixture(scope="module")
def image_first(base: BaseModel) -> PrefillScorer:
    """Over the same weights, with nothing before the image."""
    base.processor.chat_template, kept = IMAGE_FIRST, base.processor.chat_template
    try:
        made = factory.scorer(base, QUESTION)
    finally:
        base.processor.chat_template = kept
    assert made.prompt.turn.before == ()
    return made


@pytest.fixture(params=["instruction first", "image first"])
def either(request: pytest.FixtureRequest, scorer: PrefillScorer, image_first: PrefillScorer) -> PrefillScorer:
    return scorer if request.param == "instruction first" else image_first


def picture(seed: int = 0) -> Image.Image:
    return tiny.picture(300, 180, seed)


def emphasised_row(scorer: PrefillScorer, base: BaseModel, factor: float, seed: int = 0) -> PreparedRow:
    image = scorer.prepare(picture(seed))
    return emphasised(image, CORNER, cells=base.processor.reader.cells(image), factor=factor)


class ByHand(AttentionHook):
    """Attention with the weights of some columns multiplied after the softmax, and normalised again."""

    def __init__(self, base: BaseModel, columns: torch.Tensor, after: int, factor: float) -> None:
        super().__init__(attention_modules(base.network, base.family, EVERY))
        self.columns, self.after, self.factor = columns, after, factor

    def attend(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **settings: Any
    ) -> tuple[torch.Tensor, None]:
        groups = query.shape[1] // key.shape[1]
        width, before = query.shape[2], key.shape[2] - query.shape[2]
        products = query @ repeat_kv(key, groups).mT * settings["scaling"]
        seen = torch.ones(products.shape[-2:], dtype=torch.bool).tril(before)
        weights = products.masked_fill(~seen, -torch.inf).softmax(-1)
        times = torch.ones_like(weights)
        times[:, :, self.after :, before + self.columns] = self.factor
        assert width > self.after
        weights = weights * times
        weights = weights / weights.sum(-1, keepdim=True)
        return (weights @ repeat_kv(value, groups)).transpose(1, 2).contiguous(), None


class Heads(AttentionHook):
    """Keeps what the answer position attends to in one layer, by head, (B, heads, P + T)."""

    def __init__(self, base: BaseModel, layer: int) -> None:
        super().__init__(attention_modules(base.network, base.family, [layer]))
        self.masks: list[Any] = []
        self.rows = torch.empty(0)

    def attend(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **settings: Any
    ) -> tuple[torch.Tensor, None]:
        self.masks.append(mask)
        last = torch.full((len(query),), query.shape[2] - 1)
        self.rows = last_rows(query, key, mask, last, settings["scaling"])
        groups = query.shape[1] // key.shape[1]
        out = torch.nn.functional.scaled_dot_product_attention(
            query, repeat_kv(key, groups), repeat_kv(value, groups), mask, is_causal=mask is None
        )
        return out.transpose(1, 2), None


def margin(scorer: PrefillScorer, *rows: PreparedImage | PreparedRow) -> float:
    """Of the first row."""
    return scorer.score(rows)[0].margin


@pytest.mark.parametrize("factor", [1.5, 2.0, 8.0])
def test_margins_equal_attention_multiplied_by_hand(base: BaseModel, either: PrefillScorer, factor: float) -> None:
    row = emphasised_row(either, base, factor)
    assert row.emphasis is not None
    by_hand = ByHand(base, row.emphasis.nonzero().flatten(), row.visual_tokens, factor)
    with hooked(by_hand):
        expected = margin(either, row.images[0])
    assert margin(either, row) == pytest.approx(expected, abs=1e-4)
    assert abs(margin(either, row) - margin(either, row.images[0])) > 1e-3, "no change would prove nothing"


def test_the_regions_share_grows_as_the_formula_says(base: BaseModel, either: PrefillScorer) -> None:
    def share(factor: float) -> torch.Tensor:
        row = emphasised_row(either, base, factor)
        assert row.emphasis is not None
        heads = Heads(base, 0)
        with hooked(heads):
            either.score([row])
        before = len(either.prompt.turn.before)
        return heads.rows[0][:, before : before + row.visual_tokens][:, row.emphasis].sum(-1)

    plain = share(1.0)
    for factor in (1.5, 2.0, 10.0):
        assert torch.allclose(share(factor), factor * plain / (1 + (factor - 1) * plain), atol=1e-6)
        assert (share(factor) > plain).all()


def test_what_the_scorer_records_grows_in_every_layer(base: BaseModel) -> None:
    scorer = factory.scorer(base, QUESTION)
    for layer in EVERY:
        scorer.record_layers = (layer,)
        shares = []
        for factor in (1.0, 1.5, 2.0, 4.0):
            row = emphasised_row(scorer, base, factor)
            (reading,) = scorer.score([row])
            assert reading.attention is not None
            assert row.emphasis is not None
            shares.append(reading.attention[row.emphasis.numpy()].sum())
        assert np.diff(shares).min() > 0


def test_a_factor_of_one_is_the_plain_image_bit_for_bit(base: BaseModel, either: PrefillScorer) -> None:
    row = emphasised_row(either, base, 1.0)
    assert row.emphasis is not None
    assert row.emphasis.any()
    (found,), (expected,) = either.score([row]), either.score(row.images)
    assert found == expected
    heads = Heads(base, 0)
    with hooked(heads):
        either.score([row])
    (mask,) = heads.masks
    assert mask is None or mask.dtype == torch.bool  # nothing is added to the products


def test_a_neighbours_emphasis_moves_no_other_row(base: BaseModel, scorer: PrefillScorer) -> None:
    others = [scorer.prepare(tiny.picture(width, 120, seed)) for seed, width in enumerate((60, 300, 200), start=3)]
    calm, loud = emphasised_row(scorer, base, 1.0), emphasised_row(scorer, base, 4.0)
    assert scorer.score([calm, *others])[1:] == scorer.score([loud, *others])[1:]  # to the bit


def test_without_an_instruction_a_neighbours_emphasis_moves_others_by_rounding(
    base: BaseModel, image_first: PrefillScorer
) -> None:
    other = image_first.prepare(tiny.picture(200, 120, 3))
    calm, loud = emphasised_row(image_first, base, 1.0), emphasised_row(image_first, base, 4.0)
    assert margin(image_first, other, loud) == pytest.approx(margin(image_first, other, calm), abs=1e-5)


def test_rows_of_two_images_and_of_other_lengths_are_favoured_at_their_own_tokens(
    base: BaseModel, scorer: PrefillScorer
) -> None:
    """The second image of two, beside a longer row: as alone."""
    one = emphasised_row(scorer, base, 3.0)
    assert one.emphasis is not None
    context = scorer.prepare(tiny.picture(64, 64, 9))
    none = torch.zeros(context.visual_tokens, dtype=torch.bool)
    pair = PreparedRow(images=(context, *one.images), emphasis=torch.cat((none, one.emphasis)), factor=3.0)
    wide = scorer.prepare(tiny.picture(400, 100, 8))
    assert margin(scorer, pair, wide, one) == pytest.approx(margin(scorer, pair), abs=1e-5)
    assert abs(margin(scorer, pair) - margin(scorer, replace(pair, factor=1.0))) > 1e-3


def test_only_the_tokens_behind_the_images_ask_for_more() -> None:
    emphasis = torch.tensor([[0.0, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    added = emphasis_bias(emphasis, torch.tensor([2, 3]), dtype=torch.bfloat16)
    assert added is not None
    expected = torch.zeros(2, 1, 4, 4)
    expected[0, 0, 2:, 1] = 0.5
    assert added.dtype == torch.bfloat16
    assert torch.equal(added.float(), expected)
    assert emphasis_bias(None, torch.tensor([2]), dtype=torch.float32) is None


CELLS = Cells(tokens=np.arange(8).reshape(2, 4), region=(0, 0, 400, 200))


@pytest.mark.parametrize(
    ("corners", "tokens"),
    [
        ((100, 0, 300, 100), [1, 2]),
        ((40, 0, 260, 100), [0, 1, 2]),  # 60 % of the first, 60 % of the third
        ((60, 0, 240, 100), [1]),  # 40 % of its neighbours
        ((110, 110, 120, 115), [5]),  # a speck in one
        ((195, 95, 205, 105), [1, 2, 5, 6]),  # a speck where four meet
        ((0, 0, 400, 200), list(range(8))),
    ],
)
def test_a_region_holds_the_tokens_it_covers_half_of(corners: tuple[int, ...], tokens: list[int]) -> None:
    assert _inside(corners, CELLS) == tokens


def test_a_region_follows_the_cells_wherever_they_lie() -> None:
    """A square cut out of the middle, as LLaVA-1.5 does, whose first patch has no token."""
    cells = Cells(tokens=np.array([[-1, 0], [1, 2]]), region=(100, 0, 300, 200))
    assert _inside((200, 0, 300, 200), cells) == [0, 2]
    assert _inside((100, 0, 200, 100), cells) == []
    assert _inside((0, 0, 90, 200), cells) == []  # cut off


def _inside(corners: tuple[int, ...], cells: Cells) -> list[int]:
    image = PreparedImage(
        pixels=torch.empty(0), tokens=(0,) * 8, visual_tokens=8, original_size=(400, 200), resized_size=(112, 56)
    )
    x0, y0, x1, y1 = corners
    row = emphasised(image, Region(x0=x0, y0=y0, x1=x1, y1=y1), cells=cells, factor=2.0)
    assert row.images == (image,)
    assert row.emphasis is not None
    found: list[int] = row.emphasis.nonzero().flatten().tolist()
    return found


def test_taking_attention_away_is_refused(base: BaseModel, scorer: PrefillScorer) -> None:
    with pytest.raises(ValueError, match=r"0\.5"):
        emphasised_row(scorer, base, 0.5)


@pytest.mark.parametrize("name", ["llava", "internvl"])
def test_other_families_have_their_own_cells(name: str, tmp_path: Path) -> None:
    base = load_base(str(TINY[name].checkpoint(tmp_path / name)), precision="fp32", device="cpu")
    scorer = factory.scorer(base, QUESTION)
    row = emphasised_row(scorer, base, 4.0)
    assert row.emphasis is not None
    assert 0 < row.emphasis.sum() < row.visual_tokens
    assert abs(margin(scorer, row) - margin(scorer, row.images[0])) > 1e-4
    assert scorer.score([replace(row, factor=1.0)]) == scorer.score(row.images)
