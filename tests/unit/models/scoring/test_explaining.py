"""Explanations continue the scorer's own prompt, in every family that chats; they change no answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from scanfleet.models import factory
from scanfleet.models.adapters.card import AdapterCard, LoraSettings
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.families import FAMILIES
from scanfleet.models.inputs.further_turn import WHY, further_turn
from scanfleet.models.network.base import BaseModel, load_base
from scanfleet.models.network.lora import add_lora, save_lora, take_out
from scanfleet.models.scoring.explaining import GeneratingExplainer
from scanfleet.models.scoring.sequential import in_steps
from scanfleet.models.types import NEXT, Order, Question, Step
from tests.unit.models import tiny_models
from tests.unit.models.checkpoints import TINY

QUESTION = Question(
    name="overlay",
    prompt="Text?",
    labels=("none", "natural", "overlay"),
    flags=frozenset({"natural", "overlay"}),
    max_pixels=200 * 200,
)
SIZES = ((100, 60), (180, 90), (64, 120))
SILENT = "instructblip"  # its template has one turn
CHATTING = [name for name in FAMILIES if name != SILENT]
N_TOKENS = 12


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], BaseModel]:
    root: Path = tmp_path_factory.mktemp("families")
    return cache(lambda family: load_base(str(TINY[family].checkpoint(root / family)), precision="fp32", device="cpu"))


def explainer_of(base: BaseModel, question: Question = QUESTION, adapter: Path | None = None) -> GeneratingExplainer:
    return factory.explainer(base, question, adapter, max_new_tokens=N_TOKENS)


def continued(base: BaseModel, inputs: dict[str, Any], behind: tuple[int, ...]) -> dict[str, Any]:
    """The inputs of the whole prompt with further tokens, as transformers documents them."""
    more = {"input_ids": behind, "mm_token_type_ids": [0] * len(behind), "attention_mask": [1] * len(behind)}
    return {
        name: torch.cat((value, torch.tensor([more[name]])), dim=1) if name in more else value
        for name, value in inputs.items()
    }


@pytest.mark.parametrize("order", get_args(Order))
@pytest.mark.parametrize("family", CHATTING)
def test_tokens_are_those_of_transformers_own_generation(
    load: Callable[[str], BaseModel], family: str, order: Order
) -> None:
    base, question = load(family), replace(QUESTION, order=order)
    explainer, scorer = explainer_of(base, question), factory.scorer(base, question)
    answers = []
    for number, size in enumerate(SIZES[:2]):
        image = tiny_models.picture(*size, number)
        prepared = scorer.prepare(image)
        (reading,) = scorer.score([prepared])
        job = explainer.job(prepared, reading)
        (found,) = explainer.generate([job])
        whole = TINY[family].reference_inputs(base, scorer.prompt.turn.text, image, question)
        inputs = continued(base, whole, explainer._behind[job.label])
        told = base.network.generate(**inputs, do_sample=False, max_new_tokens=N_TOKENS)[0]
        expected = told[inputs["input_ids"].shape[1] :].tolist()
        assert found.ids == [token for token in expected if token not in explainer._stops]
        (written,) = explainer.explain([job])
        assert written.text == base.processor.tokenizer.decode(expected, skip_special_tokens=True)
        answers.append(found.ids)
    assert answers[0] != answers[1], "texts that do not look at the image would prove nothing"


@pytest.mark.parametrize("family", CHATTING)
def test_neighbours_change_no_token(load: Callable[[str], BaseModel], family: str) -> None:
    base = load(family)
    explainer, scorer = explainer_of(base), factory.scorer(base, QUESTION)
    images = [scorer.prepare(tiny_models.picture(*size, number)) for number, size in enumerate(SIZES)]
    jobs = [explainer.job(*each) for each in zip(images, scorer.score(images), strict=True)]
    alone = [explainer.generate([job])[0].ids for job in jobs]
    for order in ((0, 1, 2), (2, 0)):
        assert [answer.ids for answer in explainer.generate([jobs[at] for at in order])] == [alone[at] for at in order]


def test_a_model_without_a_second_turn_refuses(load: Callable[[str], BaseModel]) -> None:
    with pytest.raises(ModelInvalid, match="instructblip models answer one question and write no explanation"):
        explainer_of(load(SILENT))


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('roles must be user') }}",
        "{% for m in messages[:1] %}{{ m['content'][1]['text'] }}{% endfor %}",  # leaves the answer out
        "{% for m in messages[:2] %}{{ m['content'][-1]['text'] }}{% endfor %}",  # leaves the question why out
    ],
)
def test_a_template_without_a_second_turn_is_refused(load: Callable[[str], BaseModel], template: str) -> None:
    base = load("qwen2_vl")
    code = factory.scorer(base, QUESTION).prompt.codes[0]
    assert further_turn(base.processor.tokenizer, code, WHY)[0] == code.answer_id
    with pytest.raises(ModelInvalid, match="writes no second turn of the user"):
        further_turn(base.processor.tokenizer, code, WHY, chat_template=template)


def test_the_flag_is_explained_and_not_the_likeliest_answer(load: Callable[[str], BaseModel]) -> None:
    base = load("qwen3_vl")
    explainer, scorer = explainer_of(base), factory.scorer(base, QUESTION)
    prepared = scorer.prepare(tiny_models.picture(100, 60, 0))
    (reading,) = scorer.score([prepared])
    for logits, label in (((9.0, 1.0, 0.0), "natural"), ((0.0, 1.0, 2.0), "overlay")):
        assert explainer.job(prepared, replace(reading, logits=logits)).label == label
    first, second = (explainer._behind[label] for label in ("natural", "overlay"))
    assert first[1:] == second[1:]
    assert [first[0], second[0]] == [scorer.prompt.answer_ids[label] for label in ("natural", "overlay")]


def test_a_text_is_cut_off_and_says_so(load: Callable[[str], BaseModel]) -> None:
    base = load("qwen3_vl")
    scorer = factory.scorer(base, QUESTION)
    prepared = scorer.prepare(tiny_models.picture(100, 60, 0))
    (reading,) = scorer.score([prepared])
    beats: list[int] = []
    long, short = (factory.explainer(base, QUESTION, max_new_tokens=n) for n in (40, 3))
    (whole,) = long.generate([long.job(prepared, reading)])
    (part,) = short.generate([short.job(prepared, reading)], lambda: beats.append(1))
    assert part.ids == whole.ids[:3]
    assert len(beats) == 3
    (written,) = short.explain([short.job(prepared, reading)])
    assert written.cut
    explained_by = explainer_of(base)
    explained_by._stops = frozenset({whole.ids[2]})
    (ended,) = explained_by.explain([explained_by.job(prepared, reading)])
    assert not ended.cut
    assert ended.text == base.processor.tokenizer.decode(whole.ids[:2])


def adapter_of(into: Path, base: BaseModel, *, activated: bool) -> Path:
    behind = factory.scorer(base, QUESTION).prompt.turn.after if activated else None
    lora = LoraSettings(r=4, lora_alpha=8, target_modules=base.family.language_linear, alora_invocation_tokens=behind)
    model = add_lora(base.network, lora, name="default")
    torch.manual_seed(1)
    for name, tensor in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(tensor, std=0.2)
    question = replace(QUESTION, order="image-first")
    card = AdapterCard(name="a", question=question, base_model="tiny", base_revision=base.checkpoint.revision)
    save_lora(into, model, card=card, lora=lora)
    take_out(base.network)
    return into


def test_an_adapter_explains_and_behind_an_activated_one_the_base_does(
    load: Callable[[str], BaseModel], tmp_path: Path
) -> None:
    base = load("qwen3_vl")
    plain = explainer_of(base)
    lora, alora = (adapter_of(tmp_path / str(on), base, activated=on) for on in (False, True))
    adapted, activated = explainer_of(base, adapter=lora), explainer_of(base, adapter=alora)
    scorer = factory.scorer(base, QUESTION)
    prepared = scorer.prepare(tiny_models.picture(100, 60, 0))
    (reading,) = scorer.score([prepared])
    texts = [each.explain([each.job(prepared, reading)])[0].text for each in (plain, adapted, activated)]
    assert texts[1] != texts[0], "the adapter has no say"
    assert texts[2] == texts[0]


def test_a_question_in_steps_is_explained_by_its_own_prompt(load: Callable[[str], BaseModel]) -> None:
    base = load("qwen3_vl")
    steps = (
        Step(prompt="Text?", answers=(("yes", NEXT), ("no", "none"))),
        Step(prompt="Added?", answers=(("yes", "overlay"), ("no", "natural"))),
    )
    asked = replace(QUESTION, steps=steps, order="image-first")
    prepared = factory.scorer(base, QUESTION).prepare(tiny_models.picture(100, 60, 0))
    (reading,) = in_steps(asked, lambda step: factory.scorer(base, step)).score([prepared])
    stepwise, plain = explainer_of(base, asked), explainer_of(base)
    assert stepwise.explain([stepwise.job(prepared, reading)]) == plain.explain([plain.job(prepared, reading)])
