"""Wraps the objects of the model library, and maps their errors to those that the fleet handles.

Out of memory and a broken device are distinguished from bugs. An unsuitable image is a failure of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from PIL import Image

from scanfleet.errors import BadSettings, DeviceUnavailable, ImageError, UnknownModel
from scanfleet.models.errors import ImageUnsuitable, ModelInvalid, ModelUnavailable, ModelUnknown
from scanfleet.models.types import (
    Detail,
    FoundBoxes,
    ModelIdentity,
    Pointed,
    Prepared,
    Question,
    Reading,
    Resized,
    Written,
)
from scanfleet.worker.errors import DeviceBroken, OutOfDeviceMemory


@contextmanager
def naming_model() -> Iterator[None]:
    """Map the library's errors about the setting `model`. Raises UnknownModel, BadSettings, DeviceUnavailable."""
    try:
        yield
    except ModelUnknown as error:
        raise UnknownModel(f"model: {error}") from error
    except ModelInvalid as error:
        raise BadSettings(f"model: {error}") from error
    except ModelUnavailable as error:
        raise DeviceUnavailable(f"model: {error}") from error


class MappedScorer:
    """A scorer on torch with mapped errors."""

    def __init__(self, scorer: Any) -> None:
        self._scorer = scorer

    @property
    def mapped(self) -> Any:
        """The scorer itself."""
        return self._scorer

    @property
    def question(self) -> Question:
        return cast("Question", self._scorer.question)

    @property
    def identity(self) -> ModelIdentity:
        return cast("ModelIdentity", self._scorer.identity)

    @property
    def detail(self) -> Detail | None:
        return cast("Detail | None", self._scorer.detail)

    def prepare(self, image: Image.Image | Resized) -> Prepared:
        with _unsuitable():
            return cast("Prepared", self._scorer.prepare(image))

    def score(self, prepared: Sequence[Prepared]) -> list[Reading]:
        with _mapped(len(prepared)):
            return cast("list[Reading]", self._scorer.score(prepared))


class MappedSeveral:
    """A scorer of several questions with mapped errors."""

    def __init__(self, together: Any) -> None:
        self._together = together

    def score(self, prepared: Sequence[Prepared]) -> list[list[Reading]]:
        with _mapped(len(prepared)):
            return cast("list[list[Reading]]", self._together.score(prepared))


class MappedFinder:
    """A finder on torch with mapped errors."""

    def __init__(self, finder: Any) -> None:
        self._finder = finder

    def job(self, prepared: Prepared) -> Prepared:
        return cast("Prepared", self._finder.job(prepared))

    def find(self, jobs: Sequence[Prepared], *, heartbeat: Callable[[], None]) -> list[FoundBoxes]:
        with _mapped(len(jobs)):
            return cast("list[FoundBoxes]", self._finder.find(jobs, heartbeat=heartbeat))


class MappedExplainer:
    """An explainer on torch with mapped errors."""

    def __init__(self, explainer: Any) -> None:
        self._explainer = explainer

    def job(self, prepared: Prepared, reading: Reading) -> Prepared:
        return cast("Prepared", self._explainer.job(prepared, reading))

    def explain(self, jobs: Sequence[Prepared], *, heartbeat: Callable[[], None]) -> list[Written]:
        with _mapped(len(jobs)):
            return cast("list[Written]", self._explainer.explain(jobs, heartbeat=heartbeat))


class MappedCropReader:
    """A crop reader on torch with mapped errors."""

    def __init__(self, crop_reader: Any) -> None:
        self._crop_reader = crop_reader

    @property
    def pointed(self) -> bool:
        return cast("bool", self._crop_reader.pointed)

    @property
    def views_detail(self) -> Detail | None:
        return cast("Detail | None", self._crop_reader.views_detail)

    def views(self, image: Image.Image, first: Reading) -> Prepared:
        with _unsuitable():
            return cast("Prepared", self._crop_reader.views(image, first))

    def point(self, views: Sequence[Prepared]) -> list[Pointed]:
        with _mapped(len(views)):
            return cast("list[Pointed]", self._crop_reader.point(views))

    def rows(self, image: Image.Image, pointed: Pointed | None) -> Sequence[Prepared]:
        with _unsuitable():
            return cast("Sequence[Prepared]", self._crop_reader.rows(image, pointed))

    def fuse(self, first: Reading, second: Sequence[Reading]) -> Reading:
        return cast("Reading", self._crop_reader.fuse(first, second))


@contextmanager
def _unsuitable() -> Iterator[None]:
    try:
        yield
    except ImageUnsuitable as error:
        raise ImageError(stage="prepare", reason="unsuitable", detail=str(error)) from error


@contextmanager
def _mapped(n_images: int) -> Iterator[None]:
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfDeviceMemory(f"the device has not enough memory for {n_images} image(s) at once") from error
    except torch.AcceleratorError as error:
        # After such an error every further call in this process fails: the process must be restarted.
        raise DeviceBroken(f"the device failed: {str(error).splitlines()[0]}") from error
    except ModelUnavailable as error:
        raise DeviceUnavailable(str(error)) from error
