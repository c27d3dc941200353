"""The generators are pure functions of their seed, and what they state as truth is in the picture."""

from __future__ import annotations

import csv
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from scanfleet.models.pocket import generate
from scanfleet.models.pocket.generate import Order, write_archive
from scanfleet.models.pocket.scenes import baggage, overlay, pretraining, razor
from scanfleet.models.pocket.scenes.planted import large, planted
from scanfleet.models.pocket.scenes.scene import dice
from scanfleet.models.pocket.scenes.threats import THREATS
from scanfleet.models.pocket.scenes.xray import Pose


@pytest.mark.parametrize("family", [overlay, baggage, razor])
def test_a_picture_is_a_function_of_seed_and_index(family) -> None:
    first, again = family.draw(5, 3, 128, 128), family.draw(5, 3, 128, 128)
    assert first.image.tobytes() == again.image.tobytes()
    assert (first.label, first.text, first.boxes, first.style) == (again.label, again.text, again.boxes, again.style)
    assert family.draw(6, 3, 128, 128).image.tobytes() != first.image.tobytes()
    assert family.draw(5, 3 + 30, 128, 128).image.tobytes() != first.image.tobytes()


@pytest.mark.parametrize("size", [(128, 128), (224, 224), (160, 96), (448, 448)])
@pytest.mark.parametrize("family", [overlay, baggage])
def test_boxes_lie_inside_the_picture_and_agree_with_the_label(family, size) -> None:
    for index in range(12):
        scene = family.draw(8, index, *size)
        assert scene.image.size == size
        assert scene.image.mode == "RGB"
        labels = {box.label for box in scene.boxes}
        assert (scene.label in labels) == (scene.label != "none")
        assert scene.label != "none" or not labels
        for box in scene.boxes:
            assert 0 <= box.x0 < box.x1 <= size[0]
            assert 0 <= box.y0 < box.y1 <= size[1]


def test_overlay_text_changes_the_picture_inside_its_box_alone() -> None:
    """Draw the same picture with the overlay step taken away: every difference lies in or next to the box."""
    compared = 0
    for index in range(0, 60, 3):
        scene = overlay.draw(9, index, 128, 128)
        (box,) = [box for box in scene.boxes if box.label == "overlay"]
        if not scene.style.endswith("watermark"):  # badges, plates and outlines are wider than the letters
            continue
        bare = _without_overlay(9, index)
        changed = ImageChops.difference(scene.image, bare).getbbox()
        assert changed is not None
        assert changed[0] >= box.x0 - 3
        assert changed[1] >= box.y0 - 3
        assert changed[2] <= box.x1 + 3
        assert changed[3] <= box.y1 + 3
        compared += 1
    assert compared >= 2


def _without_overlay(seed: int, index: int) -> Image.Image:
    kept = overlay.lay_over
    seen: list[Image.Image] = []

    def spy(rng, image):
        seen.append(image.copy())
        return kept(rng, image)

    overlay.lay_over = spy
    try:
        overlay.draw(seed, index, 128, 128)
    finally:
        overlay.lay_over = kept
    return seen[0]


def test_every_overlay_style_and_every_surface_occurs() -> None:
    styles = Counter(style for index in range(150) for style in overlay.draw(2, index, 64, 64).style.split("+"))
    assert set(overlay.OVERLAY_STYLES) | set(overlay.SURFACES) | {"plain"} == set(styles)


def test_absorption_only_ever_darkens_and_adds_up() -> None:
    depths = baggage.Depths(128, 128)
    pose = baggage.Pose(x=64, y=64, scale=80, turn=0.3)
    parts = THREATS["gun"](baggage.dice(1, "test", 0))
    depths.add(parts, pose)
    once = depths.depth.copy()
    depths.add(parts, pose)
    assert once.min() >= 0
    assert once.max() > 0.5
    np.testing.assert_allclose(depths.depth, 2 * once, rtol=1e-5)


def test_half_of_the_bags_hold_no_threat_and_threats_take_turns() -> None:
    labels = Counter(baggage.draw(3, index, 64, 64).label for index in range(80))
    assert labels == {"none": 40, "knife": 10, "gun": 10, "scissors": 10, "bottle": 10}


def test_the_base_never_sees_a_threat_nor_a_check_word() -> None:
    told = {
        option
        for index in range(200)
        for question in pretraining.draw(4, index, 64, 64).questions
        for option in question.options
    }
    asked = {question.prompt for index in range(200) for question in pretraining.draw(4, index, 64, 64).questions}
    assert not told & set(THREATS)
    assert not set(pretraining.PLANES) & set(THREATS)
    for word in ("overlay", "added", "scene", "threat", "bag"):
        assert not any(word in text.lower().split() for text in asked)


def test_an_archive_repeats_byte_for_byte_and_its_manifest_is_true(tmp_path: Path) -> None:
    orders = [Order(check="baggage", n=12, seed=7, out=tmp_path / name, sizes=(64, 96)) for name in ("a", "b")]
    manifests = [write_archive(order) for order in orders]
    assert manifests[0].read_bytes() == manifests[1].read_bytes()
    rows = list(csv.DictReader(manifests[0].read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 12
    assert {Path(row["uri"]).suffix for row in rows} == {".jpg", ".png"}
    for row in rows:
        a, b = (order.out / row["uri"] for order in orders)
        assert a.read_bytes() == b.read_bytes()
        with Image.open(a) as image:
            assert image.size == (int(row["width"]), int(row["height"]))
        assert bool(row["boxes"]) == (row["truth"] != "none")


def _generate(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["generate", *arguments])
    generate.main()


@pytest.mark.parametrize(("share", "low", "high"), [("0.04,0.08", 0.04, 0.08), ("0.6,0.6", 0.6, 0.6)])
def test_the_part_is_as_long_as_its_share_asks(share: str, low: float, high: float, tmp_path, monkeypatch) -> None:
    asked = ("--check", "razor", "--n", "6", "--sizes", "256", "--share", share, "--out", str(tmp_path))
    _generate(monkeypatch, *asked)
    with (tmp_path / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        parts = [row["boxes"].split() for row in csv.DictReader(stream) if row["boxes"]]
    assert len(parts) >= 3
    for _, x0, y0, x1, y1 in parts:
        longest = max(int(x1) - int(x0), int(y1) - int(y0)) / 256
        # A box is as long as the part only where that lies straight: at 45 degrees it is shorter. Whole pixels.
        assert 0.7 * low - 2 / 256 <= longest <= 1.2 * high + 2 / 256


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--check", "overlay", "--share", "0.02,0.05"), "--share is for the razor check"),
        (("--check", "razor", "--share", "0.02"), "give two numbers"),
        (("--check", "razor", "--share", "0.05,0.02"), "not over the second"),
    ],
)
def test_a_share_that_makes_no_sense_is_refused(
    arguments: tuple[str, ...], words: str, tmp_path, monkeypatch, capsys
) -> None:
    with pytest.raises(SystemExit) as ended:
        _generate(monkeypatch, *arguments, "--out", str(tmp_path / "out"))
    assert ended.value.code == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("draw", "low", "high"), [(planted, 0.01, 0.05), (large, 0.15, 0.5)])
def test_the_box_of_a_small_part_holds_all_that_it_darkens(draw, low: float, high: float, monkeypatch) -> None:
    """The same picture without the part differs inside the box alone, and the part is as long as was asked."""
    seen = []
    for number in range(4):
        picture = draw(5, number)
        seen.append(picture)
        width, height = picture.image.size
        assert (picture.label == "blade") == (number % 2 == 0)
        if picture.box is None:
            assert (picture.label, picture.make) == ("none", "empty")
            continue
        with monkeypatch.context() as patch:
            patch.setattr(razor, "lay_plate", partial(_lay_elsewhere, razor.lay_plate))
            without = draw(5, number)
        changed = ImageChops.difference(picture.image, without.image).getbbox()
        assert changed is not None
        box = picture.box
        assert box.x0 - 3 <= changed[0] <= box.x0 + 3
        assert box.y0 - 3 <= changed[1] <= box.y0 + 3
        assert box.x1 - 3 <= changed[2] <= box.x1 + 3
        assert box.y1 - 3 <= changed[3] <= box.y1 + 3
        longest = max(box.x1 - box.x0, box.y1 - box.y0)
        assert longest >= 12
        assert 0.7 * low <= longest / min(width, height) <= 1.2 * high
    assert draw(5, 1).image.tobytes() == seen[1].image.tobytes()


def _lay_elsewhere(lay, seen, parts, pose):
    return lay(seen.copy(), parts, pose)


def test_blade_and_look_alike_differ_in_detail_alone() -> None:
    """Of one outline: as plates of a hundred pixels they differ, shrunk to six their darkness hardly does."""
    marks: dict[str, list[float]] = {}
    for make_seed in range(40):
        for label in razor.LABELS:
            plate = razor.plate(dice(make_seed, "same", 0), label)
            body = plate.parts[0]
            assert (body.points, body.thick) == (lambda b: (b.points, b.thick))(
                razor.plate(dice(make_seed, "same", 0), razor.LABELS[label == "blade"]).parts[0]
            )
            fine, coarse = np.ones((120, 120, 3), np.float32), np.ones((12, 12, 3), np.float32)
            razor.lay_plate(fine, plate.parts, Pose(x=60, y=60, scale=100, turn=0))
            razor.lay_plate(coarse, plate.parts, Pose(x=6, y=6, scale=6, turn=0))
            marks.setdefault(f"{label} middle", []).append(float(fine[59:61, 40:80, 0].mean()))
            marks.setdefault(f"{label} dark", []).append(float(1 - coarse[..., 0].mean()))
    assert min(marks["blade middle"]) > 0.9  # the slot is transparent
    assert max(marks["none middle"]) < 0.3
    blade, none = np.array(marks["blade dark"]), np.array(marks["none dark"])
    assert abs(blade.mean() - none.mean()) < 0.5 * none.std()
