"""Chooses images to label next: near a threshold, in dispute, unlike the others, and a random sample.

The shares are those of active learning with a held-out random part. Hard images teach the most; only random ones tell
how often answers are wrong, since each image has the same known chance to be sampled.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import IO, Any

import sqlalchemy as sa

from scanfleet.db.labels import suggest as store
from scanfleet.db.labels.disagreements import disagreements
from scanfleet.db.labels.suggest import Candidate, Pool, Size
from scanfleet.errors import RequestError
from scanfleet.producer.reports.labelstudio import results_of, task_of, write_tasks
from scanfleet.producer.reports.output import write_csv

PARTS = ("threshold", "disagreement", "diversity", "random")  # images that one lacks go to the next
DEFAULT_MIX = {"threshold": 0.4, "disagreement": 0.2, "diversity": 0.1, "random": 0.3}
NONE = Size(n=0, exact=True)
DIVERSITY_POOL = 2000  # images, sampled at random, among which unlike ones are found
COLUMNS = (
    "uri",
    "label",
    "drawn",
    "inclusion_probability",
    "answer",
    "decision",
    "score",
    "margin",
    "scan",
    "content_sha256",
)


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """drawn: one of PARTS. chance: of an image of the pool to be sampled; None: it was chosen otherwise."""

    image: Candidate
    drawn: str
    chance: float | None

    def record(self) -> dict[str, Any]:
        """Return the row to write; `label` is for a person to fill in."""
        values = ("", self.drawn, self.chance, *(getattr(self.image, name) for name in ("label", *COLUMNS[5:])))
        return dict(zip(COLUMNS, (self.image.uri, *values), strict=True))


@dataclass(frozen=True, kw_only=True)
class Suggestions:
    """images: in random order, so that kinds are mixed. n_pool: number of unlabelled images."""

    images: list[Suggestion]
    n_pool: int
    notes: list[str]  # for people: which parts were short of images

    def counts(self) -> dict[str, int]:
        return {part: sum(each.drawn == part for each in self.images) for part in PARTS}


def read_mix(text: str) -> dict[str, float]:
    """Parse shares such as threshold=.4,random=.6; parts that are not named get nothing.

    Raises RequestError.
    """
    mix = dict.fromkeys(PARTS, 0.0)
    for item in text.split(","):
        name, _, share = item.strip().partition("=")
        if name not in mix:
            raise RequestError(f"--mix {item.strip()}: a part is one of {', '.join(PARTS)}, as in random=0.3")
        try:
            mix[name] = float(share)
        except ValueError:
            raise RequestError(f"--mix {item.strip()}: {share!r} is not a number") from None
        if not 0 <= mix[name] <= 1:
            raise RequestError(f"--mix {item.strip()}: a share lies between 0 and 1")
    if not math.isclose(sum(mix.values()), 1, abs_tol=1e-6):
        raise RequestError(f"--mix {text}: the shares sum to {sum(mix.values()):g}, not to 1")
    return mix


def apportion(n: int, mix: Mapping[str, float]) -> dict[str, int]:
    """Return whole numbers that sum to `n`, by largest remainder.

    >>> apportion(10, DEFAULT_MIX)
    {'threshold': 4, 'disagreement': 2, 'diversity': 1, 'random': 3}
    """
    exact = {part: n * mix[part] for part in PARTS}
    counts = {part: math.floor(share + 1e-9) for part, share in exact.items()}
    rest = sorted(PARTS, key=lambda part: counts[part] - exact[part])
    for part in rest[: n - sum(counts.values())]:
        counts[part] += 1
    return counts


def suggest(
    connection: sa.Connection, check_name: str, *, scan_id: str | None, n: int, mix: Mapping[str, float], seed: int
) -> Suggestions:
    """Choose at most `n` unlabelled images, none twice. The same ledger and seed give the same images."""
    pool = store.pool_of(connection, check_name, scan_id=scan_id)
    counted = store.size_of(connection, pool, pivot=_pivot(seed, "size")) if pool.scorers else NONE
    n_pool = counted.n
    if not n_pool:
        return Suggestions(images=[], n_pool=0, notes=[])
    wanted = apportion(min(n, n_pool), mix)
    # The random part is sampled first, from the whole pool, so that the other parts do not change its chances.
    taken_as = dict.fromkeys(
        store.at_random(connection, pool, pivot=_pivot(seed, "random"), n=wanted["random"]), "random"
    )
    lists = {
        "threshold": lambda: store.near_boundary(connection, pool, n=2 * n),
        "disagreement": lambda: disagreements(connection, pool, pivot=_pivot(seed, "disagreement"), n=2 * n),
    }
    notes = (
        [] if counted.exact else [f"about {n_pool} images are unlabelled: estimated within 5 %, as are their chances"]
    )
    lacking = 0
    for part, following in (("threshold", "disagreement"), ("disagreement", "diversity")):
        size = wanted[part] + lacking
        taken = [image for image in lists[part]() if image not in taken_as][:size] if size else []
        taken_as |= dict.fromkeys(taken, part)
        lacking = size - len(taken)
        if lacking:
            notes.append(f"{part}: {len(taken)} of {size} found, the rest goes to {following}")
    _add_unlike(connection, pool, taken_as, wanted["diversity"] + lacking, seed=seed)
    chance = wanted["random"] / n_pool
    known = store.candidates(connection, pool, taken_as)
    order = sorted(known, key=lambda image: hashlib.sha256(f"{seed} {image}".encode()).digest())
    images = [
        Suggestion(image=known[key], drawn=taken_as[key], chance=chance if taken_as[key] == "random" else None)
        for key in order
    ]
    return Suggestions(images=images, n_pool=n_pool, notes=notes)


def _add_unlike(connection: sa.Connection, pool: Pool, taken_as: dict[str, str], n: int, *, seed: int) -> None:
    """Add `n` images that are unlike those taken already."""
    if not n:
        return
    size = max(DIVERSITY_POOL, 2 * n) + len(taken_as)  # enough are left without those taken already
    some = store.at_random(connection, pool, pivot=_pivot(seed, "diversity"), n=size)
    known = store.candidates(connection, pool, {*some, *taken_as})
    n_logits = max(len(each.logits) for each in known.values())
    places = scaled({key: _features(each, n_logits) for key, each in known.items()})
    centres = [places[key] for key in taken_as if key in places]
    others = {key: places[key] for key in sorted(places) if key not in taken_as}
    taken_as |= dict.fromkeys(farthest(others, centres, n), "diversity")


def _features(image: Candidate, n_logits: int) -> tuple[float, ...]:
    """Return the centred label logits, and the logarithms of width and height."""
    middle = fmean(image.logits)
    logits = [logit - middle for logit in image.logits] + [0.0] * (n_logits - len(image.logits))
    return (*logits, math.log(max(image.width or 1, 1)), math.log(max(image.height or 1, 1)))


def scaled(features: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, ...]]:
    """Divide each feature by its standard deviation; a constant one then counts for nothing."""
    spreads = [pstdev(values) or 1.0 for values in zip(*features.values(), strict=True)]
    return {key: tuple(v / spread for v, spread in zip(row, spreads, strict=True)) for key, row in features.items()}


def farthest(places: Mapping[str, tuple[float, ...]], centres: Sequence[tuple[float, ...]], n: int) -> list[str]:
    """Return a greedy k-centre choice: each time, the point farthest from `centres` and the points taken.

    Gonzalez 1985 (Theoretical Computer Science 38:293-306); for labelling: Sener and Savarese, ICLR 2018.
    """
    distances = {
        key: min((math.dist(place, centre) for centre in centres), default=math.inf) for key, place in places.items()
    }
    taken: list[str] = []
    while distances and len(taken) < n:
        key = max(distances, key=lambda each: distances[each])
        del distances[key]
        taken.append(key)
        for other, distance in distances.items():
            distances[other] = min(distance, math.dist(places[other], places[key]))
    return taken


def _pivot(seed: int, part: str) -> str:
    return hashlib.sha256(f"{part} {seed}".encode()).hexdigest()


def _task(one: Suggestion) -> dict[str, Any]:
    """Return a task of Label Studio, with the answer as a prediction."""
    image = one.image
    data = {name: value for name, value in one.record().items() if name not in ("uri", "label", "answer")}
    results = results_of(image.label, None, (image.width or 0, image.height or 0))
    return task_of(image.uri, results, version=None, score=image.score, data=data)


def write_suggestions(images: Iterable[Suggestion], file: IO[bytes], *, form: str, spreadsheet: bool = False) -> None:
    """Write the rows. form: csv, jsonl or labelstudio. spreadsheet: as in `write_csv`."""
    if form == "labelstudio":
        write_tasks(map(_task, images), file)
        return
    if form == "jsonl":
        for each in images:
            file.write(f"{json.dumps(each.record(), ensure_ascii=False, allow_nan=False)}\n".encode())
        return
    write_csv(file, COLUMNS, (each.record() for each in images), spreadsheet=spreadsheet)
