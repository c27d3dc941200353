"""Boxes in each family's units, there and back; and whatever else a model may write."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scanfleet.models.families import FAMILIES
from scanfleet.models.scoring.box_format import MAX_BOXES, MAX_TEXT, Canvas, ParsedBoxes, format_boxes, parse_boxes
from scanfleet.models.types import Box

LABELS = ("knife", "gun")
CANVAS = Canvas(original=(1000, 500), resized=(448, 224))


def parsed(text: str, family: str = "qwen3_vl", canvas: Canvas = CANVAS) -> ParsedBoxes:
    return parse_boxes(text, family=FAMILIES[family], canvas=canvas, labels=LABELS)


def answer(*corners: object, label: object = "knife") -> str:
    return json.dumps([{"bbox_2d": list(corners), "label": label}])


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_thousandths_of_the_image(family: str) -> None:
    found = parsed(answer(100, 200, 300, 400), family)
    assert found == ParsedBoxes(boxes=(Box(x0=100, y0=100, x1=300, y1=200, label="knife"),), problems=())


def test_pixels_of_the_resized_image() -> None:
    (box,) = parsed(answer(112, 56, 224, 112), "qwen2_5_vl").boxes
    assert (box.x0, box.y0, box.x1, box.y1) == (250, 125, 500, 250)


def test_the_fenced_form_and_the_special_token_form() -> None:
    fenced = f"Here you are:\n```json\n{answer(0, 0, 500, 500)}\n```"
    native = (
        "<|object_ref_start|>gun<|object_ref_end|><|box_start|>(0,0),(500,500)<|box_end|>"
        "<|object_ref_start|>a cat<|object_ref_end|><|box_start|>(1,1),(2,2)<|box_end|>"
    )
    assert parsed(fenced).boxes == (Box(x0=0, y0=0, x1=500, y1=250, label="knife"),)
    found = parsed(native, "qwen2_vl")
    assert [box.label for box in found.boxes] == ["gun"]
    assert len(found.problems) == 1


def test_a_little_outside_is_clipped() -> None:
    (box,) = parsed(answer(-5, 900, 1020, 1003)).boxes
    assert (box.x0, box.y0, box.x1, box.y1) == (0, 450, 1000, 500)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no",
        "null",
        "7",
        '"[1, 2]"',
        "[" * 50_000,
        "[" * 10_000,
        answer(1, 2, 3),
        answer(1, 2, 3, 4, 5),
        answer(1, 2, "3", 4),
        answer(True, 2, 3, 4),
        answer(3, 3, 1, 4),
        answer(2000, 2000, 3000, 3000),
        answer(1, 2, 3, 4, label="bomb"),
        answer(1, 2, 3, 4, label=None),
        '[{"bbox_2d": [1, 2, NaN, 4], "label": "gun"}]',
        '[{"bbox_2d": [1, 2, 1e999, 4], "label": "gun"}]',
        '[{"bbox_2d": [1, 2, ' + "9" * 5000 + ', 4], "label": "gun"}]',
        '[{"bbox_2d": [1, 2, 3, 4], "label": "gun"}',
        "[[1, 2, 3, 4]]",
        '{"label": "gun"}',
        answer(1, 2, 3, 4) + " " * MAX_TEXT,
    ],
)
def test_what_cannot_be_trusted_gives_no_box_and_a_reason(text: str) -> None:
    found = parsed(text)
    assert found.boxes == ()
    assert len(found.problems) == 1
    assert "\n" not in found.problems[0]


def test_an_empty_list_is_an_answer_and_no_problem() -> None:
    assert parsed("[]") == ParsedBoxes(boxes=(), problems=())


def test_one_bad_box_leaves_the_others() -> None:
    good, bad = json.loads(answer(1, 2, 3, 4)), json.loads(answer(1, 2, 3, 4, label="cat"))
    found = parsed(json.dumps(good + bad + good))
    assert len(found.boxes) == 2
    assert len(found.problems) == 1


def test_the_number_of_boxes_is_capped() -> None:
    found = parsed(json.dumps(json.loads(answer(1, 2, 3, 4)) * (MAX_BOXES + 20)))
    assert len(found.boxes) == MAX_BOXES
    assert found.problems == (f"{MAX_BOXES + 20} boxes, only the first {MAX_BOXES} are read",)


@given(text=st.text(max_size=300) | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(repr))
def test_nothing_a_model_writes_raises(text: str) -> None:
    assert parsed(text).boxes == ()


_side = st.integers(32, 4000)


@given(
    size=st.tuples(_side, _side),
    resized=st.tuples(_side, _side),
    corners=st.tuples(*[st.floats(0, 1)] * 4),
    family=st.sampled_from(sorted(FAMILIES)),
)
def test_there_and_back_stays_within_a_unit(
    size: tuple[int, int], resized: tuple[int, int], corners: tuple[float, ...], family: str
) -> None:
    """At most 0.1 % of the image, or one pixel of the resized image."""
    (x0, x1), (y0, y1) = sorted(corners[:2]), sorted(corners[2:])
    box = Box(x0=x0 * size[0], y0=y0 * size[1], x1=x1 * size[0], y1=y1 * size[1], label="gun")
    canvas = Canvas(original=size, resized=resized)
    text = format_boxes([box], family=FAMILIES[family], canvas=canvas)
    (found,) = parsed(text, family, canvas).boxes
    units = canvas.units(FAMILIES[family])
    for axis, names in enumerate((("x0", "x1"), ("y0", "y1"))):
        for name in names:
            assert abs(getattr(found, name) - getattr(box, name)) <= size[axis] / units[axis] * 1.0001
