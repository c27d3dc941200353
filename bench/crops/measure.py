"""Run every arm over the same pictures: answers, costs and regions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from bench.crops.arms import CROP, PAIR, Arm
from bench.crops.figures import Margins, Truth, holds
from bench.crops.page import Shown
from scanfleet.checks.crop import CropSettings
from scanfleet.models import factory, pocket
from scanfleet.models.adapters.calibration import Thresholds
from scanfleet.models.adapters.card import read_card
from scanfleet.models.crops.batch import TwoPassReading, packed, run_crop_pass
from scanfleet.models.crops.cutting import cut
from scanfleet.models.crops.reader import PolicyCropReader
from scanfleet.models.inputs.wording import PLAIN, names, variant
from scanfleet.models.network.base import BaseModel, load_base
from scanfleet.models.pocket.scenes.planted import Planted, large, planted
from scanfleet.models.relevance.maps import Mapper
from scanfleet.models.relevance.regions import Region
from scanfleet.models.scoring.prefill import PrefillScorer
from scanfleet.models.types import Box, CropReader, Reading, Scorer
from scanfleet.worker.scoring.crop_selection import band_of, crop_reason

CHECK = "razor"
SEED = 7_500_000  # no part of the model or its settings was fitted to these pictures
SETS: dict[str, Callable[[int, int], Planted]] = {"planted": planted, "large": large}
AT_ONCE = 50  # pictures in memory
BATCH_TOKENS = 1600
N_EXAMPLES = 24  # on the page
TRUE_SIDE = 0.2  # of the crop around the true box, as a share of the short side


@dataclass(frozen=True, kw_only=True, eq=False)
class Readers:
    """One scorer, its crop readers by arm, and scorers of other wordings that read once."""

    base: BaseModel
    scorer: PrefillScorer
    crop_readers: dict[str, PolicyCropReader]
    others: dict[str, PrefillScorer]
    thresholds: Thresholds | None

    def uncertain(self, reading: Reading) -> bool:
        """Return True if a check with `crop = "uncertain"` would read the image again."""
        band = band_of(thresholds=self.thresholds, calibrator=None, has_flags=True)
        return crop_reason(CropSettings(when="uncertain"), reading, band, shrink=1.0) is not None


@dataclass(frozen=True, kw_only=True, eq=False)
class Measurements:
    """The results for a set of pictures.

    Attributes:
        target: whether each picture shows a target.
        first: readings of the first pass.
        margins: by arm, one per picture.
        tokens: by arm, visual tokens beyond the first pass, without blank images.
        held: by arm, whether the region holds the part, for pictures with a part that were read again by a map.
        blanks: by arm, visual tokens of blank reference images.
        regions: by arm, the region of each picture that got one, by its number.
        parts: the box of each picture's part.
        sizes: (width, height) of each picture.
        examples: for the page.
    """

    target: list[bool] = field(default_factory=list)
    first: list[Reading] = field(default_factory=list)
    margins: dict[str, list[float]] = field(default_factory=dict)
    tokens: dict[str, list[float]] = field(default_factory=dict)
    held: dict[str, list[bool]] = field(default_factory=dict)
    blanks: dict[str, int] = field(default_factory=dict)
    regions: dict[str, dict[int, Region]] = field(default_factory=dict)
    parts: list[Box | None] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    examples: list[Shown] = field(default_factory=list)

    @property
    def truth(self) -> Truth:
        return np.array(self.target)

    @property
    def before(self) -> Margins:
        return np.array([reading.margin for reading in self.first])

    def after(self, arm: str) -> Margins:
        return np.array(self.margins[arm])

    def cost(self, arm: str) -> float:
        """Return the tokens of all passes over those of the first."""
        extra = sum(self.tokens[arm]) + self.blanks.get(arm, 0)
        return 1 + extra / sum(reading.visual_tokens for reading in self.first)

    def note(self, arm: str, margins: Sequence[float], tokens: Sequence[float]) -> None:
        self.margins.setdefault(arm, []).extend(margins)
        self.tokens.setdefault(arm, []).extend(tokens)


def load_readers(every: Sequence[Arm]) -> Readers:
    base, folder = load_base("pocket", precision="fp32"), pocket.adapter_folder(CHECK)
    card = read_card(folder)
    scorer = factory.scorer(base, card.question, folder)
    scorer.record_layers = PAIR.layers
    worded = {f"wording_{name}": variant(card.question, name) for name in names() if name != PLAIN}
    return Readers(
        base=base,
        scorer=scorer,
        crop_readers={arm.name: PolicyCropReader(base=base, scorer=scorer, policy=arm.policy) for arm in every},
        others={
            name: PrefillScorer(base=base, question=question, identity=scorer.identity)
            for name, question in worded.items()
        },
        thresholds=card.thresholds,
    )


def measure(readers: Readers, every: Sequence[Arm], kind: str, n: int) -> Measurements:
    """Run every arm over n pictures of a set."""
    measured = Measurements()
    blanks = {name: crop_reader.blank_tokens for name, crop_reader in readers.crop_readers.items()}
    for some in batches(kind, n):
        first = scored(readers.scorer, some)
        start = len(measured.target)
        measured.target.extend(picture.label in readers.scorer.question.flags for picture in some)
        measured.parts.extend(picture.box for picture in some)
        measured.sizes.extend(picture.image.size for picture in some)
        measured.first.extend(first)
        for arm in every:
            _take(readers, measured, arm, some, first, start)
        _true_boxes(readers, measured, some, first)
        for name, scorer in readers.others.items():
            readings = scored(scorer, some)
            measured.note(name, [reading.margin for reading in readings], [0.0] * len(readings))
    measured.blanks.update(
        (name, readers.crop_readers[name].blank_tokens - earlier) for name, earlier in blanks.items()
    )
    return measured


def batches(kind: str, n: int) -> Iterator[list[Planted]]:
    """Yield the first n pictures of a set, AT_ONCE in memory at a time."""
    for start in range(0, n, AT_ONCE):
        yield [SETS[kind](SEED, number) for number in range(start, min(n, start + AT_ONCE))]


def scored(scorer: PrefillScorer, pictures: Sequence[Planted]) -> list[Reading]:
    """Read each picture once."""
    prepared = [scorer.prepare(picture.image) for picture in pictures]
    found: dict[int, Reading] = {}
    for batch in packed(prepared, BATCH_TOKENS):
        found |= zip(batch, scorer.score([prepared[number] for number in batch]), strict=True)
    return [found[number] for number in range(len(prepared))]


def _take(
    readers: Readers,
    measured: Measurements,
    arm: Arm,
    pictures: Sequence[Planted],
    first: Sequence[Reading],
    start: int,
) -> None:
    scorer, crop_reader = cast("Scorer", readers.scorer), cast("CropReader", readers.crop_readers[arm.name])
    chosen = [number for number, reading in enumerate(first) if not arm.gated or readers.uncertain(reading)]
    found = run_crop_pass(
        scorer,
        crop_reader,
        [pictures[number].image for number in chosen],
        [first[number] for number in chosen],
        batch_tokens=BATCH_TOKENS,
    )
    by_number = dict(zip(chosen, found, strict=True))
    margins = [by_number[at].fused.margin if at in by_number else reading.margin for at, reading in enumerate(first)]
    measured.note(
        arm.name,
        margins,
        [float(by_number[at].tokens) if at in by_number else 0.0 for at in range(len(first))],
    )
    held, regions = measured.held.setdefault(arm.name, []), measured.regions.setdefault(arm.name, {})
    for at, again in by_number.items():
        if again.region is not None:
            regions[start + at] = again.region
        box = pictures[at].box
        if box is not None and again.pointed is not None:
            held.append(again.region is not None and holds(again.region, box))
    if arm.gated:
        free = N_EXAMPLES - len(measured.examples)
        measured.examples.extend(
            _shown(readers, arm, pictures[at], again) for at, again in list(by_number.items())[:free]
        )


def _true_boxes(
    readers: Readers, measured: Measurements, pictures: Sequence[Planted], first: Sequence[Reading]
) -> None:
    """Read a crop around the part itself, as a perfect map would give; without a part the first pass stands."""
    margins = [reading.margin for reading in first]
    for number, picture in enumerate(pictures):
        if picture.box is not None:
            part = cut(picture.image, _around(picture.box, picture.image.size), pixels=CROP)
            row = readers.base.processor.prepare(part, max_pixels=CROP, min_pixels=min(part.width * part.height, CROP))
            margins[number] = readers.scorer.score([row])[0].margin
    measured.note("true_box", margins, [0.0] * len(margins))


def _around(box: Box, size: tuple[int, int]) -> Region:
    side = round(TRUE_SIDE * min(size))
    x0 = min(max(0, round((box.x0 + box.x1 - side) / 2)), size[0] - side)
    y0 = min(max(0, round((box.y0 + box.y1 - side) / 2)), size[1] - side)
    return Region(x0=x0, y0=y0, x1=x0 + side, y1=y0 + side)


def _shown(readers: Readers, arm: Arm, picture: Planted, again: TwoPassReading) -> Shown:
    mapper = Mapper(
        base=readers.base,
        scorer=readers.scorer,
        method=arm.policy.method,
        reference=arm.policy.reference,
        layers=arm.policy.layers,
    )
    prepared = readers.scorer.prepare(picture.image)
    return Shown(
        name=picture.make,
        image=picture.image,
        values=mapper.maps([prepared], [again.first.attention])[0].values,
        region=again.region,
        box=picture.box,
        target=picture.label in readers.scorer.question.flags,
        first=again.first.margin,
        fused=again.fused.margin,
    )
