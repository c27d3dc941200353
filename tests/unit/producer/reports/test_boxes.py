"""Boxes as people see them: on the contact sheet and in the list."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scanfleet.checks.check import Check
from scanfleet.db.results.results import Result
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.tables import Verdict
from scanfleet.producer.cli.scans.results import echo_results
from scanfleet.producer.reports.contact_sheet import write_report
from scanfleet.producer.reports.drawing import boxes_in_words, draw_boxes
from scanfleet.storage.folder import FolderStore
from tests.rigs.worker_rig import png, rig

CHECK = Check(name="guns", prompt="Is there a gun?", labels=("gun", "none"), flags=("gun",), boxes=True)


def box(x0: float, y0: float, x1: float, y1: float) -> dict[str, Any]:
    return {"x0": x0, "y0": y0, "x1": x1, "y1": y1, "label": "gun", "score": None}


def test_a_box_is_drawn_where_it_is_on_the_smaller_picture() -> None:
    image = Image.new("RGB", (100, 50), (0, 0, 255))
    draw_boxes(image, [box(200, 100, 600, 300)], size=(1000, 500))
    painted = np.argwhere((np.asarray(image) != (0, 0, 255)).any(-1))
    assert painted.min(0).tolist() == [10, 20]
    assert painted.max(0).tolist() == [30, 60]
    assert np.asarray(image)[20, 40].tolist() == [0, 0, 255], "outlined, not filled"


@pytest.mark.parametrize("odd", [box(0, 0, 1000, 500), box(-5, -5, 2000, 900), box(10, 10, 10.1, 10.1)])
def test_a_box_at_the_edge_or_thinner_than_a_pixel_does_not_break_the_sheet(odd: dict[str, Any]) -> None:
    image = Image.new("RGB", (100, 50), (0, 0, 255))
    draw_boxes(image, [odd], size=(1000, 500))
    assert (np.asarray(image) != (0, 0, 255)).any()


def test_the_list_has_a_column_of_boxes_where_they_were_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    given: dict[str, Any] = dict.fromkeys(("root", "etag", "size", "width", "height", "content_sha256", "meta"))
    plain = Result(image_id=1, scan="s", check="overlay", model="m", uri="/a.jpg", state="pending", **given)
    echo_results([plain])
    assert "boxes" not in capsys.readouterr().out
    echo_results(
        [
            plain,
            Result(
                image_id=2,
                scan="s",
                check="overlay",
                model="m",
                uri="/b.jpg",
                state="verdict",
                boxes=[box(0, 0, 1, 1)],
                **given,
            ),
        ]
    )
    header, _, second = capsys.readouterr().out.splitlines()
    assert header.split()[-2:] == ["boxes", "uri"]
    assert re.search(r"1 gun +/b\.jpg$", second)


def test_words_for_many_none_and_not_asked() -> None:
    assert boxes_in_words([box(0, 0, 1, 1), box(0, 0, 2, 2)]) == "2 gun"
    assert (boxes_in_words([]), boxes_in_words(None)) == ("0", None)


def test_the_contact_sheet_tells_boxes_and_problems(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}.png").write_bytes(png(number))
    with rig(tmp_path / "data", real_stores=True) as worker:
        listed = FolderStore(folder).list(str(folder))
        scan = worker.scan_listed(
            [NewImage(uri=info.uri, root=str(folder), etag=info.etag) for info in listed], check=CHECK
        )
        worker.drain()
        flagged = [row for row in worker.rows(Verdict) if row.decision == "flag"]
        assert 0 < len(flagged) < 8
        assert all(len(row.boxes) == 1 for row in flagged)
        write_report(worker.engine, worker.settings, scan, tmp_path / "sheet.html")
    sheet = (tmp_path / "sheet.html").read_text()
    assert sheet.count('<dd class="soft">1 gun</dd>') == len(flagged)
