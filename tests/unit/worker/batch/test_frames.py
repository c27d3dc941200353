"""Files with several pictures in a worker, on SQLite, with the fake model: which one answers, and what it costs."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image as PillowImage

from scanfleet.checks.check import Check, load_check
from scanfleet.checks.crop_result import CropResult
from scanfleet.checks.frame_result import FrameResult
from scanfleet.checks.frames import FrameSettings
from scanfleet.db.engine import transaction
from scanfleet.db.results.scorers import ScorerSpec
from scanfleet.db.tables import Batch, Image, ScorerRow, Verdict
from scanfleet.errors import DeviceUnavailable, ImageError
from scanfleet.images import Frame
from scanfleet.models.fake import FakeScorer
from scanfleet.models.types import Reading
from scanfleet.worker.batch.events import Duplicates
from scanfleet.worker.batch.frame_reads import FrameReads, FrameRow
from scanfleet.worker.scoring.factory import question_of
from tests.rigs.worker_rig import Rig, png, rig
from tests.unit.worker.batch.test_crop_pass import Hooked, crop_check
from tests.unit.worker.batch.test_pipeline import HookedModel

SIDE = 84


def frames(n: int, *, seed: int = 0) -> list[PillowImage.Image]:
    noise = np.random.default_rng(seed).integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8)
    return [PillowImage.fromarray(each) for each in noise]


def animation(pictures: Sequence[PillowImage.Image]) -> bytes:
    """An APNG, a frame each 100 ms."""
    buffer = io.BytesIO()
    pictures[0].save(buffer, "PNG", save_all=True, append_images=pictures[1:], duration=100)
    return buffer.getvalue()


def margins_of(check: Check, pictures: Sequence[PillowImage.Image]) -> list[float]:
    scorer = FakeScorer(question=question_of(check))
    return [reading.margin for reading in scorer.score([scorer.prepare(picture) for picture in pictures])]


def with_frames(**settings: Any) -> Check:
    return load_check("overlay").model_copy(update={"frames": FrameSettings(**settings)})


def verdict_of(worker: Rig, scan: str) -> sa.Row[Any]:
    (row,) = worker.rows(Verdict, Verdict.scan_id == scan)
    return row


def seed_where(highest: int, n: int = 4) -> int:
    """The seed of pictures of which this one has the highest margin."""
    check = load_check("overlay")
    return next(seed for seed in range(500) if int(np.argmax(margins_of(check, frames(n, seed=seed)))) == highest)


def test_the_picture_with_the_highest_margin_answers_for_the_file(tmp_path: Path) -> None:
    check, model = load_check("overlay"), HookedModel()
    pictures = frames(4, seed=seed_where(2))
    margins = margins_of(check, pictures)
    with rig(tmp_path, model=model) as worker:
        scan = worker.scan({"mem://a/a.png": animation(pictures)})
        worker.drain()
        row = verdict_of(worker, scan)
        (seconds,) = (batch.seconds for batch in worker.rows(Batch))
    assert row.margin == max(margins)
    assert row.frames == {
        "n_frames": 4,
        "n_scored": 4,
        "frame": 2,
        "seconds": pytest.approx(0.2),
        "next_margin": sorted(margins)[-2],
        "reason": None,
    }
    assert model.n_scored == 4
    assert (seconds["scored"], seconds["frames"]) == (1, 3)
    assert seconds["frame_tokens"] == seconds["first_tokens"] * 3 / 4


def test_one_picture_is_one_row_and_has_no_frames(tmp_path: Path) -> None:
    model = HookedModel()
    with rig(tmp_path, model=model) as worker:
        scan = worker.scan({"mem://a/a.png": png(1)})
        worker.drain()
        row = verdict_of(worker, scan)
        (seconds,) = (batch.seconds for batch in worker.rows(Batch))
    assert (row.frames, row.notes, model.n_scored) == (None, None, 1)
    assert (seconds["scored"], seconds["frames"], seconds["frame_tokens"]) == (1, 0, 0)


def test_pictures_that_were_not_scored_make_a_clear_file_a_review(tmp_path: Path) -> None:
    check = with_frames(max=1)
    seed = next(s for s in range(100) if margins_of(check, frames(3, seed=s))[0] < 0)
    with rig(tmp_path) as worker:
        first = verdict_of(worker, _scanned(worker, animation(frames(3, seed=seed)), check))
        still = verdict_of(worker, _scanned(worker, animation(frames(3, seed=seed)[:1]), check))
    assert (first.decision, first.frames["reason"]) == ("review", "frames")
    assert (first.frames["n_frames"], first.frames["n_scored"], first.frames["frame"]) == (3, 1, 0)
    assert (still.decision, still.frames) == ("clear", None)
    assert first.margin == still.margin


def _scanned(worker: Rig, data: bytes, check: Check) -> str:
    scan = worker.scan({f"mem://a/{len(worker.store.objects)}.png": data}, check=check)
    worker.drain()
    return scan


def test_an_overlay_in_the_fourth_picture_of_a_gif_is_not_clear(tmp_path: Path) -> None:
    """The fake model flags some greys; the first pictures are of one that it clears."""
    check = load_check("overlay")
    greys = [PillowImage.new("RGB", (SIDE, SIDE), (value, value, value)) for value in range(0, 240, 8)]
    margins = margins_of(check, greys)
    plain = [grey for grey, margin in zip(greys, margins, strict=True) if margin < 0]
    flagged = greys[int(np.argmax(margins))]
    buffer = io.BytesIO()
    plain[0].save(buffer, "GIF", save_all=True, append_images=[plain[1], plain[2], flagged, *plain[3:5]], duration=100)
    with rig(tmp_path) as worker:
        row = verdict_of(worker, _scanned(worker, buffer.getvalue(), check))
    assert (row.decision, row.frames["frame"], row.frames["seconds"]) == ("flag", 3, pytest.approx(0.3))


def test_copies_share_the_forwards_and_a_later_scan_the_answer(tmp_path: Path) -> None:
    model, data = HookedModel(), animation(frames(3))
    with rig(tmp_path, model=model) as worker:
        scan = worker.scan({"mem://a/a.png": data, "mem://a/b.png": data})
        worker.drain()
        rows = worker.rows(Verdict, Verdict.scan_id == scan)
        later = verdict_of(worker, _scanned(worker, data, load_check("overlay")))
    assert model.n_scored == 3
    assert [row.frames["n_frames"] for row in rows] == [3, 3]
    assert later.reused_from is not None
    assert (later.frames, later.margin) == (rows[0].frames, rows[0].margin)


def test_notes_of_decoding_are_kept_and_reused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    words = PillowImage.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))
    words.paste((255, 255, 255, 255), (20, 20, 60, 60))  # white on nothing is laid over black
    words.save(buffer, "PNG")
    with rig(tmp_path) as worker:
        first, later = (verdict_of(worker, _scanned(worker, buffer.getvalue(), load_check("overlay"))) for _ in "12")
    assert first.notes
    assert all(isinstance(note, str) for note in first.notes)
    assert (later.notes, later.reused_from) == (first.notes, first.id)


def test_answers_of_the_decoding_before_are_not_reused(tmp_path: Path) -> None:
    model, data = HookedModel(), png(3)
    with rig(tmp_path, model=model) as worker:
        _scanned(worker, data, load_check("overlay"))
        (row,) = worker.rows(ScorerRow)
        names = [field.name for field in fields(ScorerSpec) if field.name not in ("mode", "decoding")]
        body = json.dumps({name: getattr(row, name) for name in names}, sort_keys=True)
        with transaction(worker.engine) as connection:  # as the release before has written it
            key = hashlib.sha256(body.encode()).hexdigest()
            connection.execute(sa.update(ScorerRow).values(key=key, decoding=None))
    with rig(tmp_path, model=model) as worker:
        later = verdict_of(worker, _scanned(worker, data, load_check("overlay")))
        scorers = worker.rows(ScorerRow)
    assert (later.reused_from, model.n_scored) == (None, 2)
    assert [row.decoding for row in scorers] == [None, 2]


def test_a_forward_that_fails_for_one_picture_makes_the_file_wait(tmp_path: Path) -> None:
    def broken(prepared: Sequence[Any]) -> None:
        if not away:
            return
        away.pop()
        raise DeviceUnavailable("the device is gone")

    away = [1]
    model = HookedModel(scoring=broken)
    with rig(tmp_path, model=model, token_budget=16) as worker:
        scan = worker.scan({"mem://a/a.png": animation(frames(4))})
        worker.pipeline.run(None)
        assert worker.rows(Verdict) == []
        worker.forget_backoff()
        worker.drain()
        assert verdict_of(worker, scan).frames["n_scored"] == 4


def test_the_crop_is_of_the_chosen_picture(tmp_path: Path) -> None:
    check, model = crop_check(), Hooked()
    pictures = frames(4, seed=seed_where(2))
    with rig(tmp_path, model=model) as worker:
        moving = verdict_of(worker, _scanned(worker, animation(pictures), check))
        still = verdict_of(worker, _scanned(worker, animation(pictures[2:3]), check))
        (image,) = worker.rows(Image, Image.id == moving.image_id)
    assert moving.frames["frame"] == 2
    assert (moving.crop, moving.margin) == (still.crop, still.margin)
    crop = CropResult.read(moving.crop)
    assert crop is not None
    assert crop.second is not None
    assert (image.width, image.height) == (SIDE, SIDE)


def test_boxes_are_those_of_the_chosen_picture(tmp_path: Path) -> None:
    check = load_check("overlay").model_copy(update={"boxes": True})
    pictures = frames(4, seed=seed_where(2))
    with rig(tmp_path) as worker:
        moving = verdict_of(worker, _scanned(worker, animation(pictures), check))
        still = verdict_of(worker, _scanned(worker, animation(pictures[2:3]), check))
    assert moving.frames["frame"] == 2
    assert moving.boxes
    assert moving.boxes == still.boxes


def reading(margin: float, *, mass: float = 1.0) -> Reading:
    return Reading(margin=margin, logits=(margin, 0.0), mass=mass, visual_tokens=3)


def collected(*answers: Reading | Exception) -> Any:
    """The result of a file of as many pictures, answered in reverse."""
    scorer = FakeScorer(question=question_of(load_check("overlay")))
    rows = [
        FrameRow(
            prepared=scorer.prepare(picture), width=SIDE, height=SIDE, frame=Frame(10 * at, None), notes=(f"n{at}",)
        )
        for at, picture in enumerate(frames(len(answers)))
    ]
    reads = FrameReads(Duplicates(sha256="s", size=1, images=[]), rows, n_frames=99, keep_prepared=True)
    found = [reads.add(at, answers[at]) for at in reversed(range(len(answers)))]
    assert found[:-1] == [None] * (len(answers) - 1)
    return found[-1]


def test_of_equal_margins_the_first_answers() -> None:
    result = collected(reading(1.0), reading(2.0, mass=0.9), reading(2.0), reading(-1.0, mass=0.5))
    assert result.frames == FrameResult(n_frames=99, n_scored=4, frame=10, next_margin=2.0)
    assert (result.notes, result.result.margin) == (("n1",), 2.0)
    assert (result.result.mass, result.result.visual_tokens) == (0.5, 12)
    assert result.duplicates.prepared is not None


def test_an_error_of_one_picture_is_that_of_the_file() -> None:
    away, bad = DeviceUnavailable("away"), ImageError(stage="score", reason="refused", detail="")
    assert collected(reading(9.0), bad).result is bad
    assert collected(bad, reading(9.0), away).result is away
    assert collected(reading(9.0), reading(float("nan")), reading(1.0)).result.margin != 9.0
