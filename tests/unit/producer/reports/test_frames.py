"""Files with several pictures as people see them: in exports, in the list, on the sheet, in the counts of a scan."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from PIL import Image

from scanfleet.checks.frame_result import FrameResult
from scanfleet.config.settings import load_settings
from scanfleet.db.engine import reading, transaction
from scanfleet.db.queries.scan_sums import FrameCounts, sums_of_scan
from scanfleet.db.results.results import Result, ResultFilter, iter_results
from scanfleet.db.tables import ScorerRow
from scanfleet.decoding.pool import Decoders
from scanfleet.producer.cli.scans.results import echo_results
from scanfleet.producer.cli.scans.times import echo_times
from scanfleet.producer.reports.export import COLUMNS, write_results
from scanfleet.producer.reports.sheet.cards import make_card
from scanfleet.producer.reports.sheet.pictures import Pictures
from scanfleet.stats.stage_times import StageTimes
from tests.helpers.cli_call import scanfleet
from tests.rigs.worker_rig import png, rig
from tests.unit.worker.batch.test_frames import animation, frames, with_frames

FRAMES = FrameResult(n_frames=12, n_scored=8, frame=3, seconds=1.3, next_margin=0.25)
NAMES = ("n_frames", "n_scored", "frame", "frame_seconds", "notes")


def result(frames: FrameResult | None, **more: Any) -> Result:
    given: dict[str, Any] = dict.fromkeys(("root", "etag", "size", "width", "height", "content_sha256", "meta"))
    return Result(
        image_id=1, scan="s", check="overlay", model="m", uri="/a.gif", state="verdict", frames=frames, **(given | more)
    )


def exported(form: str, *results: Result) -> bytes:
    file = io.BytesIO()
    write_results(results, file, form=form)
    return file.getvalue()


def test_exports_hold_the_picture_with_the_answer() -> None:
    several, one = result(FRAMES, notes=["on black"]), result(None)
    nested = [json.loads(line) for line in exported("jsonl", several, one).splitlines()]
    assert [line["frames"] for line in nested] == [FRAMES.record(), None]
    assert [line["notes"] for line in nested] == [["on black"], None]
    assert FrameResult.read(nested[0]["frames"]) == FRAMES
    assert COLUMNS[-5:] == NAMES
    rows = list(csv.DictReader(io.StringIO(exported("csv", several, one).decode())))
    assert [rows[0][name] for name in NAMES] == ["12", "8", "3", "1.3", '["on black"]']
    assert [rows[1][name] for name in NAMES] == [""] * 5


def test_the_list_has_a_column_of_frames_where_there_are_any(capsys: pytest.CaptureFixture[str]) -> None:
    echo_results([result(None)])
    assert "frames" not in capsys.readouterr().out
    page = FrameResult(n_frames=2, n_scored=2, frame=0)
    echo_results([result(FRAMES), result(page)])
    _, first, second = capsys.readouterr().out.splitlines()
    assert "frame 4 of 12, 1.3 s (8 scored)" in first
    assert "frame 1 of 2  " in second


def test_the_sheet_shows_the_picture_with_the_answer(tmp_path: Path) -> None:
    colours = [Image.new("RGB", (40, 30), colour) for colour in ("red", "lime", "blue")]
    data = animation(colours)
    (tmp_path / "a.png").write_bytes(data)
    chosen = FrameResult(n_frames=3, n_scored=3, frame=2, seconds=0.2)
    judged = result(chosen, label="overlay", content_sha256=hashlib.sha256(data).hexdigest(), root=str(tmp_path))
    judged = Result(**(vars(judged) | {"uri": str(tmp_path / "a.png")}))
    settings = load_settings(data_dir=tmp_path)
    with Decoders(settings, n_children=1) as decoders:
        pictures = Pictures(settings, decoders, n=1)
        assert pictures.judged(judged).getpixel((5, 5)) == (0, 0, 255)
        card = make_card(judged, pictures.drawn(judged), truth=None, said=None, fault=None)
    assert ("picture", "frame 3 of 3, 0.2 s") in card.details


def test_a_scan_counts_its_files_with_several_pictures(tmp_path: Path) -> None:
    images = {"mem://a.png": animation(frames(6)), "mem://b.png": animation(frames(2, seed=1)), "mem://c.png": png(1)}
    with rig(tmp_path) as worker:
        scan = worker.scan(images, check=with_frames(max=4))
        worker.drain()
        with reading(worker.engine) as connection:
            counts = sums_of_scan(connection, scan).frames
        with transaction(worker.engine) as connection:
            connection.execute(sa.update(ScorerRow).values(calibrator={"a": 1.0, "b": 0.0}))
        shown = {each.uri: each for each in iter_results(worker.engine, ResultFilter(scan=scan))}
    assert counts == FrameCounts(n_files=2, n_partly=1, n_frames=8, n_scored=6)
    frames_of = {uri: each.frames for uri, each in shown.items()}
    assert [None if each is None else each.n_scored for each in frames_of.values()] == [4, 2, None]
    assert [each.calibrated for each in shown.values()] == [False, False, True]
    told = scanfleet("scans", "show", scan, data_dir=tmp_path).stdout
    assert "2 files with several pictures: 6 of 8 scored; 1 file not in full" in told
    record = json.loads(scanfleet("scans", "show", scan, "--format", "json", data_dir=tmp_path).stdout)
    assert record["frames"] == {"n_files": 2, "n_partly": 1, "n_frames": 8, "n_scored": 6}
    assert record["times"]["further_frames"] == 4


def test_times_tell_the_cost_of_further_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    sums = {"under_way": 1.0, "idle": 0.1, "forwards": 2, "scored": 4, "frames": 8}
    times = StageTimes(sums=sums | {"first_tokens": 300.0, "frame_tokens": 200.0})
    assert times.images_per_forward == 6
    assert times.frame_share == 2
    echo_times(times)
    told = capsys.readouterr().out
    assert "frames: 8 further pictures of files with several took 200 visual tokens, 200.0 %" in told


def test_a_dry_run_says_what_such_files_may_cost(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.GIF", "b.tiff", "c.png", "d.jpg"):
        (folder / name).write_bytes(png(1))
    check = tmp_path / "mine.toml"
    for most, told in ((5, "2 files may hold several pictures, by name: each that does costs up to 5 times"), (1, "")):
        check.write_text(
            f'name = "mine"\nprompt = "what?"\nlabels = ["a", "b"]\nflags = ["a"]\n[frames]\nmax = {most}\n'
        )
        said = scanfleet("scan", str(folder), "--check", str(check), "--dry-run", data_dir=tmp_path)
        assert said.returncode == 0, said.stderr
        assert told in said.stderr
        assert ("several pictures" in said.stderr) == (most > 1)
