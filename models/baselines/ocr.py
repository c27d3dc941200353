"""`ocr-resnet`: what an OCR engine reads and where, beside the pixels of a ResNet; or in a forest alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scanfleet.models.baselines.fitted import Fitted, LogOdds, Task, need
from scanfleet.models.baselines.forest import CalibratedForest
from scanfleet.models.baselines.resnet import OPTIONS, Extra, fit_with
from scanfleet.models.errors import ModelInvalid

GRID = 4  # cells along a side, in which text is counted
TOPS = ("resnet", "forest")


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of text. corners: [4, 2], x and y as shares of the picture's sides, in reading order from the top left."""

    corners: NDArray[np.float32]
    confidence: float  # of the reading, 0 to 1
    n_letters: int

    @property
    def area(self) -> float:
        """As a share of the picture."""
        x, y = self.corners.T
        return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2

    @property
    def height(self) -> float:
        """As a share of the picture's."""
        return float(np.linalg.norm(self.corners[3] - self.corners[0]))

    @property
    def tilt(self) -> float:
        """Radians from the horizontal, 0 to pi / 2."""
        across = np.abs(self.corners[1] - self.corners[0])
        return float(np.arctan2(across[1], across[0]))


class PaddleOcr:
    """PP-OCR by rapidocr, whose package carries the weights.

    Args:
        side: What the shorter side of a picture is enlarged to before text is looked for, in pixels. Larger ones stay.
    """

    def __init__(self, side: int) -> None:
        made = need("rapidocr", baseline="ocr-resnet").RapidOCR
        need("onnxruntime", baseline="ocr-resnet")
        self._engine = made(params={"Global.log_level": "critical", "Det.limit_side_len": side})

    def lines(self, picture: Image.Image) -> list[Line]:
        """Return the lines of text in the picture."""
        pixels = np.asarray(picture.convert("RGB"))[:, :, ::-1]
        found = self._engine(np.ascontiguousarray(pixels), use_cls=False)
        if found.boxes is None:
            return []
        return [
            Line(corners=(box / np.array(picture.size)).astype(np.float32), confidence=score, n_letters=len(text))
            for box, score, text in zip(found.boxes, found.scores, found.txts, strict=True)
        ]


def figures_of(lines: Sequence[Line]) -> Extra:
    """Return `[9 + GRID²]`: how much text there is, how surely it is read, how large and steep it is, and where."""
    grid = np.zeros((GRID, GRID), dtype=np.float32)
    for line in lines:
        column, row = np.clip(line.corners.mean(axis=0) * GRID, 0, GRID - 1).astype(int)
        grid[row, column] += line.area
    if not lines:
        return np.zeros(9 + GRID**2, dtype=np.float32)
    areas, heights = [line.area for line in lines], [line.height for line in lines]
    sure = [line.confidence for line in lines]
    counts = (np.log1p(len(lines)), np.log1p(sum(line.n_letters for line in lines)))
    sizes = (sum(areas), max(areas), np.mean(heights), max(heights))
    how = (np.mean(sure), max(sure), np.mean([line.tilt for line in lines]))
    return np.concatenate([[*counts, *sizes, *how], grid.ravel()]).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class _OcrForest:
    engine: PaddleOcr
    forest: CalibratedForest

    def log_odds(self, pictures: Sequence[Image.Image]) -> LogOdds:
        return self.forest.log_odds(_figures(self.engine, pictures))


def fit_ocr_resnet(task: Task) -> Fitted:
    """Fit on what is read in the pictures and, unless `top` is `forest`, on their pixels.

    Raises:
        ModelInvalid: An option is wrong, or rapidocr is missing.
    """
    top = task.option("top", "resnet")
    if top not in TOPS:
        raise ModelInvalid(f"{task.name}: option top = {top!r} must be one of {', '.join(TOPS)}")
    task.allow("top", "ocr_side", *(("trees",) if top == "forest" else OPTIONS))
    trees = task.positive("trees", 300)
    engine = PaddleOcr(task.positive("ocr_side", 480))
    if top == "resnet":
        return fit_with(task, figures=lambda pictures: _figures(engine, pictures))
    forest = CalibratedForest(_figures(engine, task.pictures), task, trees=trees)
    return _OcrForest(engine=engine, forest=forest)


def _figures(engine: PaddleOcr, pictures: Sequence[Image.Image]) -> Extra:
    found = [figures_of(engine.lines(picture)) for picture in pictures]
    return np.stack(found) if found else np.zeros((0, 9 + GRID**2), dtype=np.float32)
