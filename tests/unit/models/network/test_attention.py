"""The answer position's attention is that of eager attention, without it; and scores do not notice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch

from scanfleet.models import factory
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.families import FAMILIES as KNOWN
from scanfleet.models.families import PreparedImage
from scanfleet.models.network.attention import NAME, attention_modules
from scanfleet.models.network.base import BaseModel, Precision, load_base
from scanfleet.models.network.recording import recording
from scanfleet.models.scoring.prefill import PrefillScorer
from scanfleet.models.types import Question
from tests.unit.models.checkpoints import TINY
from tests.unit.models.eager_attention import attend, eager, visual
from tests.unit.models.tiny_models import picture

QUESTION = Question(
    name="q", prompt="Is there text?", labels=("a", "b", "c"), flags=frozenset({"a"}), max_pixels=100 * 100
)
FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava", "internvl")
Load = Callable[..., BaseModel]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    folder = cache(lambda name: TINY[name].checkpoint(tmp_path_factory.mktemp("tiny") / name))

    @cache
    def made(name: str, precision: Precision = "fp32", how: str = "as served") -> BaseModel:
        if how == "eager":
            return eager(folder(name), precision)
        return load_base(str(folder(name)), precision=precision, device="cpu")

    return made


def prepared(scorer: PrefillScorer) -> list[PreparedImage]:
    """Rows of different lengths."""
    return [scorer.prepare(picture(*size)) for size in ((180, 120, 1), (60, 200, 2), (64, 64, 3))]


@torch.inference_mode()
def by_eager(base: BaseModel, scorer: PrefillScorer, image: PreparedImage, layers: list[int]) -> np.ndarray:
    _, attention = attend(base, scorer.prompt.turn, image)
    rows = torch.stack([attention[layer][0, :, -1].float().mean(0) for layer in layers]).mean(0)
    return rows[visual(base, scorer.prompt.turn, image)].numpy()


@pytest.mark.parametrize("name", FAMILIES)
def test_recorded_attention_is_that_of_eager_attention(load: Load, name: str) -> None:
    scorer, reference = factory.scorer(load(name), QUESTION), load(name, "fp32", "eager")
    images = prepared(scorer)
    for layers in ([0], [1], [0, 1]):
        scorer.record_layers = tuple(layers)
        for image, reading in zip(images, scorer.score(images), strict=True):
            expected = by_eager(reference, scorer, image, layers)
            assert reading.attention is not None
            assert reading.attention.shape == (image.visual_tokens,)
            assert np.abs(reading.attention - expected).max() < 1e-6
            assert expected.max() > 1.05 * expected.min()  # else a constant would do


@pytest.mark.parametrize(("precision", "close"), [("bf16", 1e-3), ("nf4", 1e-3), ("int8", 1e-3)])
def test_recorded_attention_is_that_of_eager_attention_in_16_8_and_4_bit(
    load: Load, precision: Precision, close: float
) -> None:
    scorer = factory.scorer(load("qwen3_vl", precision), QUESTION)
    reference = load("qwen3_vl", precision, "eager")
    scorer.record_layers = ()
    images = prepared(scorer)
    for image, reading in zip(images, scorer.score(images), strict=True):
        assert reading.attention is not None
        assert np.abs(reading.attention - by_eager(reference, scorer, image, [0, 1])).max() < close


def test_an_image_is_attended_to_in_the_same_way_beside_others(load: Load) -> None:
    scorer = factory.scorer(load("qwen2_5_vl"), QUESTION)
    scorer.record_layers = ()
    images = prepared(scorer)
    together = [reading.attention for reading in scorer.score(images)]
    alone = [scorer.score([image])[0].attention for image in images]
    for one, other in zip(together, alone, strict=True):
        assert one is not None
        assert other is not None
        assert np.abs(one - other).max() < 1e-7


@pytest.mark.parametrize("name", ["qwen3_vl", "llava"])
def test_scores_are_the_same_to_the_last_bit(load: Load, name: str) -> None:
    """As without our attention function, and whether or not something is recorded."""
    scorer, plain = factory.scorer(load(name), QUESTION), factory.scorer(load(name, "fp32", "plain"), QUESTION)
    for attention in attention_modules(plain._base.network, plain._base.family, [0, 1]):
        attention.config._attn_implementation = {"": "sdpa"}
    images = prepared(scorer)
    before = scorer.score(images)
    assert all(reading.attention is None for reading in before)
    assert before == plain.score(images)
    scorer.record_layers = ()
    assert before == scorer.score(images)


def test_a_forward_in_another_thread_is_not_recorded(load: Load) -> None:
    scorer = factory.scorer(load("qwen3_vl"), QUESTION)
    base, images, others = scorer._base, prepared(scorer)[:1], prepared(scorer)[1:]
    scorer.record_layers = ()
    expected = scorer.score(images)[0].attention
    scorer.record_layers = None
    scorer.last_hidden(images)  # the instruction is read by now
    with torch.inference_mode(), base.using(None):
        rows = base.processor.rows(scorer.prompt.turn, images, device=base.device, dtype=base.network.dtype)
        with recording(base.network, base.family, base.processor.reader, (), rows) as found:
            other = threading.Thread(target=scorer.score, args=[others])
            other.start()
            other.join()
            assert scorer._prefix is not None
            width = rows.inputs["input_ids"].shape[1]
            base.processor.reader.hidden(base.network, rows.inputs | scorer._prefix.inputs(width, base.device))
    assert found[0] is not None
    assert expected is not None
    assert np.array_equal(found[0], expected)


def test_layers_that_the_model_lacks_are_named(load: Load) -> None:
    scorer = factory.scorer(load("qwen3_vl"), QUESTION)
    scorer.record_layers = (0, 2)
    with pytest.raises(ModelInvalid, match="layers 0 to 1, no layer 2"):
        scorer.score(prepared(scorer))


def test_a_model_that_bypasses_the_attention_interface_gives_no_map(load: Load) -> None:
    base = load("qwen3_vl", "fp32", "eager")
    with pytest.raises(ModelInvalid, match="qwen3_vl"):
        attention_modules(base.network, base.family, ())


@pytest.mark.parametrize(("layers", "middle"), [(2, [0, 1]), (4, [1, 2]), (6, [2, 3])])
def test_the_middle_third_of_the_layers_is_the_default(layers: int, middle: list[int]) -> None:
    network = torch.nn.Module()
    network.model = torch.nn.Module()
    network.model.language_model = torch.nn.Module()
    network.model.language_model.layers = torch.nn.ModuleList(_layer(number) for number in range(layers))
    found = attention_modules(network, KNOWN["qwen3_vl"], ())
    assert [attention.layer_idx for attention in found] == middle


def _layer(number: int) -> torch.nn.Module:
    layer = torch.nn.Module()
    layer.self_attn = torch.nn.Module()
    layer.self_attn.q_proj = torch.nn.Linear(1, 1)
    layer.self_attn.layer_idx = number
    layer.self_attn.config = type("Config", (), {"_attn_implementation": NAME})()
    return layer
