"""Every model family, in every precision it supports, against a straightforward reference computation.

One tiny random checkpoint a family (`tests.unit.models.checkpoints`), made once and loaded once in each precision.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
import torch
from PIL import Image

from scanfleet.models import factory
from scanfleet.models.adapters.card import AdapterCard, LoraSettings
from scanfleet.models.errors import ImageUnsuitable, ModelInvalid
from scanfleet.models.families import FAMILIES
from scanfleet.models.network.base import BaseModel, Precision, load_base
from scanfleet.models.network.lora import add_lora, save_lora
from scanfleet.models.scoring.prefill import PrefillScorer
from scanfleet.models.types import Order, Question
from tests.unit.models import tiny_models
from tests.unit.models.checkpoints import TINY, reference

QUESTION = Question(
    name="overlay",
    prompt="Is there text?",
    labels=("overlay", "natural", "none"),
    flags=frozenset({"overlay"}),
    descriptions={"none": "no text"},
    max_pixels=200 * 200,
)
SIZES = ((100, 100), (300, 180), (64, 200), (90, 31), (256, 256))  # the last has pixels for every budget
CASES = [(family, precision) for family in FAMILIES for precision in FAMILIES[family].precisions]
REFUSED = [(family, p) for family in FAMILIES for p in get_args(Precision) if (family, p) not in CASES]
# Widest difference of a margin, in logits: rounding of fp32; of bf16, whose logits near 4 are 0.02 apart, where sums
# of another shape round otherwise and a random two-layer network has nothing to damp it.
TOLERANCE = {"fp32": 1e-4, "bf16": 0.05, "nf4": 0.05, "int8": 0.05}
MERGING = 1e-4  # fp32, between an adapter in the weights and beside them

Load = Callable[..., BaseModel]


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("families")
    return cache(lambda family: TINY[family].checkpoint(root / family))


@pytest.fixture(scope="session")
def load(folder_of: Callable[[str], Path]) -> Load:
    return cache(lambda family, precision: load_base(str(folder_of(family)), precision=precision, device="cpu"))


def pictures() -> list[Image.Image]:
    return [tiny_models.picture(w, h, i) for i, (w, h) in enumerate(SIZES)]


def margins(scorer: PrefillScorer) -> list[float]:
    return [reading.margin for reading in scorer.score([scorer.prepare(picture) for picture in pictures()])]


def test_every_family_has_its_tiny_checkpoint() -> None:
    assert TINY.keys() == FAMILIES.keys()


@pytest.mark.parametrize("order", get_args(Order))
@pytest.mark.parametrize(("family", "precision"), CASES)
def test_readings_equal_the_reference(load: Load, family: str, precision: Precision, order: Order) -> None:
    base = load(family, precision)
    question = replace(QUESTION, order=order)
    scorer = factory.scorer(base, question)
    tolerance = TOLERANCE[precision]
    for image in pictures():
        item = scorer.prepare(image)
        (found,) = scorer.score([item])
        expected = reference(TINY[family], base, question, image)
        assert found.margin == pytest.approx(expected.margin, abs=tolerance)
        assert found.logits == pytest.approx(expected.logits, abs=tolerance)
        assert found.mass == pytest.approx(expected.mass, rel=tolerance)
        assert found.visual_tokens == expected.visual_tokens == item.visual_tokens
        assert item.tokens.count(base.processor.reader.image_token_id) == item.visual_tokens
        assert item.pixels.dtype == torch.uint8


@pytest.mark.parametrize(("family", "precision"), CASES)
def test_an_image_scores_alike_alone_and_in_any_company(load: Load, family: str, precision: Precision) -> None:
    scorer = factory.scorer(load(family, precision), QUESTION)
    items = [scorer.prepare(picture) for picture in pictures()]
    alone = [scorer.score([item])[0].margin for item in items]
    assert max(alone) - min(alone) > 0.1, "images that score alike would prove nothing"
    for order in ([0, 1, 2, 3, 4], [4, 3, 1, 0, 2], [2, 2, 1], [4, 3]):
        together = [reading.margin for reading in scorer.score([items[i] for i in order])]
        assert together == pytest.approx([alone[i] for i in order], abs=TOLERANCE[precision])


@pytest.mark.parametrize("family", FAMILIES)
def test_quantisation_spares_the_vision_tower_the_projector_and_the_head(load: Load, family: str) -> None:
    for precision, kind in (("nf4", "Linear4bit"), ("int8", "WeightOnlyInt8")):
        if precision in FAMILIES[family].precisions:
            network = load(family, precision).network
            quantised = {name for name, module in network.named_modules() if type(module).__name__ == kind}
            assert len(quantised) == TINY[family].LINEAR
            assert not any(name.startswith(FAMILIES[family].vision) for name in quantised)
            assert network.get_output_embeddings().weight.is_floating_point()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_pattern_for_lora_matches_the_language_model_and_nothing_else(load: Load, family: str) -> None:
    network = load(family, "fp32").network
    linear = [name for name, module in network.named_modules() if isinstance(module, torch.nn.Linear)]
    matched = {name for name in linear if re.fullmatch(FAMILIES[family].language_linear, name)}
    assert len(matched) == TINY[family].LINEAR
    assert not any(name.startswith(FAMILIES[family].vision) for name in matched)
    head = next(name for name, module in network.named_modules() if module is network.get_output_embeddings())
    rest = {name for name in linear if name not in matched}
    assert all(name.startswith((*FAMILIES[family].vision, head)) for name in rest)


def make_adapter(into: Path, base: BaseModel) -> Path:
    """An adapter over the whole language model, with random factors that move every margin."""
    lora = LoraSettings(r=4, lora_alpha=8, target_modules=base.family.language_linear)
    model = add_lora(base.network, lora, name="default")
    torch.manual_seed(1)
    for name, tensor in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(tensor, std=0.1)
    card = AdapterCard(name="a", question=QUESTION, base_model="tiny", base_revision=base.checkpoint.revision)
    save_lora(into, model, card=card, lora=lora)
    return into


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_moves_scores_and_leaves_the_base_as_it_was(
    folder_of: Callable[[str], Path], family: str, tmp_path: Path
) -> None:
    merging, beside, other = (load_base(str(folder_of(family)), precision="fp32", device="cpu") for _ in range(3))
    beside.merges = False
    adapter = make_adapter(tmp_path, other)
    plain, merged, unmerged = (
        factory.scorer(merging, QUESTION),
        *(factory.scorer(b, QUESTION, adapter) for b in (merging, beside)),
    )
    alone = margins(plain)
    adapted = margins(merged)
    assert all(abs(a - b) > 0.01 for a, b in zip(adapted, alone, strict=True))
    assert adapted == pytest.approx(margins(unmerged), abs=MERGING)
    assert margins(plain) == alone
    assert margins(merged) == adapted
    assert bool(beside.unmerged)
    assert not merging.unmerged


@pytest.mark.parametrize("size", [(1, 1), (2, 3000), (3000, 2), (37, 1)])
@pytest.mark.parametrize("family", FAMILIES)
def test_odd_sizes_are_scored_or_refused_by_name(load: Load, family: str, size: tuple[int, int]) -> None:
    base = load(family, "fp32")
    scorer = factory.scorer(base, QUESTION)
    try:
        item = scorer.prepare(tiny_models.picture(*size, 1))
    except ImageUnsuitable as refused:
        message = str(refused)
    else:
        message = ""
    if message:
        assert f"{size[0]} x {size[1]}" in message
        return
    (found,) = scorer.score([item])
    expected = reference(TINY[family], base, QUESTION, tiny_models.picture(*size, 1))
    assert found.margin == pytest.approx(expected.margin, abs=TOLERANCE["fp32"])


@pytest.mark.parametrize("family", FAMILIES)
def test_any_pil_mode_is_scored_as_its_colours_are(load: Load, family: str) -> None:
    scorer = factory.scorer(load(family, "fp32"), QUESTION)
    for mode in ("L", "P", "LA", "RGBA", "CMYK", "1"):
        image = tiny_models.picture(90, 60, 1).convert(mode)
        odd, plain = scorer.prepare(image), scorer.prepare(image.convert("RGB"))
        assert torch.equal(odd.pixels, plain.pixels)
        assert odd.original_size == (90, 60)


def test_a_precision_that_a_family_cannot_have_is_refused(folder_of: Callable[[str], Path]) -> None:
    for family, precision in REFUSED:
        with pytest.raises(ModelInvalid, match=f"precision {precision}"):
            load_base(str(folder_of(family)), precision=precision, device="cpu")
    only_bf16 = replace(FAMILIES["qwen3_vl"], precisions=("bf16",))
    with pytest.raises(ModelInvalid, match=r"a qwen3_vl model cannot be loaded in precision nf4; choose bf16$"):
        only_bf16.check_precision("nf4")
    only_bf16.check_precision("bf16")
