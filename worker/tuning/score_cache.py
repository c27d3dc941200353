"""Scores images through the serving stack, each at most once per setting: readings are cached, pixels are not.

First passes are cached by prompt and pixel budget, regions by what they depend on, crop passes by both and by the
budgets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

from PIL import Image

from scanfleet.errors import BadLabels, ImageError
from scanfleet.models.crops.policy import CropPolicy
from scanfleet.models.errors import ImageUnsuitable, ModelInvalid
from scanfleet.models.inputs.wording import variant
from scanfleet.models.training.data.types import Example
from scanfleet.models.types import CropReader, Pointed, Prepared, Question, Reading, Scorer
from scanfleet.worker.evaluation.readings import packs
from scanfleet.worker.scoring.crop_selection import Resized, shrink_of
from scanfleet.worker.scoring.model import Model
from scanfleet.worker.tuning.evaluate import CropResult
from scanfleet.worker.tuning.search import UnsupportedSetting
from scanfleet.worker.tuning.search_space import FirstPass

T = TypeVar("T")

WINDOW_IMAGES = 32  # whose pixels are in memory at once
WINDOW_PIXELS = 64_000_000  # likewise, in total; a larger image is a window of its own
ATTENTION_BYTES = 512 << 20  # of all first passes together
Watch = Callable[[int], None]  # (number of new readings); raises to stop
Region = tuple[FirstPass, str, str, bool, tuple[int, ...]]  # what a region depends on


class ScoreCache:
    """Implements `worker.tuning.evaluate.Scores`. sizes: (width, height) of each example, in pixels.

    layers: whose attention first passes record, as in `models.crops.policy`; the same in every policy. threads: for the
    work on images that needs no device.
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
        self._scorers: dict[FirstPass, Scorer] = {}
        self._threads = threads
        self._attention_bytes_left = attention_bytes
        self._attention_dropped = False
        self._crop_readers: dict[tuple[FirstPass, CropPolicy], CropReader] = {}
        self._first_passes: dict[FirstPass, dict[int, Reading]] = {}
        self._pointed: dict[Region, dict[int, Pointed]] = {}
        self._crop_results: dict[tuple[FirstPass, CropPolicy], dict[int, CropResult]] = {}
        self._tokens: dict[tuple[FirstPass, tuple[int, int]], tuple[int, float]] = {}

    def first_pass(self, first: FirstPass, images: Sequence[int]) -> list[Reading]:
        """Raises BadLabels for an image that the model cannot process."""
        cached = self._first_passes.setdefault(first, {})
        scorer = self._scorer(first)
        for window in self._windows([image for image in images if image not in cached]):
            read = self._score_rows(scorer, self._each(partial(self._opened, first), window))
            cached |= {image: self._limited(rows[0]) for image, rows in read.items()}
        return [cached[image] for image in images]

    def _limited(self, reading: Reading) -> Reading:
        """With its attention while memory is left; one without is scored once more when the attention is needed."""
        if reading.attention is None:
            return reading
        if self._attention_bytes_left < reading.attention.nbytes:
            self._attention_dropped = True
            return replace(reading, attention=None)
        self._attention_bytes_left -= reading.attention.nbytes
        return reading

    def crop_pass(self, first: FirstPass, policy: CropPolicy, images: Sequence[int]) -> list[CropResult]:
        """Raises UnsupportedSetting for a crop pass that the model does not support."""
        policy = replace(policy, fuse="mean")
        cached = self._crop_results.setdefault((first, policy), {})
        missing = [image for image in images if image not in cached]
        if missing:
            crop_reader = self._crop_reader(first, policy)
            for window in self._windows(missing):
                cached |= self._read_crops(first, policy, crop_reader, window)
        return [cached[image] for image in images]

    def first_tokens(self, first: FirstPass, images: Sequence[int]) -> float:
        return sum(self._cost(first, image)[0] for image in images) / len(images)

    def shrink(self, first: FirstPass, image: int) -> float:
        return self._cost(first, image)[1]

    def _read_crops(
        self, first: FirstPass, policy: CropPolicy, crop_reader: CropReader, window: Sequence[int]
    ) -> dict[int, CropResult]:
        pictures = self._each(self._open, window)
        try:
            pointed = self._find_regions(first, policy, crop_reader, pictures) if crop_reader.pointed else {}
            rows = self._each(lambda image: _rows(crop_reader, pictures[image], pointed.get(image)), window)
        finally:
            for picture in pictures.values():
                picture.close()
        readings = self._score_rows(self._scorer(first), rows)
        return {
            image: CropResult(rows=readings[image], tokens=pointed[image].tokens if image in pointed else 0)
            for image in window
        }

    def _find_regions(
        self, first: FirstPass, policy: CropPolicy, crop_reader: CropReader, pictures: Mapping[int, Image.Image]
    ) -> dict[int, Pointed]:
        cached = self._pointed.setdefault((first, policy.method, policy.reference, policy.tiled, policy.layers), {})
        missing = [image for image in pictures if image not in cached]
        if missing:
            firsts = self._with_attention(first, {image: pictures[image] for image in missing})
            seen = self._each(lambda image: crop_reader.views(pictures[image], firsts[image]), missing)
            views = {str(image): view for image, view in seen.items()}
            for keys in packs(views, token_budget=self._token_budget):
                found = crop_reader.point([views[key] for key in keys])
                cached |= {int(key): at for key, at in zip(keys, found, strict=True)}
                self._watch(len(keys))
        return {image: cached[image] for image in pictures}

    def _with_attention(self, first: FirstPass, pictures: Mapping[int, Image.Image]) -> dict[int, Reading]:
        """First passes with the recorded attention, scored once more where it was dropped."""
        readings = dict(zip(pictures, self.first_pass(first, list(pictures)), strict=True))
        scorer = self._scorer(first)
        dropped = [image for image, reading in readings.items() if reading.attention is None]
        if dropped and self._attention_dropped:
            prepared = {image: (self._prepare(first, pictures[image], image),) for image in dropped}
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
        """Work on images in parallel, without the device."""
        with ThreadPoolExecutor(self._threads, thread_name_prefix="tune-image") as pool:
            return dict(zip(images, pool.map(work, images), strict=True))

    def _opened(self, first: FirstPass, image: int) -> tuple[Prepared]:
        with self._open(image) as picture:
            return (self._prepare(first, picture, image),)

    def _prepare(self, first: FirstPass, picture: Image.Image, image: int) -> Prepared:
        """Raises BadLabels."""
        try:
            return self._scorer(first).prepare(picture)
        except (ImageUnsuitable, ImageError) as error:
            raise BadLabels(f"{self._examples[image].path.name}: {error}: take it out of the labels") from error

    def _scorer(self, first: FirstPass) -> Scorer:
        if first not in self._scorers:
            # Recording attention is free, and saves a forward wherever a region is needed.
            keeps = CropPolicy(look="crop", method="rel-att", layers=self._layers)
            self._scorers[first] = self._model.scorer(self._question_of(first), self._adapter, policy=keeps)
        return self._scorers[first]

    def _crop_reader(self, first: FirstPass, policy: CropPolicy) -> CropReader:
        """Cached, because it holds the maps of blank images."""
        if (first, policy) not in self._crop_readers:
            try:
                self._crop_readers[first, policy] = self._model.crop_reader(
                    self._question_of(first), policy, self._adapter
                )
            except ModelInvalid as error:
                raise UnsupportedSetting(f"{policy.look}: {error}") from error
        return self._crop_readers[first, policy]

    def _question_of(self, first: FirstPass) -> Question:
        question = variant(self._question, first.words)
        return replace(question, max_pixels=first.max_pixels, order=first.order or question.order)

    def _cost(self, first: FirstPass, image: int) -> tuple[int, float]:
        """(visual tokens, factor by which the sides are divided) of the first pass, from the size of the image."""
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
    """Empty for a region that the model cannot process, such as a thin strip: the first pass is the answer then."""
    try:
        return crop_reader.rows(picture, pointed)
    except (ImageUnsuitable, ImageError):
        return ()
