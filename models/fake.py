"""Scorer, finder, explainer and crop reader without a model, for tests of everything around scoring.

They are deterministic: an image's margin is a hash of its pixels and of the question. Equal images get equal margins,
alone or in any batch, in any process. Imports no torch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from scanfleet.models.crops.fusion import fused
from scanfleet.models.crops.policy import Fuse
from scanfleet.models.scoring.margin import margin_of
from scanfleet.models.types import Box, Detail, FoundBoxes, ModelIdentity, Pointed, Question, Reading, Written


@dataclass(frozen=True, kw_only=True)
class FakePrepared:
    """An image reduced to its digest.

    Attributes:
        digest: SHA-256 over question and pixels.
        visual_tokens: As many as a 28-pixel grid has.
        resized_size: (width, height) in pixels, within the question's budget.
    """

    digest: bytes
    visual_tokens: int
    resized_size: tuple[int, int] = (1, 1)


def fake_identity(name: str) -> ModelIdentity:
    """Return the identity of a fake model of this name."""
    return ModelIdentity(base_model=name, revision="1", precision="fp32", adapter_sha256=None)


class FakeScorer:
    """Implements `models.types.Scorer`. Margins spread over about -6 … 6, and fakes of other names give others.

    Attributes:
        calls: The size of every batch given to `score`, for tests of packing.
    """

    def __init__(self, *, question: Question, identity: ModelIdentity | None = None, mass: float = 0.99) -> None:
        self._question = question
        self._identity = identity or fake_identity("fake")
        self._mass = mass
        self.calls: list[int] = []

    @property
    def question(self) -> Question:
        return self._question

    @property
    def identity(self) -> ModelIdentity:
        return self._identity

    @property
    def detail(self) -> Detail | None:
        """None: every pixel goes into the hash."""
        return None

    def prepare(self, image: Image.Image) -> FakePrepared:
        """Hash the image and count its tokens within the question's pixel budget."""
        other = self._identity.base_model.removeprefix("fake")
        digest = hashlib.sha256(f"{self._question.name}{other}".encode())
        digest.update(f"{image.mode}{image.size}".encode())
        digest.update(image.tobytes())
        pixels = min(image.width * image.height, self._question.max_pixels)
        shrink = math.sqrt(image.width * image.height / pixels)
        size = (max(1, round(image.width / shrink)), max(1, round(image.height / shrink)))
        return FakePrepared(digest=digest.digest(), visual_tokens=max(1, pixels // 28**2), resized_size=size)

    def score(self, prepared: Sequence[FakePrepared]) -> list[Reading]:
        """Return one reading per image, in their order."""
        self.calls.append(len(prepared))
        return [self._read(image) for image in prepared]

    def _read(self, image: FakePrepared) -> Reading:
        labels = self._question.labels
        logits = tuple(_logit(image.digest, label) for label in labels)
        return Reading(
            margin=margin_of(logits, labels, self._question.flags),
            logits=logits,
            mass=self._mass,
            visual_tokens=image.visual_tokens,
        )


class FakeFinder:
    """Implements `models.types.Finder`: one box per image, of the first flagging label, placed by the digest.

    Attributes:
        calls: The size of every batch given to `find`.
    """

    def __init__(self, *, question: Question) -> None:
        self._label = next(label for label in question.labels if label in question.flags)
        self.calls: list[int] = []

    def job(self, prepared: FakePrepared) -> FakePrepared:
        return prepared

    def find(self, jobs: Sequence[FakePrepared], *, heartbeat: Callable[[], None] = lambda: None) -> list[FoundBoxes]:
        """Return one box per image, in their order; calls `heartbeat` once."""
        self.calls.append(len(jobs))
        heartbeat()
        return [self._find(job) for job in jobs]

    def _find(self, job: FakePrepared) -> FoundBoxes:
        x, y = (byte / 512 for byte in job.digest[:2])  # in the upper left quarter, as shares of the image
        box = Box(x0=x, y0=y, x1=x + 0.25, y1=y + 0.25, label=self._label)
        return FoundBoxes(boxes=(box,), problems=(), size=(1, 1))


class FakeExplainer:
    """Implements `models.types.Explainer`: a sentence with the image's digest.

    Attributes:
        calls: The size of every batch given to `explain`.
    """

    def __init__(self) -> None:
        self.calls: list[int] = []

    def job(self, prepared: FakePrepared, reading: Reading) -> FakePrepared:
        return prepared

    def explain(self, jobs: Sequence[FakePrepared], *, heartbeat: Callable[[], None] = lambda: None) -> list[Written]:
        """Return one text per image, in their order; calls `heartbeat` once."""
        self.calls.append(len(jobs))
        heartbeat()
        return [Written(text=f"The picture reads {job.digest.hex()[:8]}.", cut=False) for job in jobs]


@dataclass(frozen=True, kw_only=True)
class FakeViews:
    """An image reduced to its digest and its (width, height) in pixels."""

    digest: bytes
    size: tuple[int, int]
    visual_tokens: int


class FakeCropReader:
    """Implements `models.types.CropReader`: the row is the image with a quarter of it, chosen by its digest.

    Args:
        scorer: The scorer whose readings it refines.
        pointed: Whether the quarter must be found first. If not, the row is the whole image once more.
        fuse: How both readings are combined.
        diffuse: Share in [0, 1] of the images in which no region is found.
        cost: Prefill tokens of the search.

    Attributes:
        calls: The size of every batch given to `point`.
    """

    def __init__(
        self, *, scorer: FakeScorer, pointed: bool = True, fuse: Fuse = "mean", diffuse: float = 0.0, cost: int = 0
    ) -> None:
        self._scorer = scorer
        self._pointed = pointed
        self._fuse: Fuse = fuse
        self._diffuse = diffuse
        self._cost = cost
        self.calls: list[int] = []

    @property
    def pointed(self) -> bool:
        return self._pointed

    @property
    def views_detail(self) -> Detail | None:
        return self._scorer.detail

    def views(self, image: Image.Image, first: Reading) -> FakeViews:
        """Return the image's digest and size."""
        return FakeViews(digest=self._scorer.prepare(image).digest, size=image.size, visual_tokens=max(1, self._cost))

    def point(self, views: Sequence[FakeViews]) -> list[Pointed]:
        """Return one region per image, in their order."""
        self.calls.append(len(views))
        return [self._point(view) for view in views]

    def _point(self, view: FakeViews) -> Pointed:
        if view.digest[2] < 256 * self._diffuse:
            return Pointed(corners=None, size=view.size, why_not="diffuse", tokens=self._cost)
        width, height = view.size
        x, y = (byte * (side // 2) // 255 for byte, side in zip(view.digest, view.size, strict=False))
        corners = (x, y, x + max(1, width // 2), y + max(1, height // 2))
        return Pointed(corners=corners, size=view.size, sharpness=view.digest[3] / 255, tokens=self._cost)

    def rows(self, image: Image.Image, pointed: Pointed | None) -> list[FakePrepared]:
        """Return the row of the crop pass; none where `point` found no region."""
        if pointed is None:
            return [self._scorer.prepare(image)]
        if pointed.corners is None:
            return []
        across, down = (own / seen for own, seen in zip(image.size, pointed.size, strict=True))
        x0, y0, x1, y1 = pointed.corners
        quarter = image.crop((round(x0 * across), round(y0 * down), round(x1 * across), round(y1 * down)))
        parts = [self._scorer.prepare(image), self._scorer.prepare(quarter)]
        digest = hashlib.sha256(b"".join(part.digest for part in parts)).digest()
        return [FakePrepared(digest=digest, visual_tokens=sum(part.visual_tokens for part in parts))]

    def fuse(self, first: Reading, second: Sequence[Reading]) -> Reading:
        """Combine both readings as the real reader does."""
        return fused(first, second, how=self._fuse, question=self._scorer.question)


def _logit(digest: bytes, label: str) -> float:
    number = int.from_bytes(hashlib.sha256(digest + label.encode()).digest()[:4], "big")
    return 6.0 * number / 2**32 - 3.0
