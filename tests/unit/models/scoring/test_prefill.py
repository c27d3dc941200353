"""The scorer against a straightforward reference, model(...).logits at the last position, in every precision."""

from __future__ import annotations

import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from PIL import Image

from scanfleet.models import factory
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.families import segments
from scanfleet.models.network import attention
from scanfleet.models.network.base import BaseModel, Precision, load_base
from scanfleet.models.network.prefix import cache_keyword
from scanfleet.models.scoring.prefill import LabelHead, PrefillScorer
from scanfleet.models.types import Question, Reading, Scorer
from tests.unit.models import tiny_models as tiny
from tests.unit.models.reference_qwen import left_padded

QUESTION = Question(
    name="overlay",
    prompt="Is there text?",
    labels=("overlay", "natural", "none"),
    flags=frozenset({"overlay"}),
    descriptions={"none": "no text"},
    max_pixels=200 * 200,
    min_pixels=64 * 64,
    order="instruction-first",
)
SIZES = ((100, 100), (300, 180), (64, 200), (90, 31))
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "nf4", "int8")
# Widest difference of a margin between batch 1 and batch N: rounding of fp32; of bf16, where sums of another shape
# round otherwise and a random two-layer network has nothing to damp it.
BATCH_TOLERANCE = {"fp32": 1e-4, "bf16": 0.05, "nf4": 0.05, "int8": 0.05}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tiny")
    return {family: tiny.checkpoint(root / family, family) for family in tiny.FAMILIES}


@pytest.fixture(scope="module")
def bases(folders: dict[str, Path]) -> dict[tuple[str, Precision], BaseModel]:
    return {
        (family, precision): load_base(str(folders[family]), precision=precision, device="cpu")
        for family, precision in itertools.product(tiny.FAMILIES, PRECISIONS)
    }


def pictures() -> list[Image.Image]:
    return [tiny.picture(w, h, i) for i, (w, h) in enumerate(SIZES)]


def prepared(scorer: PrefillScorer) -> list:
    return [scorer.prepare(picture) for picture in pictures()]


@torch.inference_mode()
def reference(base: BaseModel, question: Question, image: Image.Image) -> Reading:
    """One image, full logits, every step spelled out, in plain Python where it can be."""
    prompt = base.processor.prompt(question)
    processor = base.processor.reader.image_processor
    least = question.min_pixels or processor.size["shortest_edge"]
    pixels = processor(
        images=image, size={"shortest_edge": least, "longest_edge": question.max_pixels}, return_tensors="pt"
    )
    visual = int(pixels["image_grid_thw"].prod()) // 4
    text = prompt.turn.text.replace("<|image_pad|>", "<|image_pad|>" * visual)
    ids = torch.tensor([base.processor.tokenizer.encode(text, add_special_tokens=False)])
    image_id = base.processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    out = base.network(input_ids=ids, mm_token_type_ids=(ids == image_id).long(), **pixels)
    last = out.logits[0, -1].double()
    labels = [math.log(sum(math.exp(last[token]) for token in code.token_ids)) for code in prompt.codes]
    mass = sum(float(last.softmax(-1)[token]) for code in prompt.codes for token in code.token_ids)
    flagged = [v for v, name in zip(labels, question.labels, strict=True) if name in question.flags]
    others = [v for v, name in zip(labels, question.labels, strict=True) if name not in question.flags]
    if not flagged:
        others = sorted(labels)
        flagged = [others.pop()]
    margin = math.log(sum(map(math.exp, flagged))) - math.log(sum(map(math.exp, others)))
    return Reading(margin=margin, logits=tuple(labels), mass=mass, visual_tokens=visual)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_readings_equal_the_reference(bases: dict, family: str, precision: Precision) -> None:
    base = bases[family, precision]
    scorer = factory.scorer(base, QUESTION)
    # In 16 bit the reference rounds its logits to bf16 (8 bits: 0.4 % of values up to about 4); ours stay in fp32.
    tolerance = 1e-4 if precision == "fp32" else 0.05
    for image, item in zip(pictures(), prepared(scorer), strict=True):
        (found,) = scorer.score([item])
        expected = reference(base, QUESTION, image)
        assert found.margin == pytest.approx(expected.margin, abs=tolerance)
        assert found.logits == pytest.approx(expected.logits, abs=tolerance)
        assert found.mass == pytest.approx(expected.mass, rel=tolerance)
        assert found.visual_tokens == expected.visual_tokens == item.visual_tokens


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_an_image_scores_alike_alone_and_in_any_company(bases: dict, family: str, precision: Precision) -> None:
    scorer = factory.scorer(bases[family, precision], QUESTION)
    items = prepared(scorer)
    alone = [scorer.score([item])[0].margin for item in items]
    assert max(alone) - min(alone) > 0.1, "images that score alike would prove nothing"
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 2, 1], [1, 3]):
        together = [reading.margin for reading in scorer.score([items[i] for i in order])]
        assert together == pytest.approx([alone[i] for i in order], abs=BATCH_TOLERANCE[precision])


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_quantisation_spares_the_vision_tower_and_the_head(bases: dict, family: str) -> None:
    for precision, kind in (("nf4", "Linear4bit"), ("int8", "WeightOnlyInt8")):
        network = bases[family, precision].network
        quantised = {name for name, m in network.named_modules() if type(m).__name__ == kind}
        assert len(quantised) == 14  # seven projections in each of two layers
        assert all(name.startswith("model.language_model.layers.") for name in quantised)


def test_eight_bit_weights_stay_within_their_rounding_of_bf16(bases: dict) -> None:
    exact, eight = (factory.scorer(bases["qwen3_vl", p], QUESTION) for p in ("bf16", "int8"))
    shift = [
        abs(a.margin - b.margin)
        for a, b in zip(exact.score(prepared(exact)), eight.score(prepared(eight)), strict=True)
    ]
    assert 0 < max(shift) < 0.15


def test_without_token_types_qwen2_5_would_score_another_image_in_silence(bases: dict) -> None:
    """The trap that our own positions avoid: Qwen2.5-VL lays the image out as text, for a plausible, wrong score."""
    base = bases["qwen2_5_vl", "fp32"]
    scorer = factory.scorer(base, QUESTION)
    sizes = {"max_pixels": QUESTION.max_pixels, "min_pixels": QUESTION.min_pixels}
    inputs = left_padded(base.processor, [scorer.prompt.turn], [pictures()[1]], **sizes)
    with torch.inference_mode():
        right = base.network(**inputs).logits[:, -1]
        del inputs["mm_token_type_ids"]
        wrong = base.network(**inputs).logits[:, -1]
    assert (right - wrong).abs().max() > 0.01
    answer = torch.tensor([ids for code in scorer.prompt.codes for ids in code.token_ids])
    (found,) = scorer.score([prepared(scorer)[1]])
    assert found.mass == pytest.approx(float(right.softmax(-1)[0, answer].sum()), rel=1e-4)


def test_a_hundred_and_two_classes_without_a_flag(bases: dict) -> None:
    labels = tuple(f"species {i}" for i in range(102))
    question = Question(name="flowers", prompt="Which flower?", labels=labels, flags=frozenset())
    base = bases["qwen2_5_vl", "fp32"]
    scorer = factory.scorer(base, question)
    (found,) = scorer.score([scorer.prepare(pictures()[0])])
    expected = reference(base, scorer.question, pictures()[0])
    assert len(found.logits) == 102
    assert found.logits == pytest.approx(expected.logits, abs=1e-4)
    assert found.margin == pytest.approx(expected.margin, abs=1e-4)
    assert found.margin < 0  # one class against 101 others of about its size


def test_several_flags_are_summed_before_they_are_compared(bases: dict) -> None:
    base = bases["qwen2_vl", "fp32"]
    question = Question(name="bag", prompt="?", labels=("knife", "gun", "none"), flags=frozenset({"knife", "gun"}))
    scorer = factory.scorer(base, question)
    (found,) = scorer.score([scorer.prepare(pictures()[0])])
    knife, gun, none = found.logits
    assert found.margin == pytest.approx(math.log(math.exp(knife) + math.exp(gun)) - none, abs=1e-5)


def test_the_pixel_budget_is_the_questions(bases: dict) -> None:
    base = bases["qwen3_vl", "fp32"]
    small = Question(name="s", prompt="?", labels=("a", "b"), flags=frozenset({"a"}), max_pixels=64 * 64)
    image = tiny.picture(400, 400, 1)
    assert factory.scorer(base, small).prepare(image).visual_tokens == 4
    assert factory.scorer(base, QUESTION).prepare(image).visual_tokens == 36


def test_the_head_reads_the_whole_vocabulary_in_slices() -> None:
    torch.manual_seed(0)
    weight, hidden = torch.randn(40_000, 8), torch.randn(3, 8)
    head = LabelHead(weight=weight, token_ids=[[5, 17_000], [39_999]], flags=[True, False])
    logits, margins, mass = head(hidden)
    full = hidden @ weight.T
    assert torch.allclose(mass, full.softmax(-1)[:, [5, 17_000, 39_999]].sum(-1), rtol=1e-5)
    assert torch.allclose(logits[:, 1], full[:, 39_999])
    assert torch.allclose(margins, full[:, [5, 17_000]].logsumexp(-1) - full[:, 39_999], atol=1e-5)


def test_a_quantised_head_is_refused() -> None:
    with pytest.raises(ModelInvalid, match="head is quantised"):
        LabelHead(weight=torch.zeros(10, 4, dtype=torch.int8), token_ids=[[0], [1]], flags=[True, False])


def test_many_threads_prepare_at_once_what_one_prepares_alone(bases: dict) -> None:
    scorer = factory.scorer(bases["qwen2_5_vl", "fp32"], QUESTION)
    images = pictures() * 8
    alone = [scorer.prepare(image) for image in images]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(scorer.prepare, images))
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_instruction_is_read_once_and_nothing_of_an_image_is_kept(bases: dict, family: str) -> None:
    base = bases[family, "fp32"]
    scorer = factory.scorer(base, QUESTION)
    lengths: list[int] = []
    caches = []

    def look(_: object, args: tuple, kwargs: dict, __: object) -> None:
        lengths.append(kwargs["input_ids"].shape[1])
        caches.append(kwargs.get(cache_keyword(base.network.base_model)))

    hook = base.network.base_model.register_forward_hook(look, with_kwargs=True)
    try:
        scorer.score(prepared(scorer)[:1])
        scorer.score(prepared(scorer)[:2])
    finally:
        hook.remove()
    before, after = len(scorer.prompt.turn.before), len(scorer.prompt.turn.after)
    first, second = (item.visual_tokens for item in prepared(scorer)[:2])
    assert lengths == [before, first + after, max(first, second) + after]
    assert {cache.get_seq_length() for cache in caches[1:]} == {before}


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_still_image_embeds_as_its_repeated_frames_do(bases: dict, family: str) -> None:
    embed = bases[family, "fp32"].network.base_model.visual.patch_embed
    side = bases[family, "fp32"].processor.reader.patch_size
    patches = torch.randn(7, 3, side, side, generator=torch.Generator().manual_seed(1))
    frames = patches[:, :, None].expand(-1, -1, 2, -1, -1)
    assert torch.allclose(embed(patches.flatten(1)), embed(frames.flatten(1)), atol=1e-5)


def test_nothing_to_score_is_no_forward(bases: dict) -> None:
    assert factory.scorer(bases["qwen3_vl", "fp32"], QUESTION).score([]) == []


def test_the_scorer_obeys_the_protocol_and_says_what_it_is(bases: dict, folders: dict) -> None:
    scorer: Scorer = factory.scorer(bases["qwen3_vl", "nf4"], QUESTION)
    assert scorer.question is QUESTION
    identity = scorer.identity
    assert (identity.base_model, identity.precision) == (str(folders["qwen3_vl"]), "nf4")
    assert identity.revision.startswith("sha256:")
    assert identity.adapter_sha256 is None


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_vision_tower_attends_by_groups_of_segments_and_the_language_model_past_a_recorder(
    bases: dict, family: str
) -> None:
    base = bases[family, "fp32"]
    assert base.network.base_model.visual.config._attn_implementation == segments.NAME
    assert base.network.base_model.language_model.config._attn_implementation == attention.NAME
