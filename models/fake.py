"""A scorer without a model: the peer of PrefillScorer for everything that is tested around scoring.

Deterministic: an image's margin is a hash of its pixels and of the question, so equal images get equal
margins, alone or in any batch, in any process. Imports no torch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from models.crops.fusion import fused
from models.crops.policy import Fuse
from models.scoring.margin import margin_of
from models.types import Box, Detail, FoundBoxes, ModelIdentity, Pointed, Question, Reading


@dataclass(frozen=True, kw_only=True)
class FakePrepared:
    """An image reduced to its digest; `visual_tokens` as a 28-pixel grid would have.

    resized_size: (width, height) in pixels that its budget allows.
    """

    digest: bytes
    visual_tokens: int
    resized_size: tuple[int, int] = (1, 1)


class FakeScorer:
    """Implements `models.types.Scorer`. Margins spread over about -6 … 6.

    calls: the size of every batch that `score` was given, for tests of packing.
    """

    def __init__(self, *, question: Question, identity: ModelIdentity | None = None, mass: float = 0.99) -> None:
        self._question = question
        self._identity = identity or ModelIdentity(
            base_model="fake", revision="1", precision="fp32", adapter_sha256=None
        )
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
        """Every pixel goes into the hash."""
        return None

    def prepare(self, image: Image.Image) -> FakePrepared:
        digest = hashlib.sha256(self._question.name.encode())
        digest.update(f"{image.mode}{image.size}".encode())
        digest.update(image.tobytes())
        pixels = min(image.width * image.height, self._question.max_pixels)
        shrink = math.sqrt(image.width * image.height / pixels)
        size = (max(1, round(image.width / shrink)), max(1, round(image.height / shrink)))
        return FakePrepared(digest=digest.digest(), visual_tokens=max(1, pixels // 28**2), resized_size=size)

    def score(self, prepared: Sequence[FakePrepared]) -> list[Reading]:
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
    """Implements `models.types.Finder`: one box an image, of the first flagging label, where its digest says.

    calls: the size of every batch that `find` was given.
    """

    def __init__(self, *, question: Question) -> None:
        self._label = next(label for label in question.labels if label in question.flags)
        self.calls: list[int] = []

    def job(self, prepared: FakePrepared) -> FakePrepared:
        return prepared

    def find(self, jobs: Sequence[FakePrepared], *, heartbeat: Callable[[], None] = lambda: None) -> list[FoundBoxes]:
        self.calls.append(len(jobs))
        heartbeat()
        return [self._find(job) for job in jobs]

    def _find(self, job: FakePrepared) -> FoundBoxes:
        x, y = (byte / 512 for byte in job.digest[:2])  # the left upper half, in shares of the image
        box = Box(x0=x, y0=y, x1=x + 0.25, y1=y + 0.25, label=self._label)
        return FoundBoxes(boxes=(box,), problems=(), size=(1, 1))


@dataclass(frozen=True, kw_only=True)
class FakeViews:
    """An image reduced to its digest and its (width, height)."""

    digest: bytes
    size: tuple[int, int]
    visual_tokens: int


class FakeCropReader:
    """Implements `models.types.CropReader`: an image and a quarter of it, which its digest names, in one row.

    pointed: whether the quarter has to be found first; if not, a row is the whole image once more. diffuse: the share
    of images where nothing is found. cost: prefill tokens of finding it. calls: the size of every batch that `point`
    was given.
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
        return FakeViews(digest=self._scorer.prepare(image).digest, size=image.size, visual_tokens=max(1, self._cost))

    def point(self, views: Sequence[FakeViews]) -> list[Pointed]:
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
        """None where `point` found nothing."""
        if pointed is None:
            return [self._scorer.prepare(image)]
        if pointed.corners is None:
            return []
        across, down = (own / seen for own, seen in zip(image.size, pointed.size, strict=True))
        x0, y0, x1, y1 = pointed.corners
        quarter = image.crop((round(x0 * across), round(y0 * down), round(x1 * across), round(y1 * down)))
        looks = [self._scorer.prepare(image), self._scorer.prepare(quarter)]
        digest = hashlib.sha256(b"".join(look.digest for look in looks)).digest()
        return [FakePrepared(digest=digest, visual_tokens=sum(look.visual_tokens for look in looks))]

    def fuse(self, first: Reading, second: Sequence[Reading]) -> Reading:
        return fused(first, second, how=self._fuse, question=self._scorer.question)


def _logit(digest: bytes, label: str) -> float:
    number = int.from_bytes(hashlib.sha256(digest + label.encode()).digest()[:4], "big")
    return 6.0 * number / 2**32 - 3.0
