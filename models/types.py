"""The values that cross the border of the model library, and the protocols that scorers, finders and crop readers obey.

Nothing here knows queues, databases, settings or object stores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

NEXT = "next"  # in place of a label: the answer leads to the next step
Order = Literal["image-first", "instruction-first"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One of several prompts that the model reads in turn."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "strict": True}

    prompt: str
    answers: tuple[tuple[str, str], ...]  # (answer, label or NEXT), in menu order


@dataclass(frozen=True, kw_only=True)
class Question:
    """The question about every image: the model-side half of a check.

    The letter menu ("A) overlay ...") is appended to the prompt by `models.inputs.prompts`. With `steps` the model
    reads their prompts instead (`models.scoring.sequential`).

    Attributes:
        name: Name of the question, for messages.
        prompt: The instruction.
        labels: The K answers in a fixed order.
        flags: The labels that raise a flag. Empty: a plain classification, whose margin compares the best label with
            all others.
        descriptions: Label -> its wording in the menu.
        max_pixels: Pixel budget of one image after resizing.
        min_pixels: Fewest pixels of one image after resizing; None: as the checkpoint's own image processor, or as the
            adapter was trained with.
        steps: Two or more steps; an answer of the last one leads to a label. Empty: one prompt.
        order: What the model reads first. None: as the adapter was trained or, without one, as the base was.

    Raises:
        ValueError: The labels, flags and steps contradict each other.
    """

    # An unknown field might change the question.
    __pydantic_config__: ClassVar = {"extra": "forbid", "strict": True}

    name: str
    prompt: str
    labels: tuple[str, ...]
    flags: frozenset[str]
    descriptions: Mapping[str, str] = field(default_factory=dict)
    max_pixels: int = 448 * 448
    min_pixels: int | None = None
    steps: tuple[Step, ...] = ()
    order: Order | None = None

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
            raise ValueError(f"question {self.name!r}: its steps must lead to all of its labels and nothing else")

    @property
    def image_first(self) -> bool:
        """Whether the image stands before the instruction; where nothing is said, it does not."""
        return self.order == "image-first"

    def as_read(self) -> Question:
        """Return the question without its name, and with every line of its menu: equal ones read alike to the model.

        A label without a description, or with an empty one, is its own line (`models.inputs.prompts.instruction`).
        """
        menu = {label: self.descriptions.get(label) or label for label in self.labels}
        return replace(self, name="", descriptions=menu)


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

    Attributes:
        margin: logsumexp over the flagging labels minus logsumexp over the others, in logits. Without flagging labels:
            best label minus logsumexp over the rest.
        logits: `[labels]`, in the question's order; each is the logsumexp over the label's token spellings.
        mass: Probability in [0, 1] that the next token is any label token at all. Below 0.9 the prompt or adapter is
            suspect.
        visual_tokens: Number of image tokens that the language model read.
        attention: `[visual tokens]` float32, paid by the answer position. None unless the scorer records it.
        features: `[features]` float32, the mean of the visual tokens. None unless the scorer keeps it.
        unlike: Share of the adapter's calibration images that the image is more unlike to them than, in [0, 1). None:
            unknown, as for the base alone.
        is_unlike: Whether that is more than all but a hundredth of such images have.
    """

    margin: float
    logits: tuple[float, ...]
    mass: float
    visual_tokens: int
    attention: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
    features: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
    unlike: float | None = None
    is_unlike: bool = False


@dataclass(frozen=True, kw_only=True)
class FoundBoxes:
    """The boxes that the model reports for one image."""

    boxes: tuple[Box, ...]
    problems: tuple[str, ...]  # one line for each part of the answer that could not be trusted
    size: tuple[int, int]  # (width, height) in pixels of the image that the boxes refer to


@dataclass(frozen=True, kw_only=True)
class Written:
    """What the model writes about an image: untrusted, an image can dictate it."""

    text: str
    cut: bool  # it was cut off at the most tokens


@dataclass(frozen=True, kw_only=True)
class ModelIdentity:
    """The weights behind a margin, as a scorer row records them."""

    base_model: str  # hub id, or the name of a built-in model, or a folder's path, or endpoint:NAME
    revision: str  # hub commit, or "sha256:..." over the files of a local folder
    precision: str  # fp32 | bf16 | nf4 | int8 | remote
    adapter_sha256: str | None  # None: the base model alone


class Resizing(NamedTuple):
    """How `prepare` resizes: sides are multiples of `unit`, and the pixels lie between `least` and `most`.

    strict: where enlarging rounds up beyond `most`, the size is chosen again. resample: number of Pillow's filter.
    """

    unit: int
    least: int
    most: int
    strict: bool
    resample: int


@dataclass(frozen=True, kw_only=True)
class Detail:
    """The smallest decoded size at which the model loses nothing, in pixels.

    resizing: `prepare` does no more than this, and takes a `Resized`; None: it takes a whole image alone.
    """

    pixels: int
    short_side: int
    resizing: Resizing | None = None


@dataclass(frozen=True, kw_only=True)
class Resized:
    """An image that was resized where it was decoded, as a `Resizing` says."""

    rgb: bytearray  # 8 bits, row by row
    size: tuple[int, int]  # (width, height)
    original_size: tuple[int, int]  # before it was resized


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
        """The image size that `prepare` needs; None: all pixels."""
        ...

    def prepare(self, image: Image.Image | Resized) -> Prepared:
        """Resize and normalise one RGB image; a `Resized` only where `detail` says how.

        CPU only; many threads may call it at once.

        Raises:
            ImageUnsuitable: The model cannot take this image.
        """
        ...

    def score(self, prepared: Sequence[Prepared]) -> list[Reading]:
        """Run one forward over prepared images.

        Returns one reading per image, in their order; the same image gives the same margin whatever its neighbours.
        """
        ...


class SeveralScorer(Protocol):
    """Scores images against several questions in one pass; belongs to the device thread."""

    def score(self, prepared: Sequence[Prepared]) -> list[list[Reading]]:
        """Read the images once; for each question, one reading per image, equal to those of its own scorer."""
        ...


class Finder(Protocol):
    """Locates the flagging labels of a question in an image; belongs to the device thread."""

    def job(self, prepared: Prepared) -> Prepared:
        """Return the image, as its scorer prepared it, with the cost of finding."""
        ...

    def find(self, jobs: Sequence[Prepared], *, heartbeat: Callable[[], None]) -> list[FoundBoxes]:
        """Locate the labels in each image; one answer per image, in their order, the same whatever its neighbours.

        `heartbeat` is called between steps, since this may take long.
        """
        ...


class Explainer(Protocol):
    """Writes why an image is flagged; belongs to the device thread."""

    def job(self, prepared: Prepared, reading: Reading) -> Prepared:
        """Return the image, as its scorer prepared it, with what is to be explained and the cost of that."""
        ...

    def explain(self, jobs: Sequence[Prepared], *, heartbeat: Callable[[], None]) -> list[Written]:
        """Explain each image's flag; one text per image, in their order, the same whatever its neighbours.

        `heartbeat` is called between steps, since this may take long.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Pointed:
    """The region that a crop pass reads.

    Attributes:
        corners: (x0, y0, x1, y1) in pixels of the searched image; None: no region, for the reason in `why_not`.
        sharpness: How far the relevance map stands out in the region.
        tokens: Prefill tokens that the search cost beyond the first pass.
    """

    corners: tuple[int, int, int, int] | None
    size: tuple[int, int]  # (width, height) of the searched image
    sharpness: float = 0.0
    why_not: str = ""
    tokens: int = 0


class CropReader(Protocol):
    """Runs a crop pass over images that a scorer has read. All of it but `point` is host work, for any thread."""

    @property
    def pointed(self) -> bool:
        """Whether the crop mode needs a region first, so that `views` and `point` must be called."""
        ...

    @property
    def views_detail(self) -> Detail | None:
        """The image size that `views` needs; None: all pixels. `rows` always needs all of them."""
        ...

    def views(self, image: Image.Image, first: Reading) -> Prepared:
        """Return the image in which `point` searches for the region; its visual tokens are the cost of the search."""
        ...

    def point(self, views: Sequence[Prepared]) -> list[Pointed]:
        """Find the region of each image, in their order and whatever the neighbours. Belongs to the device thread."""
        ...

    def rows(self, image: Image.Image, pointed: Pointed | None) -> Sequence[Prepared]:
        """Return the rows that the scorer's `score` reads in the crop pass.

        Args:
            image: The original image in RGB.
            pointed: The answer of `point` for this image; None where the crop mode needs no region.

        Returns:
            Prepared rows; none where no region was found.
        """
        ...

    def fuse(self, first: Reading, second: Sequence[Reading]) -> Reading:
        """Combine the readings of the first pass and the crop pass; visual tokens are summed over both."""
        ...
