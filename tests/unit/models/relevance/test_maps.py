"""Relevance maps: gradients are those of eager attention, values lie where their pixels are, tokens are paid."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

from scanfleet.models import factory
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.families import PreparedImage
from scanfleet.models.network.base import BaseModel, load_base
from scanfleet.models.relevance.grad_att import attention_gradient
from scanfleet.models.relevance.gradients import answer_direction
from scanfleet.models.relevance.grid import extend_to_image
from scanfleet.models.relevance.maps import FLOOR, Blanks, Mapper
from scanfleet.models.relevance.pixel_gradient import edges, pixel_gradient
from scanfleet.models.relevance.prompt_runner import PromptRunner
from scanfleet.models.relevance.regions import Method, Reference
from scanfleet.models.scoring.prefill import PrefillScorer
from scanfleet.models.types import Question
from tests.unit.models.checkpoints import TINY
from tests.unit.models.eager_attention import attend, eager, visual
from tests.unit.models.tiny_models import picture

QUESTION = Question(
    name="q",
    prompt="Is there text?",
    labels=("a", "b", "c"),
    flags=frozenset({"a"}),
    max_pixels=120 * 120,
    order="instruction-first",
)
Load = Callable[..., BaseModel]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    folder = cache(lambda name: TINY[name].checkpoint(tmp_path_factory.mktemp("tiny") / name))
    bases = cache(
        lambda name, how: eager(folder(name)) if how == "eager" else load_base(str(folder(name)), precision=how)
    )
    return lambda name, how="fp32": bases(name, how)


def prepared(scorer: PrefillScorer) -> list[PreparedImage]:
    """Rows of different lengths."""
    return [scorer.prepare(picture(*size)) for size in ((180, 120, 1), (60, 200, 2), (64, 64, 3))]


def mapper_of(scorer: PrefillScorer, method: Method, reference: Reference = "blank") -> Mapper:
    return Mapper(base=scorer._base, scorer=scorer, method=method, reference=reference, layers=())


def runner(scorer: PrefillScorer) -> PromptRunner:
    return PromptRunner(base=scorer._base, scorer=scorer, turn=scorer.prompt.turn)


def log_p(base: BaseModel, hidden: torch.Tensor) -> torch.Tensor:
    """Of the likeliest token."""
    return (base.network.get_output_embeddings().weight.float() @ hidden.float()).log_softmax(-1).max()


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava"])
def test_one_tokens_way_back_is_the_gradient_through_eager_attention(load: Load, name: str) -> None:
    scorer, reference = factory.scorer(load(name), QUESTION), load(name, "eager")
    images = prepared(scorer)
    with torch.inference_mode():
        found = attention_gradient(runner(scorer), images, ())
    embeddings = reference.network.get_input_embeddings().weight.requires_grad_()  # so that there is a graph at all
    for image, values in zip(images, found, strict=True):
        hidden, attention = attend(reference, scorer.prompt.turn, image)
        grads = torch.autograd.grad(log_p(reference, hidden), attention)
        maps = [(row * grad.relu())[0, :, -1].mean(0) for row, grad in zip(attention, grads, strict=True)]
        expected = torch.stack(maps).mean(0)[visual(reference, scorer.prompt.turn, image)].detach().numpy()
        assert values.shape == (image.visual_tokens,)
        assert expected.max() > 0
        assert np.abs(values - expected).max() < 1e-4 * expected.max()
    embeddings.requires_grad_(False)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "llava"])
def test_the_gradient_of_pixels_is_that_of_the_whole_turn(load: Load, name: str) -> None:
    scorer, reference = factory.scorer(load(name), QUESTION), load(name, "eager")
    image = scorer.prepare(picture(180, 120, 1))
    values = pixel_gradient(runner(scorer), image)
    stacked = reference.processor.reader.stack([image], device=reference.device, dtype=torch.float32)
    pixels = stacked["pixel_values"].requires_grad_()
    hidden, _ = attend(reference, scorer.prompt.turn, image, pixel_values=pixels)
    (grad,) = torch.autograd.grad(log_p(reference, hidden), pixels)
    if grad.ndim == 2:  # merged tokens' patches follow each other
        patch = scorer._base.processor.reader.patch_size
        norms = grad.view(image.visual_tokens, 4, 3, patch, patch).norm(dim=2).mean((1, 2, 3))
    else:
        side = scorer._base.processor.reader.patches
        norms = grad[0].norm(dim=0).view(side, 14, side, 14).mean((1, 3)).flatten()
    assert np.abs(values - norms.numpy()).max() < 1e-4 * float(norms.max())


@pytest.mark.parametrize("method", ["grad-att", "pure-grad"])
@pytest.mark.parametrize("precision", ["bf16", "int8", "nf4"])
def test_gradients_go_through_weights_of_any_precision(load: Load, method: Method, precision: str) -> None:
    """As through full precision with the same weights: those that the layers multiply with."""
    base = load("qwen3_vl", precision)
    exact, scorer = factory.scorer(rounded_alike(base), QUESTION), factory.scorer(base, QUESTION)
    images = [scorer.prepare(picture(180, 120, number)) for number in range(8)]
    # Rounding may turn the likeliest of random weights' answers into another one, whose gradient is another.
    image = next(image for image in images if likeliest(exact, image) == likeliest(scorer, image))
    values = [mapper_of(each, method).maps([image], [None])[0].values.flatten() for each in (exact, scorer)]
    assert np.corrcoef(*values)[0, 1] > 0.98


def likeliest(scorer: PrefillScorer, image: PreparedImage) -> int:
    weight = scorer._base.network.get_output_embeddings().weight
    with torch.no_grad():
        return int((weight.float() @ scorer.last_hidden([image])[0].float()).argmax())


def rounded_alike(base: BaseModel) -> BaseModel:
    """In full precision, with the weights that the layers of another base multiply with: its images of unit vectors."""
    alike = load_base(str(base.checkpoint.folder), precision="fp32")
    own = dict(base.network.named_modules())
    with torch.no_grad():
        for path, layer in alike.network.named_modules():
            if isinstance(layer, torch.nn.Linear):
                dtype = torch.bfloat16 if base.precision == "nf4" else base.network.dtype
                units = torch.eye(layer.in_features + 1, layer.in_features, dtype=dtype)  # the last: the bias alone
                images = own[path](units).float()
                layer.weight.data = (images[:-1] - images[-1]).T.contiguous()
    return alike


@pytest.mark.parametrize("method", ["grad-att", "pure-grad"])
def test_others_score_undisturbed_while_a_gradient_is_taken(load: Load, method: Method) -> None:
    scorer = factory.scorer(load("qwen3_vl"), QUESTION)
    images, mapper, done = prepared(scorer), mapper_of(scorer, method), threading.Event()
    expected = mapper.maps(images, [None] * len(images))
    readings = [scorer.score(images)]

    def work() -> None:
        while not done.is_set():
            readings.append(scorer.score(images))

    other = threading.Thread(target=work)
    other.start()
    found = [mapper.maps(images, [None] * len(images)) for _ in range(3)]
    done.set()
    other.join()
    assert all(reading == readings[0] for reading in readings)
    assert all(np.array_equal(a.values, b.values) for maps in found for a, b in zip(maps, expected, strict=True))


def test_the_answers_direction_is_the_gradient_of_its_log_probability() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(3, 8, requires_grad=True), torch.randn(40_000, 8)
    bias = torch.linspace(-9, 9, 40_000)
    for given in ((weight,), (weight, bias)):
        logits = hidden @ weight.T + (bias if len(given) == 2 else 0)
        (expected,) = torch.autograd.grad(logits.log_softmax(-1).max(-1).values.sum(), hidden)
        assert torch.allclose(answer_direction(hidden.detach(), *given), expected, atol=1e-3)


def test_rel_att_divides_by_a_blank_image_or_by_a_generic_instruction(load: Load) -> None:
    scorer = factory.scorer(load("qwen3_vl"), QUESTION)
    image = prepared(scorer)[0]
    scorer.record_layers = ()
    attention = scorer.score([image])[0].attention
    assert attention is not None
    mean = tuple(round(255 * value) for value in scorer._base.processor.reader.image_processor.image_mean)
    blank = scorer.score([scorer.prepare(Image.new("RGB", (180, 120), mean))])[0].attention
    assert blank is not None
    divided = mapper_of(scorer, "rel-att").maps([image], [attention])[0].values
    assert np.allclose(divided, (attention / (blank + FLOOR)).reshape(image.grid), rtol=1e-4)
    generic = replace(QUESTION, prompt="Write a general description of the image.")
    other = mapper_of(scorer, "rel-att", "generic").maps([image], [attention])[0].values
    assert not np.allclose(other, divided, rtol=0.02)
    assert "general description" in mapper_of(scorer, "rel-att", "generic")._generic._turn.text
    assert mapper_of(scorer, "rel-att")._generic._turn.after == load("qwen3_vl").processor.prompt(generic).turn.after


@pytest.mark.parametrize("method", ["rel-att", "grad-att", "pure-grad"])
def test_a_map_is_the_same_beside_others_and_with_attention_recorded_before(load: Load, method: Method) -> None:
    scorer = factory.scorer(load("qwen3_vl"), QUESTION)
    images, mapper = prepared(scorer), mapper_of(scorer, method)
    scorer.record_layers = ()
    recorded = [reading.attention for reading in scorer.score(images)]
    together = mapper.maps(images, [None] * len(images))
    for found in (mapper.maps(images, recorded), [mapper.maps([image], [None])[0] for image in images]):
        for one, other in zip(together, found, strict=True):
            assert np.allclose(one.values, other.values, atol=1e-4 * one.values.max())


@pytest.mark.parametrize(
    ("method", "reference", "alone", "after_a_first_look"),
    [
        ("rel-att", "blank", 1, 0),
        ("rel-att", "generic", 2, 1),
        ("grad-att", "blank", 1, 1),
        ("grad-att", "generic", 1, 1),
        ("pure-grad", "blank", 3, 3),
        ("pure-grad", "generic", 6, 6),
    ],
)
def test_every_token_read_is_counted_and_a_way_back_twice(
    load: Load, method: Method, reference: Reference, alone: int, after_a_first_look: int
) -> None:
    scorer = factory.scorer(load("qwen3_vl"), QUESTION)
    mapper, image = mapper_of(scorer, method, reference), scorer.prepare(picture(180, 120, 1))
    attention = np.ones(image.visual_tokens, np.float32)
    assert mapper.maps([image], [None])[0].tokens == alone * image.visual_tokens
    assert mapper.maps([image], [attention])[0].tokens == after_a_first_look * image.visual_tokens
    blank = 0 if reference == "generic" or method == "grad-att" else {"rel-att": 1, "pure-grad": 3}[method]
    assert mapper.blank_tokens == blank * image.visual_tokens  # read once, though asked for twice


def test_attention_of_another_grid_is_not_used(load: Load) -> None:
    """The first pass may have decoded the image at another size."""
    scorer = factory.scorer(load("qwen3_vl"), QUESTION)
    image, mapper = scorer.prepare(picture(180, 120, 1)), mapper_of(scorer, "rel-att")
    other = mapper.maps([image], [np.ones(image.visual_tokens + 1, np.float32)])[0]
    assert np.array_equal(other.values, mapper.maps([image], [None])[0].values)
    assert other.tokens == image.visual_tokens


def test_blanks_are_forgotten_when_there_are_many_and_shared_between_threads(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scanfleet.models.relevance.maps.KEPT_BLANKS", 2)
    scorer = factory.scorer(load("qwen3_vl"), QUESTION)
    small, middle, large = (scorer.prepare(picture(32 * n, 32, 1)) for n in (2, 3, 4))
    blanks, read = Blanks(), list[int]()

    def note(image: PreparedImage) -> np.ndarray:
        read.append(image.visual_tokens)
        return np.full(image.visual_tokens, 1, np.float32)

    for image in (small, middle, small, large, small, middle):
        blanks.get(image, note, image.visual_tokens)
    assert read == [small.visual_tokens, middle.visual_tokens, large.visual_tokens, middle.visual_tokens]
    threads = [threading.Thread(target=blanks.get, args=(image, note, 1)) for image in (small, middle, large) * 5]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(blanks._found) == 2


def spot(size: tuple[int, int], at: tuple[int, int], side: int) -> Image.Image:
    """Grey, with a checkered square."""
    pixels = np.full((size[1], size[0], 3), 128, np.uint8)
    y, x = np.mgrid[:side, :side]
    pixels[at[1] : at[1] + side, at[0] : at[0] + side] = (((x // 2 + y // 2) % 2) * 255)[..., None]
    return Image.fromarray(pixels)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl", "llava", "llava_next", "internvl", "smolvlm"])
@pytest.mark.parametrize(("size", "at"), [((480, 160), (200, 20)), ((160, 480), (20, 300)), ((300, 300), (210, 30))])
def test_cells_lie_where_their_pixels_are(load: Load, name: str, size: tuple[int, int], at: tuple[int, int]) -> None:
    """What the vision tower makes of a token changes most where the picture does; LLaVA cuts the middle square out."""
    base = load(name)
    reader, budget = base.processor.reader, {"max_pixels": 20_000, "min_pixels": 1000}
    blank, marked = (reader.prepare(image, **budget) for image in (spot(size, (0, 0), 0), spot(size, at, 60)))
    changed = _seen(base, marked) - _seen(base, blank)
    cells = reader.cells(marked)
    strength = changed.norm(dim=-1).numpy()
    grid = np.where(cells.tokens >= 0, strength[cells.tokens], np.float32(0))
    whole = extend_to_image(grid, cells.region, size)
    row, column = np.unravel_index(whole.argmax(), whole.shape)
    x, y = (column + 0.5) / whole.shape[1] * size[0], (row + 0.5) / whole.shape[0] * size[1]
    slack = 0.75 * max(size[0] / whole.shape[1], size[1] / whole.shape[0])
    assert at[0] - slack <= x <= at[0] + 60 + slack
    assert at[1] - slack <= y <= at[1] + 60 + slack


@torch.inference_mode()
def _seen(base: BaseModel, image: PreparedImage) -> torch.Tensor:
    """(visual tokens, d): what the language model is given of an image."""
    reader, given = base.processor.reader, list[torch.Tensor]()
    decoder = base.network.base_model.get_decoder()
    hook = decoder.register_forward_pre_hook(lambda _, a, k: given.append(k["inputs_embeds"][0]), with_kwargs=True)
    ids = torch.tensor([image.tokens])
    places = reader.positions(before=0, rows=[[image]], between=0, width=ids.shape[1])
    stacked = reader.stack([image], device=base.device, dtype=torch.float32)
    reader.hidden(base.network, {"input_ids": ids, "position_ids": places, **stacked})
    hook.remove()
    return given[0][ids[0] == reader.image_token_id]


def test_what_a_square_cuts_off_has_no_relevance(load: Load) -> None:
    base = load("llava")
    image = base.processor.reader.prepare(picture(300, 100, 1), max_pixels=1, min_pixels=1)
    cells = base.processor.reader.cells(image)
    assert cells.region == pytest.approx((100, 0, 200, 100), abs=1)
    whole = extend_to_image(np.ones((4, 4), np.float32), cells.region, image.original_size)
    assert whole.shape == (4, 12)
    assert np.array_equal(whole.nonzero()[1], np.tile(np.arange(4, 8), 4))


def test_edges_are_where_the_picture_changes(load: Load) -> None:
    scorer = factory.scorer(load("qwen3_vl"), QUESTION)
    image = scorer.prepare(spot((128, 96), (70, 40), 40))
    found = edges(image, image.grid)
    assert found.shape == image.grid
    assert found.argmax() == 1 * image.grid[1] + 2
    assert found[0, 0] == 0


@pytest.mark.parametrize("method", ["rel-att", "grad-att", "pure-grad"])
def test_a_family_whose_tokens_lie_nowhere_is_refused_at_once(load: Load, method: Method) -> None:
    scorer = factory.scorer(load("idefics2"), QUESTION)
    with pytest.raises(ModelInvalid, match="idefics2"):
        mapper_of(scorer, method)


def test_pixels_of_tiles_are_refused_at_once(load: Load) -> None:
    with pytest.raises(ModelInvalid, match="rel-att"):
        mapper_of(factory.scorer(load("llava_next"), QUESTION), "pure-grad")
