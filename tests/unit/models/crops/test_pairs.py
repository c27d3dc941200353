"""Two images in one turn, in each family that reads them: equal to transformers' own, beside single images as alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any, cast

import pytest
import torch
from PIL import Image

from scanfleet.models import factory
from scanfleet.models.crops.policy import CropPolicy
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.families import FAMILIES, PreparedRow, Row
from scanfleet.models.inputs.prompts import render_turn
from scanfleet.models.network.base import BaseModel, load_base
from scanfleet.models.types import Question
from tests.unit.models import tiny_models
from tests.unit.models.checkpoints import TINY, read_last

SEVERAL = sorted(name for name, family in FAMILIES.items() if family.reader.several)
QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
SINGLE = ("idefics2", "instructblip")  # by what is known of the model, and by its template
QUESTION = Question(
    name="overlay",
    prompt="Is there text?",
    labels=("overlay", "natural", "none"),
    flags=frozenset({"overlay"}),
    max_pixels=200 * 200,
    order="instruction-first",
)
AMPLE = replace(QUESTION, max_pixels=10**6)  # where the reference counts the tiles of both images together
CPU = torch.device("cpu")
ROUNDING = 1e-4  # fp32, in logits

Load = Callable[[str], BaseModel]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    root = tmp_path_factory.mktemp("families")
    return cache(lambda name: load_base(str(TINY[name].checkpoint(root / name)), precision="fp32", device="cpu"))


def pictures() -> tuple[Image.Image, Image.Image]:
    return tiny_models.picture(300, 180, 1), tiny_models.picture(64, 120, 2)


def conversation(base: BaseModel, n_images: int) -> str:
    """As transformers' own chat template renders the question with so many images behind it."""
    turn = base.processor.prompt(QUESTION).turn
    (menu,) = {text for text in _texts(base) if text in turn.text}
    content = [{"type": "text", "text": menu}, *({"type": "image"} for _ in range(n_images))]
    rendered: str = base.processor.tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    return rendered


def _texts(base: BaseModel) -> list[str]:
    codes = base.processor.prompt(QUESTION).codes
    menu = "\n".join(f"{code.code}) {code.label}" for code in codes)
    return [f"{QUESTION.prompt}\n{menu}\nAnswer with the letter."]


def pair_of(base: BaseModel, *images: Image.Image) -> PreparedRow:
    scorer = factory.scorer(base, QUESTION)
    return PreparedRow(images=tuple(scorer.prepare(image) for image in images))


def test_the_families_that_people_use_most_read_two_images() -> None:
    assert set(SEVERAL) >= {*QWEN, "llava", "llava_next", "internvl", "idefics3", "smolvlm"}


@pytest.mark.parametrize("name", SEVERAL)
@torch.inference_mode()
def test_a_pair_equals_transformers_own_processing_and_forward(load: Load, name: str) -> None:
    base = load(name)
    question = AMPLE if name in ("idefics3", "smolvlm") else QUESTION
    scorer = factory.scorer(base, question)
    row = PreparedRow(images=tuple(scorer.prepare(image) for image in pictures()))
    inputs = TINY[name].reference_inputs(base, conversation(base, 2), cast(Any, list(pictures())), question)
    rows = base.processor.rows(scorer.prompt.turn, [row], device=CPU, dtype=torch.float32)
    own = [*scorer.prompt.turn.before, *rows.inputs["input_ids"][0].tolist()]
    assert own == inputs["input_ids"][0].tolist()
    last = base.network(**inputs).logits[0, -1].double()
    expected = read_last(last, scorer.prompt, QUESTION, row.visual_tokens)
    (found,) = scorer.score([row])
    assert found.margin == pytest.approx(expected.margin, abs=ROUNDING)
    assert found.logits == pytest.approx(expected.logits, abs=ROUNDING)
    assert found.visual_tokens == own.count(base.processor.reader.image_token_id)


@pytest.mark.parametrize("name", SEVERAL)
def test_a_pair_scores_alike_alone_and_beside_single_images(load: Load, name: str) -> None:
    base = load(name)
    scorer = factory.scorer(base, QUESTION)
    first, second = pictures()
    rows: list[Row] = [
        pair_of(base, first, second),
        scorer.prepare(second),
        pair_of(base, second, first),
        scorer.prepare(first),
    ]
    alone = [scorer.score([row])[0].margin for row in rows]
    assert min(abs(a - b) for i, a in enumerate(alone) for b in alone[:i]) > 10 * ROUNDING, (
        "order and company must count"
    )
    together = [reading.margin for reading in scorer.score(rows)]
    assert together == pytest.approx(alone, abs=ROUNDING)


@pytest.mark.parametrize("name", SEVERAL)
def test_a_row_of_one_image_is_that_image_to_the_bit(load: Load, name: str) -> None:
    base = load(name)
    scorer = factory.scorer(base, QUESTION)
    image = scorer.prepare(pictures()[0])
    assert scorer.score([PreparedRow(images=(image,))]) == scorer.score([image])


@pytest.mark.parametrize("name", QWEN)
def test_positions_of_two_images_are_those_of_transformers(load: Load, name: str) -> None:
    base = load(name)
    turn = base.processor.prompt(QUESTION).turn
    images = [pair_of(base, *pictures()), pair_of(base, *reversed(pictures()))]
    rows = base.processor.rows(turn, images, device=CPU, dtype=torch.float32)
    before = torch.tensor([turn.before] * len(images))
    ids = torch.cat((before, rows.inputs["input_ids"]), dim=1)
    expected, _ = base.network.base_model.get_rope_index(
        ids,
        mm_token_type_ids=(ids == base.processor.reader.image_token_id).long(),
        image_grid_thw=rows.inputs["image_grid_thw"],
        attention_mask=torch.ones_like(ids),
    )
    assert torch.equal(rows.inputs["position_ids"], expected[:, :, before.shape[1] :])


@pytest.mark.parametrize("name", SINGLE)
def test_a_family_that_takes_one_image_says_what_to_do(load: Load, name: str) -> None:
    base = load(name)
    with pytest.raises(ModelInvalid, match=r'one image in a turn.* set look = "crop" in \[crop\]'):
        factory.scorer(base, QUESTION).score([pair_of(base, *pictures())])
    with pytest.raises(ModelInvalid, match="one image in a turn"):
        factory.crop_reader(base, QUESTION, CropPolicy(look="pair"))


@pytest.mark.parametrize(
    "template",
    [
        tiny_models.TEMPLATE.replace("{% for part", "{{ m['content'] | length - 1 }} images{% for part", 1),
        tiny_models.TEMPLATE.replace("<|im_end|>", "{{ m['content'] | length }} parts<|im_end|>"),
        "{% if messages[0]['content'] | length > 2 %}{{ raise_exception('one image') }}{% endif %}"
        + tiny_models.TEMPLATE,
        tiny_models.TEMPLATE.replace("{% for part in m['content'] %}", "{% for part in m['content'][:2] %}"),
    ],
    ids=["before", "after", "refuses", "drops"],
)
def test_a_template_that_words_two_images_otherwise_has_nothing_between_them(template: str) -> None:
    """Instruction and answer position of a pair must be those of the first pass."""
    turn = render_turn(
        tiny_models.tokenizer(), "Is it?", image_first=False, image_token="<|image_pad|>", chat_template=template
    )
    assert turn.between is None


def test_what_stands_between_two_images_is_read_from_the_template() -> None:
    made = tiny_models.tokenizer()
    turn = render_turn(
        made, "Is it?", image_first=False, image_token="<|image_pad|>", chat_template=tiny_models.TEMPLATE
    )
    assert turn.between == tuple(made.convert_tokens_to_ids(["<|vision_end|>", "<|vision_start|>"]))


def test_emphasis_names_the_columns_of_its_own_row(load: Load) -> None:
    base = load("qwen2_vl")
    scorer = factory.scorer(base, QUESTION)
    image = scorer.prepare(pictures()[1])
    favoured = torch.zeros(image.visual_tokens, dtype=torch.bool)
    favoured[1] = True
    rows: list[Row] = [image, PreparedRow(images=(image,), emphasis=favoured, factor=2.0)]
    turn = scorer.prompt.turn
    found = base.processor.rows(turn, rows, device=CPU, dtype=torch.float32)
    assert found.emphasis is not None
    assert found.emphasis.nonzero().tolist() == [[1, 1]]
    assert found.emphasis.max().item() == pytest.approx(0.6931472)
    assert found.after.tolist() == [image.visual_tokens] * 2
    same = PreparedRow(images=(image,), emphasis=favoured, factor=1.0)
    assert base.processor.rows(turn, [image, same], device=CPU, dtype=torch.float32).emphasis is None
