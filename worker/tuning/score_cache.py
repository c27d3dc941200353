"""Reads images through the serving stack, each in one way at most once: what was read is kept, pixels are not.

First looks are kept by words and pixel budget, regions by what they depend on, second looks by both and by the budgets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

from PIL import Image

from models.crops.policy import CropPolicy
from models.errors import ImageUnsuitable, ModelInvalid
from models.inputs.wording import variant
from models.training.data.types import Example
from models.types import CropReader, Pointed, Prepared, Question, Reading, Scorer
from scanfleet.errors import BadLabels, ImageError
from worker.evaluation.readings import packs
from worker.scoring.crop_gate import Resized, shrink_of
from worker.scoring.model import Model
from worker.tuning.evaluate import Looked
from worker.tuning.search import Impossible
from worker.tuning.search_space import First

T = TypeVar("T")

WINDOW_IMAGES = 32  # whose pixels are in memory at once
WINDOW_PIXELS = 64_000_000  # likewise, in all; one larger image goes alone
ATTENTION_BYTES = 512 << 20  # of all first looks together
Watch = Callable[[int], None]  # so many more readings; raises to stop
Pointing = tuple[First, str, str, bool, tuple[int, ...]]  # what a region depends on


class ScoreCache:
    """Implements `worker.tuning.evaluate.Sight`. sizes: (width, height) of each example, in pixels.

    layers: whose attention the first looks keep, as `models.crops.policy` has it; the same in every policy. threads: of
    the host work on images.
    """

    def __init__(
        self,
        *,
        model: Model,
        question: Question,
        adapter: Path | None,
        examples: Sequence[Example],
        sizes: Sequence[tuple[int, int]],
        layers: tuple[int, ...],
        token_budget: int,
        watch: Watch,
        threads: int = 1,
        attention_bytes: int = ATTENTION_BYTES,
    ) -> None:
        self._model, self._question, self._adapter = model, question, adapter
        self._examples, self._sizes = examples, sizes
        self._layers, self._token_budget, self._watch = layers, token_budget, watch
        self._scorers: dict[First, Scorer] = {}
        self._threads = threads
        self._room = attention_bytes
        self._room_was_short = False
        self._crop_readers: dict[tuple[First, CropPolicy], CropReader] = {}
        self._firsts: dict[First, dict[int, Reading]] = {}
        self._pointed: dict[Pointing, dict[int, Pointed]] = {}
        self._seconds: dict[tuple[First, CropPolicy], dict[int, Looked]] = {}
        self._tokens: dict[tuple[First, tuple[int, int]], tuple[int, float]] = {}

    def first(self, first: First, images: Sequence[int]) -> list[Reading]:
        """Raises BadLabels for an image that the model cannot take."""
        known = self._firsts.setdefault(first, {})
        scorer = self._scorer(first)
        for window in self._windows([image for image in images if image not in known]):
            read = self._score_rows(scorer, self._each(partial(self._opened, first), window))
            known |= {image: self._kept(rows[0]) for image, rows in read.items()}
        return [known[image] for image in images]

    def _kept(self, reading: Reading) -> Reading:
        """With its attention, as long as there is room; without it is read once more where it is wanted."""
        if reading.attention is None:
            return reading
        if self._room < reading.attention.nbytes:
            self._room_was_short = True
            return replace(reading, attention=None)
        self._room -= reading.attention.nbytes
        return reading

    def second(self, first: First, policy: CropPolicy, images: Sequence[int]) -> list[Looked]:
        """Raises Impossible for a look that this model cannot take."""
        policy = replace(policy, fuse="mean")
        known = self._seconds.setdefault((first, policy), {})
        missing = [image for image in images if image not in known]
        if missing:
            crop_reader = self._crop_reader(first, policy)
            for window in self._windows(missing):
                known |= self._look(first, policy, crop_reader, window)
        return [known[image] for image in images]

    def first_tokens(self, first: First, images: Sequence[int]) -> float:
        return sum(self._cost(first, image)[0] for image in images) / len(images)

    def shrink(self, first: First, image: int) -> float:
        return self._cost(first, image)[1]

    def _look(
        self, first: First, policy: CropPolicy, crop_reader: CropReader, window: Sequence[int]
    ) -> dict[int, Looked]:
        pictures = self._each(self._open, window)
        try:
            pointed = self._point(first, policy, crop_reader, pictures) if crop_reader.pointed else {}
            rows = self._each(lambda image: _rows(crop_reader, pictures[image], pointed.get(image)), window)
        finally:
            for picture in pictures.values():
                picture.close()
        readings = self._score_rows(self._scorer(first), rows)
        return {
            image: Looked(rows=readings[image], tokens=pointed[image].tokens if image in pointed else 0)
            for image in window
        }

    def _point(
        self, first: First, policy: CropPolicy, crop_reader: CropReader, pictures: Mapping[int, Image.Image]
    ) -> dict[int, Pointed]:
        known = self._pointed.setdefault((first, policy.method, policy.reference, policy.tiled, policy.layers), {})
        missing = [image for image in pictures if image not in known]
        if missing:
            firsts = self._attentive(first, {image: pictures[image] for image in missing})
            seen = self._each(lambda image: crop_reader.views(pictures[image], firsts[image]), missing)
            views = {str(image): view for image, view in seen.items()}
            for keys in packs(views, token_budget=self._token_budget):
                found = crop_reader.point([views[key] for key in keys])
                known |= {int(key): at for key, at in zip(keys, found, strict=True)}
                self._watch(len(keys))
        return {image: known[image] for image in pictures}

    def _attentive(self, first: First, pictures: Mapping[int, Image.Image]) -> dict[int, Reading]:
        """First looks with the attention that was recorded, though there was no room to keep it."""
        readings = dict(zip(pictures, self.first(first, list(pictures)), strict=True))
        scorer = self._scorer(first)
        lost = [image for image, reading in readings.items() if reading.attention is None and self._room_was_short]
        if lost:
            prepared = {image: (self._prepare(first, pictures[image], image),) for image in lost}
            readings |= {image: rows[0] for image, rows in self._score_rows(scorer, prepared).items()}
        return readings

    def _score_rows(self, scorer: Scorer, rows: Mapping[int, Sequence[Prepared]]) -> dict[int, tuple[Reading, ...]]:
        every = {f"{image} {at}": row for image, own in rows.items() for at, row in enumerate(own)}
        found: dict[str, Reading] = {}
        for keys in packs(every, token_budget=self._token_budget):
            found |= zip(keys, scorer.score([every[key] for key in keys]), strict=True)
            self._watch(len(keys))
        return {image: tuple(found[f"{image} {at}"] for at in range(len(own))) for image, own in rows.items()}

    def _each(self, work: Callable[[int], T], images: Sequence[int]) -> dict[int, T]:
        """Host work on images, side by side."""
        with ThreadPoolExecutor(self._threads, thread_name_prefix="tune-image") as pool:
            return dict(zip(images, pool.map(work, images), strict=True))

    def _opened(self, first: First, image: int) -> tuple[Prepared]:
        with self._open(image) as picture:
            return (self._prepare(first, picture, image),)

    def _prepare(self, first: First, picture: Image.Image, image: int) -> Prepared:
        """Raises BadLabels."""
        try:
            return self._scorer(first).prepare(picture)
        except (ImageUnsuitable, ImageError) as error:
            raise BadLabels(f"{self._examples[image].path.name}: {error}: take it out of the labels") from error

    def _scorer(self, first: First) -> Scorer:
        if first not in self._scorers:
            # Attention costs nothing to keep, and saves a forward wherever a region is sought.
            keeps = CropPolicy(look="crop", method="rel-att", layers=self._layers)
            self._scorers[first] = self._model.scorer(self._asked(first), self._adapter, policy=keeps)
        return self._scorers[first]

    def _crop_reader(self, first: First, policy: CropPolicy) -> CropReader:
        """Kept, because it knows the maps of blank images by now."""
        if (first, policy) not in self._crop_readers:
            try:
                self._crop_readers[first, policy] = self._model.crop_reader(self._asked(first), policy, self._adapter)
            except ModelInvalid as error:
                raise Impossible(f"{policy.look}: {error}") from error
        return self._crop_readers[first, policy]

    def _asked(self, first: First) -> Question:
        least = min(self._question.min_pixels, first.max_pixels)
        return replace(variant(self._question, first.words), max_pixels=first.max_pixels, min_pixels=least)

    def _cost(self, first: First, image: int) -> tuple[int, float]:
        """(visual tokens, times that the sides are divided) of the first look at an image of this size."""
        size = self._sizes[image]
        key = (first, size)
        if key not in self._tokens:
            prepared = self._prepare(first, Image.new("RGB", size), image)
            self._tokens[key] = (prepared.visual_tokens, shrink_of(size, cast("Resized", prepared)))
        return self._tokens[key]

    def _open(self, image: int) -> Image.Image:
        example = self._examples[image]
        return example.open(example.path)

    def _windows(self, images: Sequence[int]) -> Iterator[list[int]]:
        """Images whose pixels are in memory together."""
        window: list[int] = []
        pixels = 0
        for image in images:
            width, height = self._sizes[image]
            if window and (len(window) == WINDOW_IMAGES or pixels + width * height > WINDOW_PIXELS):
                yield window
                window, pixels = [], 0
            window.append(image)
            pixels += width * height
        if window:
            yield window


def _rows(crop_reader: CropReader, picture: Image.Image, pointed: Pointed | None) -> Sequence[Prepared]:
    """None for a part that the model cannot take, a strip for instance: the first look stands then."""
    try:
        return crop_reader.rows(picture, pointed)
    except (ImageUnsuitable, ImageError):
        return ()
