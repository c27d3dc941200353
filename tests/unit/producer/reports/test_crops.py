"""Crops as people see them: in exports, in the list, on the contact sheet and among the times of a scan."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scanfleet.checks.check import load_check
from scanfleet.checks.crop import CropSettings, crop_text
from scanfleet.checks.crop_result import CropResult
from scanfleet.db.results.results import Result, ResultFilter, iter_results
from scanfleet.db.results.scorers import ScorerUse
from scanfleet.db.scans.new_images import NewImage
from scanfleet.producer.cli.scans.results import echo_results
from scanfleet.producer.cli.scans.times import echo_times
from scanfleet.producer.reports.contact_sheet import write_report
from scanfleet.producer.reports.drawing import CROP_COLOURS, crop_in_words, draw_crop
from scanfleet.producer.reports.explanations import entry
from scanfleet.producer.reports.export import write_results
from scanfleet.stats.stage_times import StageTimes
from scanfleet.storage.folder import FolderStore
from tests.rigs.worker_rig import png, rig

CROP = CropResult(
    why="uncertain", first=0.25, second=-3.5, box=(10, 20, 110, 220), sharpness=4.5, tokens=190, look="pair",
    method="rel-att",
)  # fmt: skip


def result(crop: CropResult | None) -> Result:
    given: dict[str, Any] = dict.fromkeys(("root", "etag", "size", "width", "height", "content_sha256", "meta"))
    return Result(image_id=1, scan="s", check="overlay", model="m", uri="/a.jpg", state="verdict", crop=crop, **given)


def exported(crop: CropResult | None, form: str) -> str:
    file = io.BytesIO()
    write_results([result(crop)], file, form=form)
    return file.getvalue().decode()


def test_the_ledger_gives_back_what_it_was_given() -> None:
    assert CropResult.read(json.loads(json.dumps(CROP.record()))) == CROP
    assert CropResult.read(None) is None
    assert [CropResult(why="always", first=0.0, look="pair", skipped=why).complete for why in ("cap", "diffuse")] == [
        False,
        True,
    ]


def test_exports_hold_both_margins() -> None:
    assert json.loads(exported(CROP, "jsonl"))["crop"] == CROP.record()
    assert json.loads(exported(None, "jsonl"))["crop"] is None
    (row,) = csv.DictReader(io.StringIO(exported(CROP, "csv")))
    told = {name.removeprefix("crop_"): value for name, value in row.items() if name.startswith("crop_")}
    assert told == {
        "why": "uncertain", "first": "0.25", "second": "-3.5", "box": "[10, 20, 110, 220]", "sharpness": "4.5",
        "skipped": "", "tokens": "190", "look": "pair", "method": "rel-att",
    }  # fmt: skip
    (row,) = csv.DictReader(io.StringIO(exported(None, "csv")))
    assert {value for name, value in row.items() if name.startswith("crop_")} == {""}


def test_the_list_has_a_column_of_crops_where_there_are_any(capsys: pytest.CaptureFixture[str]) -> None:
    echo_results([result(None)])
    assert "crop" not in capsys.readouterr().out
    echo_results([result(CROP), result(None), result(CropResult(why="shrunk", first=1.0, look="pair", skipped="cap"))])
    header, first, second, third = capsys.readouterr().out.splitlines()
    assert header.split()[-2:] == ["crop", "uri"]
    assert first.split()[-3:] == ["+0.250", "-3.500", "/a.jpg"]
    assert third.split()[-3:] == ["+1.000", "cap", "/a.jpg"]
    assert second.split()[-2:] == ["-", "/a.jpg"]


def test_the_region_is_drawn_where_it_is_on_the_smaller_picture() -> None:
    image = Image.new("RGB", (100, 50))
    draw_crop(image, CROP, size=(1000, 500))
    painted = np.argwhere((np.asarray(image) == CROP_COLOURS[1]).all(-1))
    assert (painted.min(0).tolist(), painted.max(0).tolist()) == ([2, 1], [22, 11])
    untouched = Image.new("RGB", (100, 50))
    draw_crop(untouched, CropResult(why="always", first=0.0, look="pair", skipped="diffuse"), size=(1000, 500))
    assert not np.asarray(untouched).any()


def test_the_sheet_shows_both_margins(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for seed in range(8):
        (tmp_path / "in" / f"{seed}.png").write_bytes(png(seed, width=84, height=84))
    listed = list(FolderStore(tmp_path / "in").list(str(tmp_path / "in")))
    images = [NewImage(uri=each.uri, root=str(tmp_path / "in"), etag=each.etag, size=each.size) for each in listed]
    check = load_check("overlay").model_copy(update={"crop": CropSettings(when="always", max_extra=100)})
    with rig(tmp_path, real_stores=True) as worker:
        scan = worker.scan_listed(images, check=check)
        worker.drain()
        found = list(iter_results(worker.engine, ResultFilter(scan=scan)))
        n_shown = write_report(worker.engine, worker.settings, scan, tmp_path / "sheet.html")
    words = [crop_in_words(each.crop) for each in found if each.decision != "clear"]
    page = (tmp_path / "sheet.html").read_text()
    assert n_shown == len(words) > 0
    for each in words:
        assert f'looks</dt><dd class="soft">{each}</dd>' in page


def test_the_times_tell_what_it_cost(capsys: pytest.CaptureFixture[str]) -> None:
    sums = {"forwards": 4.0, "scored": 40.0, "under_way": 2.0, "idle": 0.1, "threads": 16.0, "first_tokens": 4000.0}
    echo_times(StageTimes(sums=sums))
    assert "crops:" not in capsys.readouterr().out
    took = "they took 1,900 visual tokens, 47.5 % of the first pass"
    given = sums | {"again": 7.0, "again_tokens": 1900.0, "again_rows": 14.0}
    echo_times(StageTimes(sums=given))
    told = capsys.readouterr().out
    assert told.endswith(f"  crops: 7 due, 7 read; {took}\n")
    assert "13.5 images and crops each" in told
    echo_times(StageTimes(sums=given | {"capped": 3.0, "again_whole": 1.0}))
    skipped = "(3 beyond max_extra, 1 with the whole image as region)"
    assert capsys.readouterr().out.endswith(f"  crops: 11 due, 7 read {skipped}; {took}\n")
    echo_times(StageTimes(sums=sums | {"again_diffuse": 16.0, "again_tokens": 24000.0}))
    took = "finding the regions took 24,000 visual tokens, 600.0 % of the first pass"
    assert capsys.readouterr().out.endswith(f"  crops: 16 due, 0 read (16 diffuse); {took}\n")
    echo_times(StageTimes(sums=sums | {"again_enough": 16.0}))
    assert capsys.readouterr().out.endswith("  crops: 16 due, 0 read (16 clear enough in the first pass)\n")
    echo_times(StageTimes(sums=sums | {"again_tokens": 40.0}))
    assert "  crops: none finished; finding the regions took 40" in capsys.readouterr().out
    assert StageTimes(sums=sums | {"again_tokens": 1900.0}).record()["extra_token_share"] == 0.475


@pytest.mark.parametrize(
    ("settings", "band", "said"),
    [
        ({"band": 0.5}, (-1.0, 2.0), "where the first margin lies between -1.500 and +2.500,"),
        ({"band": 0.5}, (None, 2.0), "where the first margin lies between any and +2.500,"),
        (
            {"when": "uncertain-or-shrunk", "band": 0.0},
            (0.0, 0.0),
            "where the first margin lies between +0.000 and +0.000, and of shrunk images,",
        ),
        ({"when": "shrunk", "look": "tiles"}, (0.0, 0.0), "crop pass (tiles) of shrunk images,"),
        ({"when": "always", "max_extra": 2.5}, (0.0, 0.0), "of every image, for at most 2.5 times the tokens"),
    ],
)
def test_the_legend_says_which_images_get_a_crop(
    settings: dict[str, Any], band: tuple[float | None, float | None], said: str
) -> None:
    text = crop_text(CropSettings.model_validate(settings), band={"low": band[0], "high": band[1]})
    use = ScorerUse(
        id=1, base_model="m", base_revision="1", precision="fp32", adapter=None, calibrator=None, thresholds=None,
        n_images=3, crop=text,
    )  # fmt: skip
    assert said in (entry(use, has_flags=True).looks or "")
    assert entry(replace(use, crop="never"), has_flags=True).looks is None
