"""The generators are pure functions of their seed, and what they state as truth is in the picture."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from models.pocket.generate import Order, write_archive
from models.pocket.scenes import baggage, looking, overlay
from models.pocket.scenes.threats import THREATS


@pytest.mark.parametrize("family", [overlay, baggage])
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
    told = {option for index in range(200) for ask in looking.draw(4, index, 64, 64).asks for option in ask.options}
    asked = {ask.prompt for index in range(200) for ask in looking.draw(4, index, 64, 64).asks}
    assert not told & set(THREATS)
    assert not set(looking.PLANES) & set(THREATS)
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
