"""Modes other than label tokens, through a worker: steps, a head over frozen features, boxes without training."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

from bench.pocket import fresh
from scanfleet.checks.check import load_check
from scanfleet.db.engine import transaction
from scanfleet.db.results.results import Result, ResultFilter, iter_results
from scanfleet.db.results.scorers import ROTATED
from scanfleet.db.tables import ScorerRow, Verdict
from scanfleet.db.training.adapters import AdapterInfo, register_adapter
from scanfleet.db.training.champions import promote
from scanfleet.models import factory
from scanfleet.models.adapters.card import AdapterCard, write_adapter
from scanfleet.models.network.base import BaseModel, load_base
from scanfleet.models.scoring.head import Head, write_head
from scanfleet.models.scoring.sequential import SequentialScorer, in_steps
from scanfleet.models.types import ModelIdentity
from scanfleet.worker.commands.standalone import resolve_alone
from scanfleet.worker.scoring.boxes import UNTAUGHT
from scanfleet.worker.scoring.factory import mode_of, question_of
from scanfleet.worker.scoring.model import FakeModel, LoadedModel
from tests.rigs.worker_rig import Rig, png, rig

ONCE, STEPS = load_check("overlay-once"), load_check("overlay-steps")
N_TRAIN, N_TEST = 160, 80


@pytest.fixture(scope="module")
def pocket() -> BaseModel:
    return load_base("pocket", precision="fp32", device="cpu")


def results(worker: Rig, scan: str) -> list[Result]:
    return list(iter_results(worker.engine, ResultFilter(scan=scan)))


def test_the_same_images_in_steps_and_at_once_are_two_scorers_without_an_adapter(
    tmp_path: Path, pocket: BaseModel
) -> None:
    contents = {f"mem://a/{n}.png": png(n, width=128, height=128) for n in range(5)}
    with rig(tmp_path, model=LoadedModel(pocket), token_budget=512) as worker:
        scans = [worker.scan(contents, check=check) for check in (ONCE, STEPS)]
        for scan in scans:
            worker.pipeline.run(None)
            assert worker.progress(scan).n_verdicts == 5
        once, stepwise = (results(worker, scan) for scan in scans)
        modes = {row.id: row.mode for row in worker.rows(ScorerRow)}
    assert sorted(modes.values()) == ["zero-shot steps, menu rotated", "zero-shot, menu rotated"]
    assert {result.scorer.mode for result in stepwise if result.scorer} == {"zero-shot steps, menu rotated"}
    scorer = in_steps(question_of(STEPS), partial(factory.scorer, pocket, rotated=True))
    for result in stepwise:
        with Image.open(io.BytesIO(contents[result.uri])) as image:
            (alone,) = scorer.score([scorer.prepare(image.convert("RGB"))])
        assert result.margin == pytest.approx(alone.margin, abs=1e-3)
        assert result.label == STEPS.labels[max(range(3), key=alone.logits.__getitem__)]
    assert [result.margin for result in once] != pytest.approx([result.margin for result in stepwise], abs=1e-2)


def test_a_plain_command_asks_in_steps_as_well(pocket: BaseModel) -> None:
    alone = resolve_alone(LoadedModel(pocket), STEPS, None)
    assert isinstance(alone.scorer, SequentialScorer)
    assert alone.mode == "zero-shot steps, menu rotated"


def features(pocket: BaseModel, images: list[Image.Image]) -> torch.Tensor:
    """(N, d) of the frozen base, at the position where the answer begins."""
    scorer = factory.scorer(pocket, question_of(ONCE))
    with torch.inference_mode():
        parts = [
            scorer.last_hidden([scorer.prepare(image) for image in images[at : at + 16]])
            for at in range(0, len(images), 16)
        ]
    return torch.cat(parts).clone()


def fit(hidden: torch.Tensor, labels: torch.Tensor) -> Head:
    """Logistic regression on standardised features, folded back into a head over the plain ones."""
    mean, scale = hidden.mean(0), hidden.std(0) + 1e-6
    weight = torch.zeros(3, hidden.shape[1], requires_grad=True)
    bias = torch.zeros(3, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=60)

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        logits = (hidden - mean) / scale @ weight.T + bias
        value = torch.nn.functional.cross_entropy(logits, labels) + 0.02 * weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    folded = weight.detach() / scale
    return Head(weight=folded, bias=bias.detach() - folded @ mean)


@pytest.mark.slow
def test_a_head_fitted_on_frozen_features_is_registered_and_scores_through_a_worker(
    tmp_path: Path, pocket: BaseModel
) -> None:
    drawn = list(fresh("overlay", 777, [(128, 128, N_TRAIN + N_TEST)]))
    images, truth = [image for image, _, _ in drawn], torch.tensor([label for _, label, _ in drawn])
    head = fit(features(pocket, images[:N_TRAIN]), truth[:N_TRAIN])
    card = AdapterCard(
        name="head",
        question=question_of(ONCE),
        base_model="pocket",
        base_revision=pocket.checkpoint.revision,
    )
    card = write_adapter(tmp_path / "head", card=card, head=write_head(head))
    contents = {f"mem://a/{n:03}.png": as_png(image) for n, image in enumerate(images[N_TRAIN:])}
    with rig(tmp_path / "data", model=LoadedModel(pocket), token_budget=512) as worker:
        put_in_use(worker, card, tmp_path / "head")
        scan = worker.scan(contents, check=ONCE, batch_images=40)
        worker.drain()
        told = results(worker, scan)
    assert {(result.scorer.mode, result.scorer.adapter) for result in told if result.scorer} == {
        ("head", card.weights_sha256)
    }
    assert {result.mass for result in told} == {1.0}
    answers = [ONCE.labels.index(str(result.label)) for result in told]
    right = sum(a == t for a, t in zip(answers, truth[N_TRAIN:].tolist(), strict=True))
    # Measured .73 with 200 to train on, where the base alone has .40 and chance is .33.
    assert right / N_TEST > 0.58
    expected = head.logits(features(pocket, images[N_TRAIN : N_TRAIN + 3]))
    for result, row in zip(told, expected.tolist(), strict=False):
        margin = row[0] - float(torch.tensor(row[1:]).logsumexp(0))
        assert result.margin == pytest.approx(margin, abs=1e-3)


def put_in_use(worker: Rig, card: AdapterCard, folder: Path) -> None:
    with transaction(worker.engine) as connection:
        adapter = AdapterInfo(
            check_name=card.question.name,
            check_hash=ONCE.hash,
            base_model=card.base_model,
            base_revision=card.base_revision,
            uri=str(folder),
            weights_sha256=card.weights_sha256,
        )
        promote(connection, register_adapter(connection, adapter), kind="forced", why="test")


def as_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_an_adapter_for_steps_is_not_used(tmp_path: Path) -> None:
    with rig(tmp_path / "data") as worker:
        card = AdapterCard(name="h", question=question_of(STEPS), base_model="fake", base_revision="1")
        put_in_use(worker, write_adapter(tmp_path / "head", card=card, head=b"head"), tmp_path / "head")
        worker.scan({"mem://a/1.png": png(1)}, check=STEPS)
        worker.drain()
        assert {(row.adapter_id, row.mode) for row in worker.rows(ScorerRow)} == {(None, "zero-shot steps")}


def test_the_pocket_model_is_not_asked_where_and_verdicts_say_so(tmp_path: Path) -> None:
    class Pocket(FakeModel):
        def __init__(self) -> None:
            super().__init__()
            self.identity = ModelIdentity(base_model="pocket", revision="1", precision="fp32", adapter_sha256=None)

    with rig(tmp_path, model=Pocket()) as worker:
        worker.scan({f"mem://a/{n}.png": png(n) for n in range(8)}, check=load_check("baggage"))
        worker.drain()
        rows = worker.rows(Verdict)
    assert {row.decision for row in rows} == {"flag", "clear"}
    for row in rows:
        assert row.boxes is None
        assert row.box_problems == ([UNTAUGHT] if row.decision == "flag" else None)


def test_how_a_scorer_answers_in_words() -> None:
    def card(*parts: str) -> AdapterCard:
        question = question_of(ONCE)
        return AdapterCard(name="a", question=question, base_model="m", base_revision="1", parts=parts)  # type: ignore[arg-type]

    assert mode_of(question_of(ONCE), None, asked="") == "zero-shot"
    assert mode_of(question_of(STEPS), None, asked=ROTATED) == "zero-shot steps, menu rotated"
    assert [
        mode_of(question_of(ONCE), card(*parts), asked=ROTATED) for parts in (("lora",), ("head",), ("lora", "head"))
    ] == [
        "lora",
        "head",
        "lora+head",
    ]
