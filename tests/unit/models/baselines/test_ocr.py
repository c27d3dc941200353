"""What is read in a picture, as figures; a forest over them; and a ResNet that sees them beside the pixels."""

import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from scanfleet.models.baselines import fit
from scanfleet.models.baselines.fitted import Task
from scanfleet.models.baselines.ocr import GRID, Line, figures_of
from scanfleet.models.baselines.resnet import fit_with
from scanfleet.models.errors import ModelInvalid

NAMES = ("text", "none")


def line(x0: float, y0: float, x1: float, y1: float, *, confidence: float = 0.5, n_letters: int = 4) -> Line:
    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], dtype=np.float32)
    return Line(corners=corners, confidence=confidence, n_letters=n_letters)


def test_figures_tell_how_much_text_there_is_and_where() -> None:
    found = figures_of([line(0, 0, 0.5, 0.25), line(0.75, 0.75, 1, 1, confidence=1.0, n_letters=0)])
    counts, sizes, how, grid = found[:2], found[2:6], found[6:9], found[9:].reshape(GRID, GRID)
    assert counts == pytest.approx([np.log(3), np.log(5)])
    assert sizes == pytest.approx([0.1875, 0.125, 0.25, 0.25])
    assert how == pytest.approx([0.75, 1.0, 0.0])
    assert grid[0, 1] == pytest.approx(0.125)
    assert grid[3, 3] == pytest.approx(0.0625)
    assert np.count_nonzero(grid) == 2


def test_a_picture_without_text_has_figures_of_zero() -> None:
    assert figures_of([]).shape == figures_of([line(0, 0, 1, 1)]).shape
    assert not figures_of([]).any()


def test_a_steep_line_is_told() -> None:
    corners = np.array([[0.2, 0.2], [0.4, 0.4], [0.3, 0.5], [0.1, 0.3]], dtype=np.float32)
    assert Line(corners=corners, confidence=1, n_letters=1).tilt == pytest.approx(np.pi / 4)
    assert Line(corners=corners, confidence=1, n_letters=1).area == pytest.approx(0.04)


def written(n: int, *, seed: int) -> tuple[list[Image.Image], list[str]]:
    """Noise, every other picture with a word on it, at any place."""
    rng = np.random.default_rng(seed)
    pictures = []
    for number in range(n):
        picture = Image.fromarray(rng.integers(60, 120, (96, 160, 3), dtype=np.uint8))
        if number % 2 == 0:
            place = (int(rng.integers(2, 60)), int(rng.integers(2, 60)))
            ImageDraw.Draw(picture).text(place, "SALE 50", font=ImageFont.load_default(24), fill=(255, 255, 255))
        pictures.append(picture)
    return pictures, [NAMES[number % 2] for number in range(n)]


def test_text_is_found_and_told_from_none_and_a_seed_repeats_it() -> None:
    pytest.importorskip("rapidocr")
    options = {"top": "forest", "ocr_side": 96, "trees": 30}
    pictures, labels = written(4, seed=2)
    odds = [
        fit("ocr-resnet", *written(8, seed=1), names=NAMES, seed=0, options=options).log_odds(pictures)
        for _ in range(2)
    ]
    assert [NAMES[best] for best in odds[0].argmax(axis=1)] == labels
    assert np.array_equal(*odds)


def test_the_network_sees_the_figures_beside_the_pixels() -> None:
    """The pixels say nothing here; the brightness of one corner is given as a figure."""
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)) for _ in range(40)]
    told = {id(picture): float(number % 2) for number, picture in enumerate(pictures)}
    options = {"width": 4, "side": 32, "epochs": 20, "batch": 8, "lr": 0.1}
    task = Task(
        name="ocr-resnet", pictures=pictures[:30], labels=[NAMES[n % 2] for n in range(30)], names=NAMES, seed=0,
        options=options,
    )  # fmt: skip
    fitted = fit_with(task, figures=lambda some: np.array([[told[id(one)]] for one in some], dtype=np.float32))
    assert fitted.log_odds(pictures[30:]).argmax(axis=1).tolist() == [0, 1] * 5


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with pytest.raises(ModelInvalid, match=r"ocr-resnet needs rapidocr.*\[baselines\]"):
        fit("ocr-resnet", *written(4, seed=1), names=NAMES, seed=0, options={})


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ModelInvalid, match="top = 'tree' must be one of resnet, forest"):
        fit("ocr-resnet", *written(4, seed=1), names=NAMES, seed=0, options={"top": "tree"})
    with pytest.raises(ModelInvalid, match="no option 'epochs'"):
        fit("ocr-resnet", *written(4, seed=1), names=NAMES, seed=0, options={"top": "forest", "epochs": 3})
