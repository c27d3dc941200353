"""The values that cross the border of the model library, and the protocol every scorer obeys.

Knows nothing of queues, databases, settings or object stores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

NEXT = "next"  # where an answer leads that is no label yet


@dataclass(frozen=True, kw_only=True)
class Step:
    """One of several questions asked in turn. answers: in the order of the menu, each with its label, or NEXT."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "strict": True}

    prompt: str
    answers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of every image: the model-side half of a check.

    `labels` are the K answers in a fixed order; `flags` is the subset that raises a flag (empty: a plain
    classification, whose margin is the best label against all others).
    `prompt` is the instruction; the letter menu ("A) overlay ...") is appended by `models.inputs.prompts`.
    With `steps` the model reads their prompts instead (`models.scoring.sequential`).
    """

    __pydantic_config__: ClassVar = {
        "extra": "forbid",
        "strict": True,
    }  # a field we do not know may change the question

    name: str
    prompt: str
    labels: tuple[str, ...]
    flags: frozenset[str]
    descriptions: Mapping[str, str] = field(default_factory=dict)  # label -> words shown in the menu
    max_pixels: int = 448 * 448  # pixel budget after resizing, per image
    min_pixels: int = 64 * 64
    steps: tuple[Step, ...] = ()  # two or more; an answer of the last one leads to a label

    def __post_init__(self) -> None:
        if len(self.labels) < 2:
            raise ValueError(f"question {self.name!r} needs at least two labels")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"question {self.name!r} names a label twice")
        unknown = self.flags - set(self.labels)
        if unknown or self.flags == set(self.labels):
            raise ValueError(f"question {self.name!r}: flags must be some, not all, of its labels")
        ends = {to for step in self.steps for _, to in step.answers} - {NEXT}
        if self.steps and ends != set(self.labels):
            raise ValueError(f"question {self.name!r}: its steps must lead to its labels, to each of them")


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle in pixels of the original image: x0, y0 inclusive, x1, y1 exclusive (xyxy)."""

    x0: float
    y0: float
    x1: float
    y1: float
    label: str
    score: float | None = None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The raw outcome of one prefill for one image; nothing in it is calibrated.

    margin: logsumexp over flagging labels minus logsumexp over the others, in logits
        (without flagging labels: best label minus logsumexp over the rest).
    logits: one value per label (logsumexp over the label's token spellings), in the question's order. mass:
    probability that the next token is any label token at all; below 0.9 the prompt or adapter is suspect.
    visual_tokens: number of image tokens the language model read. attention: (visual tokens,) of the answer position,
    where the scorer was made to record it.
    """

    margin: float
    logits: tuple[float, ...]
    mass: float
    visual_tokens: int
    attention: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class FoundBoxes:
    """Where the model says that something is. size: (width, height) of the image whose pixels the boxes count in.

    problems: what of the answer could not be trusted, in one line each.
    """

    boxes: tuple[Box, ...]
    problems: tuple[str, ...]
    size: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class ModelIdentity:
    """What a scorer row must say about the weights so that a margin can be traced."""

    base_model: str  # hub id, or the name of a built-in model, or a folder's path, or endpoint:NAME
    revision: str  # hub commit, or "sha256:..." over the files of a local folder
    precision: str  # fp32 | bf16 | nf4 | int8 | remote
    adapter_sha256: str | None  # None: the base model alone


@dataclass(frozen=True, kw_only=True)
class Detail:
    """How small an image may be decoded: with so many pixels in all and along its short side, nothing that the model
    could see is lost."""

    pixels: int
    short_side: int


class Prepared(Protocol):
    """One image made ready for the device (on the host); only its cost is public."""

    @property
    def visual_tokens(self) -> int: ...


class Scorer(Protocol):
    """Scores images against one question. `prepare` is thread-safe; `score` belongs to the device thread."""

    @property
    def question(self) -> Question: ...

    @property
    def identity(self) -> ModelIdentity: ...

    @property
    def detail(self) -> Detail | None:
        """What `prepare` needs of an image; None: all its pixels."""
        ...

    def prepare(self, image: Image.Image) -> Prepared:
        """Resize and normalise one RGB image. CPU only; may run in many threads."""
        ...

    def score(self, prepared: Sequence[Prepared]) -> list[Reading]:
        """One forward; the same image gives the same margin whatever its neighbours."""
        ...


class Finder(Protocol):
    """Says where the flagging labels of a question are to be seen; belongs to the device thread."""

    def job(self, prepared: Prepared) -> Prepared:
        """An image as its scorer prepared it, with what finding costs."""
        ...

    def find(self, jobs: Sequence[Prepared], *, heartbeat: Callable[[], None]) -> list[FoundBoxes]:
        """One answer an image, the same whatever its neighbours. Calls `heartbeat` between steps."""
        ...


@dataclass(frozen=True, kw_only=True)
class Pointed:
    """Where a second look is pointed: a rectangle (x0, y0, x1, y1) in pixels of the image that was looked through.

    corners None: nowhere, for the reason in why_not. size: (width, height) of that image. tokens: what it cost, in
    prefill tokens beyond the first look.
    """

    corners: tuple[int, int, int, int] | None
    size: tuple[int, int]
    sharpness: float = 0.0
    why_not: str = ""
    tokens: int = 0


class CropReader(Protocol):
    """Looks again at images that a scorer has answered. Everything but `point` is host work, for any thread."""

    @property
    def pointed(self) -> bool:
        """Whether a second look needs to be pointed somewhere first: `views` and `point` are to be called."""
        ...

    @property
    def views_detail(self) -> Detail | None:
        """What `views` needs of an image; None: all its pixels. `rows` always needs all of them."""
        ...

    def views(self, image: Image.Image, first: Reading) -> Prepared:
        """What is looked through for the region, with what that costs as its visual tokens."""
        ...

    def point(self, views: Sequence[Prepared]) -> list[Pointed]:
        """One answer an image, the same whatever its neighbours. Belongs to the device thread."""
        ...

    def rows(self, image: Image.Image, pointed: Pointed | None) -> Sequence[Prepared]:
        """What the scorer reads at the second look: rows for its `score`; `pointed` as `point` answered for it."""
        ...

    def fuse(self, first: Reading, second: Sequence[Reading]) -> Reading:
        """All looks at one image as one reading; its visual tokens are those of all looks."""
        ...
