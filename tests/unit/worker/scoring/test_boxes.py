"""Boxes for flagged images, by a model that was taught to write them: real generation, up to the exported row."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from scanfleet.checks.check import Check
from scanfleet.db.results.results import ResultFilter, iter_results
from scanfleet.db.tables import Batch, Verdict
from scanfleet.errors import DeviceUnavailable
from scanfleet.models import factory
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.families import FAMILIES
from scanfleet.models.network.base import BaseModel, load_base
from scanfleet.models.scoring.box_format import MAX_TEXT
from scanfleet.models.scoring.boxes import BEGIN_WITHIN, MAX_NEW_TOKENS, GeneratingFinder, Job, boxes_instruction
from scanfleet.models.types import Finder, FoundBoxes, Prepared, Question
from scanfleet.producer.reports.export import as_record
from scanfleet.worker.scoring.factory import question_of
from scanfleet.worker.scoring.model import FakeModel, LoadedModel
from tests.rigs.worker_rig import Rig, rig
from tests.unit.models import taught_boxes as taught
from tests.unit.models import tiny_models as tiny

CHECK = Check(
    name="guns", prompt="Gun?", labels=("gun", "none"), flags=("gun",), boxes=True, max_pixels=64 * 96,
    min_pixels=32 * 32, order="instruction-first",
)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return load_base(str(taught.teach(tmp_path_factory.mktemp("taught"))), precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def finder(base: BaseModel) -> GeneratingFinder:
    return factory.finder(base, taught.QUESTION)


def jobs(base: BaseModel, finder: GeneratingFinder, names: Sequence[str]) -> list[Job]:
    scorer = factory.scorer(base, taught.QUESTION)
    return [finder.job(scorer.prepare(taught.picture(name))) for name in names]


def png(name: str) -> bytes:
    buffer = io.BytesIO()
    taught.picture(name).save(buffer, "PNG")
    return buffer.getvalue()


def large_jpeg(name: str) -> bytes:
    """Sixteen times as wide and high, so that it is decoded at a fraction of its size."""
    image, buffer = taught.picture(name), io.BytesIO()
    image.resize((image.width * 16, image.height * 16)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def test_the_model_says_where_in_pixels_of_the_image(base: BaseModel, finder: GeneratingFinder) -> None:
    (found,) = finder.find(jobs(base, finder, ["one"]))
    (box,) = found.boxes
    assert (box.label, found.problems, found.size) == ("gun", (), (96, 64))
    assert (box.x0, box.y0, box.x1, box.y1) == pytest.approx((0.96, 1.28, 86.4, 32.0))


def test_no_box_and_a_broken_box_are_told_apart(base: BaseModel, finder: GeneratingFinder) -> None:
    empty, bad = finder.find(jobs(base, finder, ["empty", "bad"]))
    assert (empty.boxes, empty.problems) == ((), ())
    assert bad.boxes == ()
    assert "four numbers" in bad.problems[0]
    assert '[{"bbox_2d": [10, 20]' in bad.problems[1]


def test_neighbours_change_no_answer(base: BaseModel, finder: GeneratingFinder) -> None:
    alone = {name: finder.find(jobs(base, finder, [name]))[0] for name in taught.TAUGHT}
    for names in (["one", "empty", "bad", "clear"], ["bad", "one"], ["empty", "one", "one"]):
        assert finder.find(jobs(base, finder, names)) == [alone[name] for name in names]


def test_it_writes_what_transformers_own_generation_writes(base: BaseModel, finder: GeneratingFinder) -> None:
    images = [job.image for job in jobs(base, finder, ["one", "bad"])]
    for answer, image, name in zip(finder.generate(images), images, ("one", "bad"), strict=True):
        ids = torch.tensor([finder._turn.ids(image.tokens)])
        made = base.processor.reader.image_processor(
            images=taught.picture(name), size={"shortest_edge": 32 * 32, "longest_edge": 64 * 96}, return_tensors="pt"
        )
        types = (ids == base.processor.reader.image_token_id).long()
        found = base.network.generate(
            input_ids=ids, mm_token_type_ids=types, attention_mask=torch.ones_like(ids), do_sample=False,
            max_new_tokens=80, **made,
        )  # fmt: skip
        assert [*answer.ids, base.processor.tokenizer.eos_token_id] == found[0, ids.shape[1] :].tolist()


def test_an_answer_that_begins_no_list_is_ended_early_and_says_so(tmp_path: Path) -> None:
    untaught = load_base(str(tiny.checkpoint(tmp_path, "qwen3_vl")), precision="fp32", device="cpu")
    finder = factory.finder(untaught, taught.QUESTION)
    (job,) = jobs(untaught, finder, ["one"])
    signs: list[int] = []
    (answer,) = finder.generate([job.image], lambda: signs.append(1))
    (found,) = finder.find([job])
    assert (len(answer.ids), found.boxes) == (BEGIN_WITHIN, ())
    assert len(signs) == BEGIN_WITHIN
    assert found.problems[0] == f"the answer began no list of boxes within {BEGIN_WITHIN} tokens"
    assert all("\n" not in problem and len(problem) < 400 for problem in found.problems)


def test_an_answer_without_end_is_cut_off_within_what_the_parser_reads(finder: GeneratingFinder) -> None:
    from scanfleet.models.scoring.decoding import Answer

    answer, bracket = Answer(), finder._base.processor.tokenizer.encode("[")[0]
    for n in range(MAX_NEW_TOKENS):
        assert not answer.ended, n
        finder._take(answer, bracket)
    assert answer.ended
    assert "cut off after" in answer.cut
    assert len(finder._text(answer)) < MAX_TEXT


def test_a_family_that_knows_no_boxes_refuses(tmp_path: Path, base: BaseModel) -> None:
    blind = next(family for family in FAMILIES.values() if family.boxes is None)
    without = load_base(str(base.checkpoint.folder), precision="fp32", device="cpu")
    without.family = blind
    with pytest.raises(ModelInvalid, match=f"{blind.model_type} models were not taught to write boxes: set boxes = fa"):
        factory.finder(without, taught.QUESTION)
    with rig(tmp_path, model=LoadedModel(without), token_budget=512) as worker:
        scan = worker.scan({"mem://a/one.png": png("one")}, check=CHECK)
        worker.drain()
        progress = worker.progress(scan)
        assert (progress.n_pending, progress.n_failures) == (1, 0)
        assert "not taught to write boxes" in str(progress.waiting_for)


def test_the_instruction_names_what_flags_and_nothing_else() -> None:
    question = Question(
        name="q",
        prompt="?",
        labels=("gun", "knife", "none"),
        flags=frozenset({"gun", "knife"}),
        descriptions={"gun": "a gun", "knife": "knife", "none": "nothing"},
    )
    assert '"gun" (a gun), "knife". ' in boxes_instruction(question)
    assert "none" not in boxes_instruction(question).replace("if there is none", "")


# Through a worker


def records(worker: Rig, scan: str) -> dict[str, dict[str, Any]]:
    found = iter_results(worker.engine, ResultFilter(scan=scan))
    return {Path(result.uri).stem: json.loads(json.dumps(as_record(result))) for result in found}


class InOrder(LoadedModel):
    """It was taught its answers in the menu's own order."""

    order = "instruction-first"
    rotates = False


def test_flagged_images_are_exported_with_their_boxes(tmp_path: Path, base: BaseModel) -> None:
    with rig(tmp_path, model=InOrder(base), token_budget=512) as worker:
        contents = {f"mem://a/{name}.png": png(name) for name in taught.TAUGHT}
        contents["mem://a/large.jpg"] = large_jpeg("one")
        scan = worker.scan(contents, check=CHECK)
        worker.drain()
        found = records(worker, scan)
        (batch,) = worker.rows(Batch)
    assert {name: record["decision"] for name, record in found.items()} == {
        "one": "flag", "empty": "flag", "bad": "flag", "clear": "clear", "large": "flag",
    }  # fmt: skip
    box = {"x0": 0.96, "y0": 1.28, "x1": 86.4, "y1": 32.0, "label": "gun", "score": None}
    assert found["one"]["boxes"] == [box]
    assert found["large"]["boxes"] == [{**box, "x0": 15.36, "y0": 20.48, "x1": 1382.4, "y1": 512.0}]
    assert (found["empty"]["boxes"], found["empty"]["box_problems"]) == ([], None)
    assert found["bad"]["boxes"] == []
    assert "four numbers" in found["bad"]["box_problems"][0]
    assert (found["clear"]["boxes"], found["clear"]["box_problems"]) == (None, None)
    assert found["one"]["scorer"]["mode"] == "zero-shot"
    assert batch.seconds["boxes"] > 0


def test_a_check_that_does_not_ask_gets_no_boxes(tmp_path: Path, base: BaseModel) -> None:
    with rig(tmp_path, model=LoadedModel(base), token_budget=512) as worker:
        scan = worker.scan({"mem://a/one.png": png("one")}, check=CHECK.model_copy(update={"boxes": False}))
        worker.drain()
        (found,) = records(worker, scan).values()
    assert (found["decision"], found["boxes"]) == ("flag", None)


class Failing(FakeModel):
    """Finds boxes as the fake does, once `error` is None."""

    error: Exception | None = DeviceUnavailable("the device is away")

    def finder(self, question: Question, adapter: Path | None) -> Finder:
        real, model = super().finder(question, adapter), self

        class Trying:
            def job(self, prepared: Prepared) -> Prepared:
                return real.job(prepared)

            def find(self, jobs: Sequence[Prepared], *, heartbeat: Any) -> list[FoundBoxes]:
                if model.error is not None:
                    raise model.error
                return real.find(jobs, heartbeat=heartbeat)

        return cast("Finder", Trying())


@pytest.mark.parametrize("error", [DeviceUnavailable("the device is away"), KeyError("a bug")])
def test_a_device_that_fails_here_makes_flagged_images_wait_and_no_other(tmp_path: Path, error: Exception) -> None:
    model = Failing()
    model.error = error
    contents = {f"mem://a/{n}.png": noise(n) for n in range(12)}
    with rig(tmp_path, model=model) as worker:
        scan = worker.scan(contents, check=CHECK, batch_images=12)
        worker.pipeline.run(None)
        first = worker.progress(scan)
        assert 0 < first.n_verdicts < 12
        assert first.n_failures == 0
        assert {row.decision for row in worker.rows(Verdict)} == {"clear"}
        model.error = None
        worker.forget_backoff()
        worker.drain()
        assert worker.progress(scan).n_verdicts == 12
        for row in worker.rows(Verdict):
            assert (row.boxes is not None) == (row.decision == "flag")


def test_the_same_bytes_keep_their_boxes_when_a_verdict_is_taken_over(tmp_path: Path, base: BaseModel) -> None:
    with rig(tmp_path, model=LoadedModel(base), token_budget=512) as worker:
        worker.scan({"mem://a/bad.png": png("bad"), "mem://a/one.png": png("one")}, check=CHECK)
        worker.drain()
        reused = worker.scan({"mem://b/bad.png": png("bad"), "mem://b/one.png": png("one")}, check=CHECK)
        worker.drain()
        found = records(worker, reused)
    assert {record["reused"] for record in found.values()} == {True}
    assert len(found["one"]["boxes"]) == 1
    assert "four numbers" in found["bad"]["box_problems"][0]


def noise(seed: int) -> bytes:
    buffer = io.BytesIO()
    tiny.picture(40, 30, seed).save(buffer, "PNG")
    return buffer.getvalue()


def test_the_checks_question_is_the_one_that_was_taught() -> None:
    assert question_of(CHECK) == taught.QUESTION
