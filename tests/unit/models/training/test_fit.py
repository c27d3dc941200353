"""A fit from examples to an adapter folder: what it learns, what it asserts, and what it leaves behind."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from scanfleet.models import factory
from scanfleet.models.adapters.card import AdapterCard, read_adapter
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.network.base import BaseModel, load_base
from scanfleet.models.recipes import Recipe, load_recipe
from scanfleet.models.training.data.dataset import collect_data
from scanfleet.models.training.data.features import PixelSource
from scanfleet.models.training.data.request import TrainingRequest
from scanfleet.models.training.data.types import Example, Progress, Trained
from scanfleet.models.training.fit import fit
from scanfleet.models.training.tasks.network import activated
from scanfleet.models.training.tasks.token import TokenTask
from scanfleet.models.types import Question, Step
from tests.unit.models import tiny_models as tiny
from tests.unit.models.training.training_examples import QUESTION, ignore_progress, pictures

FAST = {"epochs": 4, "min_steps": 0, "max_epochs": 0, "batch": 6, "accumulation": 1, "lr": 5e-3, "patience": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("tiny"), "qwen3_vl")


@pytest.fixture(scope="module")
def base(folder: Path) -> BaseModel:
    return load_base(str(folder), precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    return pictures(tmp_path_factory.mktemp("images"), 18)


def recipe(name: str = "lora", **changes: Any) -> Recipe:
    return load_recipe(name, overrides=FAST | {"gradient_checkpointing": False} | changes)


def card(base: BaseModel, question: Question = QUESTION) -> AdapterCard:
    checkpoint = base.checkpoint
    return AdapterCard(name="a", question=question, base_model=checkpoint.name, base_revision=checkpoint.revision)


def weights(trained: Trained, base: BaseModel, folder: Path) -> bytes:
    trained.write(folder, card(base))
    return read_adapter(folder).weights or b""


def test_the_scorer_answers_what_was_learnt(base: BaseModel, images: list[Example], tmp_path: Path) -> None:
    train, held = images[:12], images[12:]
    said: list[Progress] = []
    trained = fit(
        base, QUESTION, train, held, recipe(small_share=0.0), seed=1, work=tmp_path / "w", on_progress=said.append
    )
    written = trained.write(tmp_path / "a", card(base))
    assert written.parts == ("lora",)
    assert written.recipe["name"] == "lora"
    scorer = factory.scorer(base, QUESTION, tmp_path / "a")
    with torch.inference_mode():
        hidden = scorer.last_hidden([scorer.prepare(tiny.Image.open(example.path)) for example in held])
    base.release(written.weights_sha256)
    targets = torch.tensor([scorer.prompt.codes[example.label].answer_id for example in held])
    served = torch.nn.functional.cross_entropy(hidden @ base.network.get_output_embeddings().weight.T, targets)
    assert trained.figures["validation"] == pytest.approx(served.item(), rel=1e-4)
    assert trained.figures["validation"] < 0.6 * float(trained.figures["validation_before"])
    steps = [progress.step for progress in said if progress.steps]
    assert steps == list(range(1, 9))
    assert [progress.epoch for progress in said if progress.steps] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert said[-1].seconds_left == 0
    assert all(progress.seconds_left for progress in said[2:-1] if progress.steps)
    assert [one.validation is not None for one in said if one.steps] == [False, True] * 4
    assert [one.epoch for one in trained.history] == [1, 2, 3, 4]


def test_only_what_the_recipe_says_is_trained_and_the_base_comes_back(
    folder: Path, base: BaseModel, images: list[Example], tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in base.network.state_dict().items()}
    kinds = [(name, type(module)) for name, module in base.network.named_modules()]
    for name in ("lora", "projector", "vision-top3", "full-lora"):
        changes = {"vision_blocks": 1} if name == "vision-top3" else {}
        trained = fit(
            base,
            QUESTION,
            images[:6],
            [],
            recipe(name, epochs=1, **changes),
            seed=1,
            work=tmp_path,
            on_progress=ignore_progress,
        )
        expected = 0 if name == "vision-top3" else 14
        assert trained.figures["matched_language"] == expected
        assert bool(trained.figures["matched_vision"]) == (name == "full-lora")
        after = base.network.state_dict()
        assert after.keys() == before.keys()
        assert all(torch.equal(after[key], before[key]) for key in before)
        assert [(name, type(module)) for name, module in base.network.named_modules()] == kinds
        assert not any(parameter.requires_grad for parameter in base.network.parameters())
        trained.write(tmp_path / name, card(base))
    whole = read_adapter(tmp_path / "projector").lora
    assert whole is not None
    assert whole.modules_to_save == ("model.visual.merger", "model.visual.deepstack_merger_list.0")
    serving = load_base(str(folder), precision="fp32", device="cpu")
    pictured = [factory.scorer(serving, QUESTION).prepare(tiny.picture(90, 60, 3))]
    adapters = (None, *(tmp_path / name for name in ("lora", "projector", "vision-top3", "full-lora")), None)
    margins = [factory.scorer(serving, QUESTION, adapter).score(pictured)[0].margin for adapter in adapters]
    assert margins[0] == margins[-1]
    assert len(set(margins)) == 5


@pytest.mark.parametrize("name", ["lora", "projector", "full-lora"])
def test_a_training_continues_from_an_adapter(
    base: BaseModel, images: list[Example], tmp_path: Path, name: str
) -> None:
    """What the adapter has is trained, whatever the recipe would train, from where the adapter stands."""
    train, held = images[:12], images[12:]
    first = fit(base, QUESTION, train, held, recipe(name), seed=1, work=tmp_path / "w", on_progress=ignore_progress)
    first.write(tmp_path / "a", card(base))
    further = fit(
        base,
        QUESTION,
        train,
        held,
        recipe("lora"),
        seed=1,
        work=tmp_path / "w",
        on_progress=ignore_progress,
        base_adapter=tmp_path / "a",
    )
    assert further.figures["validation_before"] == pytest.approx(first.figures["validation"], rel=1e-4)
    for figure in ("matched_language", "matched_vision", "trained_whole"):
        assert further.figures[figure] == first.figures[figure]
    further.write(tmp_path / "b", card(base))
    before, after = read_adapter(tmp_path / "a"), read_adapter(tmp_path / "b")
    assert before.lora == after.lora
    assert before.weights != after.weights


def test_the_same_seed_gives_the_same_bits(base: BaseModel, images: list[Example], tmp_path: Path) -> None:
    def run(seed: int, name: str) -> bytes:
        torch.rand(3)  # what others drew before does not matter
        trained = fit(
            base, QUESTION, images[:6], [], recipe(), seed=seed, work=tmp_path / name, on_progress=ignore_progress
        )
        return weights(trained, base, tmp_path / f"{name}-a")

    first = run(7, "one")
    assert run(7, "two") == first
    assert run(8, "three") != first


@pytest.mark.parametrize("at", [0, 1, 2, 5, 8])
def test_a_fit_that_was_stopped_resumes_to_the_same_bits(
    base: BaseModel, images: list[Example], tmp_path: Path, at: int
) -> None:
    train, held = images[:12], images[12:]

    def run(on_progress: Any, name: str) -> Trained:
        return fit(base, QUESTION, train, held, recipe(), seed=3, work=tmp_path / name, on_progress=on_progress)

    def stop(progress: Progress) -> None:
        if progress.step == at:
            raise KeyboardInterrupt

    whole = run(ignore_progress, "whole")
    with pytest.raises(KeyboardInterrupt):
        run(stop, "stopped")
    assert not any(parameter.requires_grad for parameter in base.network.parameters())
    steps: list[int] = []
    resumed = run(lambda progress: steps.append(progress.step), "stopped")
    assert [step for step in steps if step] == list(range(at + 1, 9))
    assert weights(resumed, base, tmp_path / "b") == weights(whole, base, tmp_path / "a")
    assert [(one.loss, one.validation) for one in resumed.history] == [
        (one.loss, one.validation) for one in whole.history
    ]
    assert resumed.figures["best_epoch"] == whole.figures["best_epoch"]


def test_another_training_does_not_resume_from_this_ones_checkpoint(
    base: BaseModel, images: list[Example], tmp_path: Path
) -> None:
    train, changed = images[:6], [replace(images[0], label=2), *images[1:6]]
    fit(base, QUESTION, train, [], recipe(), seed=1, work=tmp_path, on_progress=ignore_progress)
    counts = []
    for examples, seed, lr in ((train, 1, 5e-3), (changed, 1, 5e-3), (train, 2, 5e-3), (train, 1, 1e-3)):
        steps: list[int] = []
        made = recipe(lr=lr)
        fit(base, QUESTION, examples, [], made, seed=seed, work=tmp_path, on_progress=lambda p: steps.append(p.step))  # noqa: B023
        counts.append(len([step for step in steps if step]))
    assert counts == [0, 4, 4, 4]


def gradients(base: BaseModel, images: list[Example], made: Recipe) -> tuple[float, dict[str, torch.Tensor]]:
    request = TrainingRequest(question=QUESTION, train=images, validation=[], recipe=made, seed=1, base_adapter=None)
    source = PixelSource(base)
    with activated(base, made, seed=1) as network:
        for name, value in network.state.items():
            if "lora_B" in name:
                torch.nn.init.normal_(value, std=0.1, generator=torch.Generator().manual_seed(5))
        data = collect_data(base, request, source, on_read=lambda: None)
        task = TokenTask(network, QUESTION, data, source, made)
        draws = [(i, 0) for i in range(6)]
        loss = task.learn([draws[i : i + made.batch] for i in range(0, 6, made.batch)])
        names = [name for name, parameter in base.network.named_parameters() if parameter.requires_grad]
        found = zip(names, [parameter.grad for parameter in task.parameters], strict=True)
        return loss, {name: grad.clone() for name, grad in found if grad is not None}


def test_parts_of_a_batch_and_recomputed_layers_give_the_gradient_of_the_whole(
    base: BaseModel, images: list[Example]
) -> None:
    plain = {"dropout": 0.0, "small_share": 0.0}
    loss, whole = gradients(base, images[:6], recipe(batch=6, **plain))
    for made in (recipe(batch=2, accumulation=3, **plain), recipe(batch=3, gradient_checkpointing=True, **plain)):
        other, parts = gradients(base, images[:6], made)
        assert other == pytest.approx(loss, rel=1e-5)
        assert parts.keys() == whole.keys()
        for name, grad in whole.items():
            assert torch.allclose(parts[name], grad, atol=1e-5 * float(grad.abs().max()) + 1e-7)
    assert len(whole) == 28


def test_the_gradient_is_that_of_one_plain_forward(base: BaseModel, images: list[Example]) -> None:
    """Through the instruction too, whose keys and values are computed apart."""
    made = recipe(dropout=0.0, small_share=0.0, batch=6)
    loss, found = gradients(base, images[:6], made)
    prompt = base.processor.prompt(QUESTION)
    with activated(base, made, seed=1) as network:
        for name, value in network.state.items():
            if "lora_B" in name:
                torch.nn.init.normal_(value, std=0.1, generator=torch.Generator().manual_seed(5))
        total = torch.zeros(())
        for example in images[:6]:
            image = base.processor.prepare(tiny.Image.open(example.path), max_pixels=10_000, min_pixels=64 * 64)
            inputs = base.processor.reader.stack([image], device=base.device, dtype=torch.float32)
            ids = torch.tensor([prompt.turn.ids(image.tokens)])
            kinds = (ids == base.processor.reader.image_token_id).int()
            out = base.network(input_ids=ids, mm_token_type_ids=kinds, **inputs).logits[0, -1]
            target = torch.tensor(prompt.codes[example.label].answer_id)
            total = total + torch.nn.functional.cross_entropy(out, target) / 6
        total.backward()  # type: ignore[no-untyped-call]
        named = dict(base.network.named_parameters())
        assert loss == pytest.approx(total.item(), rel=1e-4)
        for name, grad in found.items():
            expected = named[name].grad
            assert expected is not None
            assert torch.allclose(grad, expected, atol=1e-4 * float(expected.abs().max()) + 1e-6), name


def test_an_adapter_that_serves_stays_loaded_while_another_is_trained(
    folder: Path, images: list[Example], tmp_path: Path
) -> None:
    base = load_base(str(folder), precision="fp32", device="cpu")
    fit(base, QUESTION, images[:6], [], recipe(), seed=1, work=tmp_path / "w", on_progress=ignore_progress).write(
        tmp_path / "a", card(base)
    )
    scorer, plain = factory.scorer(base, QUESTION, tmp_path / "a"), factory.scorer(base, QUESTION)
    pictured = [scorer.prepare(tiny.picture(90, 60, 3))]
    before = [each.score(pictured)[0].margin for each in (scorer, plain, scorer)]
    again = fit(base, QUESTION, images[:6], [], recipe(), seed=1, work=tmp_path / "x", on_progress=ignore_progress)
    assert weights(again, base, tmp_path / "b") == read_adapter(tmp_path / "a").weights  # nothing of it leaked in
    assert [each.score(pictured)[0].margin for each in (scorer, plain, scorer)] == before


def test_the_best_epoch_is_kept_and_waiting_ends(base: BaseModel, images: list[Example], tmp_path: Path) -> None:
    train = images[:6]
    contrary = [replace(example, label=(example.label + 1) % 3, cluster="other") for example in train]
    made = recipe(epochs=9, patience=2, small_share=0.0, lr=2e-2)
    trained = fit(base, QUESTION, train, contrary, made, seed=1, work=tmp_path, on_progress=ignore_progress)
    losses = [one.validation or math.inf for one in trained.history]
    best = int(trained.figures["best_epoch"])
    assert losses[best - 1] == min(losses) == trained.figures["validation"]
    assert len(losses) == min(best + 2, 9) < 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": 1}, "have 1 of the labels"),
        ({"same": True}, "in training and validation"),
        ({"label": 3}, "1 examples .* question 'overlay'"),
        ({"steps": True}, "has steps, which cannot be trained"),
        ({"recipe": "qlora"}, "trains over a base in nf4"),
        ({"recipe": "vision-top3"}, "has 2 blocks, the recipe trains 3"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(
    base: BaseModel, images: list[Example], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    train = images[: change.get("train", 6)]
    held = train[:1] if "same" in change else [replace(images[7], label=change.get("label", 0))]
    steps = (Step(prompt="?", answers=(("a", "next"),)), Step(prompt="?", answers=tuple((x, x) for x in "abc")))
    question = QUESTION
    if "steps" in change:
        question = replace(QUESTION, labels=("a", "b", "c"), flags=frozenset("a"), steps=steps)
    made = load_recipe(change.get("recipe", "lora"))
    with pytest.raises(ModelInvalid, match=message) as caught:
        fit(
            base,
            question,
            train,
            held,
            made,
            seed=1,
            work=tmp_path,
            on_progress=ignore_progress,
        )
    assert "\n" not in str(caught.value)


def test_targets_in_the_vision_tower_are_refused(folder: Path, images: list[Example], tmp_path: Path) -> None:
    base = load_base(str(folder), precision="fp32", device="cpu")
    base.family = replace(base.family, language_linear=r".*(q_proj|linear_fc1)")
    with pytest.raises(ModelInvalid, match=r"not \d+ and 0"):
        fit(base, QUESTION, images[:6], [], recipe(), seed=1, work=tmp_path, on_progress=ignore_progress)
    assert not any("lora" in name for name, _ in base.network.named_modules())
