"""How unlike the images that an adapter was calibrated on an image is: the distance to the nearest of them.

    features   mean over an image's visual tokens, as the language model gets them `[features]`
    distance   to the nearest calibration image, in directions and units that the calibration images vary in

The nearest neighbour needs no shape of the distribution (Sun et al. 2022, arXiv 2204.06507), and whitening counts a
direction in which these images hardly vary for much (Mahalanobis, as in arXiv 1807.03888). `unlike` is the share of the
calibration images that lie nearer, each measured to those of other folds. So it is uniform from 0 to 1 for images of
the same kind, and 1 - unlike is a p-value (conformal, arXiv 2107.07511). Look-alikes count as one image.

The summary lies beside the card, in a file that releases before this one ignore; the card's metrics name its digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from scanfleet.models.adapters.settings import read_file
from scanfleet.models.errors import ModelInvalid, one_line

if TYPE_CHECKING:
    from scanfleet.models.adapters.card import AdapterCard

FILE, METRIC = "likeness.safetensors", "likeness"
MIN_IMAGES = 30  # fewer say nothing about a tail
MAX_IMAGES = 512  # kept as neighbours
MAX_DIRECTIONS = 64
FOLDS = 10
SHRUNK = 0.1  # share of the mean variance that is added to each direction's: few images underestimate the small ones
LEVEL = 0.01  # of images like those of the calibration, the share that counts as unlike

Vectors = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Likeness:
    """centre, scale `[features]`; directions `[features, k]`, whose product with a scaled image is white.

    neighbours: `[images, k + 1]`, the white calibration images with the rest of each in its last column, in units of
    `rest`. distances: `[images]`, of each to the nearest of the other folds, sorted.
    """

    centre: Vectors
    scale: Vectors
    directions: Vectors
    rest: Vectors
    neighbours: Vectors
    distances: Vectors
    sha256: str = ""

    @property
    def n(self) -> int:
        return len(self.distances)

    @property
    def limit(self) -> float:
        """The `unlike` above which an image is unlike: at most LEVEL of images of the same kind are, or 1 / (n + 1)."""
        beyond = max(1, int(LEVEL * (self.n + 1)))
        return (self.n - beyond + 0.5) / (self.n + 1)

    def unlike(self, features: Vectors) -> list[float]:
        """Return the share of the calibration images that lie nearer, in [0, 1). features: `[images, features]`."""
        nearer = np.searchsorted(self.distances, _nearest(self._white(features), self.neighbours), side="left")
        return [float(share) for share in nearer / (self.n + 1)]

    def _white(self, features: Vectors) -> Vectors:
        scaled = (features - self.centre) / self.scale
        inside = scaled @ self.directions
        return np.column_stack([inside, np.linalg.norm(scaled, axis=1) / self.rest]).astype(np.float32)

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the file, and return what the card's metrics say about it."""
        names = ("centre", "scale", "directions", "rest", "neighbours", "distances")
        data = save({name: np.ascontiguousarray(getattr(self, name), np.float32) for name in names})
        (folder / FILE).write_bytes(data)
        return {"sha256": hashlib.sha256(data).hexdigest(), "n": self.n}


def fitted(features: Sequence[Vectors], clusters: Sequence[str]) -> Likeness | None:
    """Return the summary of calibration images; None for fewer than MIN_IMAGES.

    Args:
        features: Each `[features]`.
        clusters: Name shared by look-alikes; the first of each counts.
    """
    first = dict(zip(reversed(clusters), reversed(features), strict=True))
    kept = [first[name] for name in dict.fromkeys(clusters)]
    kept = [kept[at] for at in np.unique(np.linspace(0, len(kept) - 1, MAX_IMAGES).astype(int))] if kept else []
    if len(kept) < MIN_IMAGES:
        return None
    images = np.stack(kept).astype(np.float32)
    folds = np.arange(len(images)) % FOLDS
    distances = np.empty(len(images), np.float32)
    for fold in range(FOLDS):
        others = _fit(images[folds != fold])
        distances[folds == fold] = _nearest(others._white(images[folds == fold]), others.neighbours)
    found = _fit(images)
    return Likeness(**{**vars(found), "distances": np.sort(distances)})


def _fit(images: Vectors) -> Likeness:
    centre, scale = images.mean(0), images.std(0) + 1e-6
    scaled = (images - centre) / scale
    _, singular, directions = np.linalg.svd(scaled, full_matrices=False)
    k = min(MAX_DIRECTIONS, len(images) // 2, directions.shape[0])
    variance = singular[:k] ** 2 / len(images)
    white = directions[:k].T / np.sqrt(variance + SHRUNK)
    found = Likeness(
        centre=centre,
        scale=scale,
        directions=white.astype(np.float32),
        rest=np.array([np.linalg.norm(scaled, axis=1).std() + 1e-6], np.float32),
        neighbours=np.empty((0, 0), np.float32),
        distances=np.empty(0, np.float32),
    )
    return Likeness(**{**vars(found), "neighbours": found._white(images)})


def _nearest(images: Vectors, neighbours: Vectors) -> Vectors:
    """Return the distance of each row to the nearest neighbour."""
    squares = (images**2).sum(1)[:, None] + (neighbours**2).sum(1) - 2 * images @ neighbours.T
    found: Vectors = np.sqrt(np.maximum(squares.min(1), 0.0))
    return found


def digest_in(metrics: Mapping[str, Any]) -> str | None:
    """Return the digest of the summary that a card's metrics name; None: the adapter has none."""
    told = metrics.get(METRIC)
    return str(told.get("sha256")) if isinstance(told, Mapping) else None


def read_likeness(folder: Path, card: AdapterCard, *, features: int) -> Likeness | None:
    """Return the summary beside a card; None if the card names none: adapters of earlier releases have none.

    Args:
        folder: The adapter's folder.
        card: Its card.
        features: Width of the language model.

    Raises:
        ModelInvalid, ModelUnavailable: The file is missing, not the one that the card names, or for another model.
    """
    told = digest_in(card.metrics)
    if told is None:
        return None
    path = folder / FILE
    data = read_file(path)
    digest = hashlib.sha256(data).hexdigest()
    if digest != told:
        raise ModelInvalid(f"{path} is not the file that the card names: restore it")
    try:
        found = Likeness(**load(data), sha256=digest)
    except (SafetensorError, TypeError) as error:
        raise ModelInvalid(f"{path}: {one_line(error)}") from error
    if found.centre.shape != (features,) or found.neighbours.shape != (found.n, found.directions.shape[-1] + 1):
        raise ModelInvalid(f"{path} is for another model: restore it")
    return found
