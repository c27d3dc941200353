"""Readings of labelled or unlabelled images, scored in packs of similar size; one window is in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Protocol

from PIL import Image

from scanfleet.errors import ImageError
from scanfleet.models.errors import ImageUnsuitable
from scanfleet.models.types import Prepared, Reading, Scorer
from scanfleet.worker.device.packing import pack
from scanfleet.worker.device.probe import UNPROBED_TOKENS

WINDOW = 64  # images that are in memory at once
Watch = Callable[[int, int], None]  # (images done, images in all); raises to stop


class Picture(Protocol):
    """An image file that can be opened; `models.training.data.types.Example` is one."""

    @property
    def key(self) -> str: ...
    @property
    def path(self) -> Path: ...
    @property
    def open(self) -> Callable[[Path], Image.Image]: ...


@dataclass(frozen=True, kw_only=True)
class Read:
    """readings: by key. sizes: (width, height) in pixels. left_out: key -> reason."""

    readings: Mapping[str, Reading]
    sizes: Mapping[str, tuple[int, int]]
    left_out: Mapping[str, str] = field(default_factory=dict)


def read_images(
    scorer: Scorer, pictures: Sequence[Picture], *, token_budget: int = UNPROBED_TOKENS, watch: Watch | None = None
) -> Read:
    """Score each image once. Raises DeviceUnavailable and what the device raises; failures of images are collected."""
    stream = iter(pictures)
    readings: dict[str, Reading] = {}
    sizes: dict[str, tuple[int, int]] = {}
    left_out: dict[str, str] = {}
    while window := list(islice(stream, WINDOW)):
        prepared: dict[str, Prepared] = {}
        for picture in window:
            try:
                sizes[picture.key], prepared[picture.key] = prepare(scorer, picture)
            except (ImageError, ImageUnsuitable) as error:
                left_out[picture.key] = str(error)
        for keys in packs(prepared, token_budget=token_budget):
            found = scorer.score([prepared[key] for key in keys])
            readings |= zip(keys, found, strict=True)
            if watch is not None:
                watch(len(readings) + len(left_out), len(pictures))
    return Read(readings=readings, sizes=sizes, left_out=left_out)


def prepare(scorer: Scorer, picture: Picture) -> tuple[tuple[int, int], Prepared]:
    """((width, height), the image ready for the device). Raises ImageError, ImageUnsuitable."""
    try:
        with picture.open(picture.path) as image:
            return image.size, scorer.prepare(image.convert("RGB"))
    except OSError as error:
        raise ImageError(stage="decode", reason="truncated", detail=f"{picture.path.name}: {error}") from error


def packs(prepared: Mapping[str, Prepared], *, token_budget: int) -> Iterator[list[str]]:
    """Keys of images that are scored in one forward."""
    remaining = list(prepared)
    while remaining:
        taken = pack([prepared[key].visual_tokens for key in remaining], budget=token_budget)
        yield [remaining[at] for at in taken]
        chosen = set(taken)
        remaining = [key for at, key in enumerate(remaining) if at not in chosen]
