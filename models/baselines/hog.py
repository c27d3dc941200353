"""`hog-forest`: histograms of oriented gradients and a random forest. No neural network, no weights, no GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from scanfleet.models.baselines.fitted import Fitted, LogOdds, Task, need
from scanfleet.models.baselines.forest import CalibratedForest, Features
from scanfleet.models.errors import ModelInvalid


@dataclass(frozen=True, kw_only=True)
class Hog:
    """Histograms of oriented gradients (Dalal and Triggs 2005): 9 directions, blocks of 2 x 2 cells, L2-Hys.

    Attributes:
        side: Pixels of the grey square that a picture is resized to.
        cell: Pixels along a cell.
    """

    side: int
    cell: int

    def features(self, pictures: Sequence[Image.Image]) -> Features:
        """Return `[pictures, (side / cell - 1)² * 36]`."""
        hog = need("skimage.feature", baseline="hog-forest").hog
        cell = (self.cell, self.cell)
        return np.stack([hog(self._grey(one), 9, cell, (2, 2)) for one in pictures]).astype(np.float32)

    def _grey(self, picture: Image.Image) -> np.ndarray:
        grey = picture.convert("L").resize((self.side, self.side), Image.Resampling.BILINEAR)
        return np.asarray(grey, dtype=np.float32) / 255


@dataclass(frozen=True, kw_only=True)
class _HogForest:
    hog: Hog
    forest: CalibratedForest

    def log_odds(self, pictures: Sequence[Image.Image]) -> LogOdds:
        return self.forest.log_odds(self.hog.features(pictures))


def fit_hog_forest(task: Task) -> Fitted:
    """Fit the forest on the pictures' histograms.

    Raises:
        ModelInvalid: An option is wrong, or scikit-image is missing.
    """
    task.allow("side", "cell", "trees")
    hog = Hog(side=task.positive("side", 128), cell=task.positive("cell", 16))
    if hog.side < 2 * hog.cell:
        raise ModelInvalid(f"hog-forest: side {hog.side} must hold two cells of {hog.cell} pixels at least")
    trees = task.positive("trees", 300)
    return _HogForest(hog=hog, forest=CalibratedForest(hog.features(task.pictures), task, trees=trees))
