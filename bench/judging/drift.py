"""How often `drift` finds a tenth of new material in a scan of 1,000, and how often it alarms about nothing.

Each simulated archive has 10 or 30 % positives. A scan of it is the reference, another holds a tenth of a new kind, in
place of some. Margins are normal; `unlike` of the archive's own images is uniform, up to the chance of a calibration
set, and new images lie from half far to all far from it: of photographs the built-in overlay adapter calls .45 far, of
bags .99. `margins_only`: an adapter of an earlier release, which cannot tell what images look like.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.report import Report
from scanfleet.stats.counts import Slice, Tally
from scanfleet.stats.drift import judge
from scanfleet.stats.unlike import FAR

PAIRS = int(os.environ.get("BENCH_PAIRS", "200"))  # of scans, in each cell
N, NEW = 1000, 0.1
N_CALIBRATION = 200
FAR_SHARES = (0.45, 0.7, 1.0)  # of the new images
SAME = 6 * PAIRS  # pairs of equal scans
Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Floats]

MATERIALS: dict[str, Draw] = {
    "unsure": lambda rng, n: rng.normal(0, 1, n),
    "confident": lambda rng, n: rng.normal(4, 1, n),
    "outside": lambda rng, n: rng.normal(15, 1, n),
}


class Scan(NamedTuple):
    """margins and `unlike`, both `[images]`; unlike None: the adapter cannot tell."""

    margins: Floats
    unlike: Floats | None


class Archive:
    """An archive, and an adapter that was calibrated on images of its kind."""

    def __init__(self, positive: float, rng: np.random.Generator, *, tells: bool) -> None:
        self._positive, self._rng, self._tells = positive, rng, tells
        self._calibration = np.sort(rng.uniform(size=N_CALIBRATION))

    def scan(self, material: Draw | None = None, *, far: float = 0.0) -> Scan:
        """Return a scan, in which a tenth is of another material if one is given. far: share of it that is far."""
        rng, n_new = self._rng, 0 if material is None else round(NEW * N)
        positive = rng.uniform(size=N - n_new) < self._positive
        margins = np.where(positive, rng.normal(4, 2, N - n_new), rng.normal(-4, 2, N - n_new))
        unlike = np.searchsorted(self._calibration, rng.uniform(size=N - n_new)) / (N_CALIBRATION + 1)
        if material is not None:
            margins = np.concatenate([margins, material(rng, n_new)])
            beyond = rng.uniform(size=n_new) < far
            unlike = np.concatenate([unlike, np.where(beyond, 0.99, rng.uniform(0, FAR, n_new))])
        return Scan(margins, unlike if self._tells else None)


def tally(scan: Scan, edges: Sequence[float], span: tuple[float, float]) -> Tally:
    bounds = (-np.inf, *edges, np.inf)
    within = [(scan.margins >= low) & (scan.margins < high) for low, high in pairwise(bounds)]
    is_far = np.zeros(len(scan.margins), dtype=bool) if scan.unlike is None else scan.unlike >= FAR
    outside = int(((scan.margins < span[0]) | (scan.margins > span[1])).sum())
    return Tally(
        bins=tuple(int(each.sum()) for each in within),
        n_flag=int((scan.margins >= 0).sum()),
        n_review=0,
        n_low_mass=0,
        mean_mass=1.0,
        n_outside=outside,
        n_far=int(is_far.sum()),
        n_compared=0 if scan.unlike is None else len(scan.unlike),
        far_bins=() if scan.unlike is None else tuple(int((each & is_far).sum()) for each in within),
    )


def alarms(before: Scan | None, now: Scan) -> bool:
    """Return whether a scan alarms. before: its reference; None: it is the first one."""
    held_to = now if before is None else before
    edges = [float(edge) for edge in np.quantile(held_to.margins, np.linspace(0.1, 0.9, 9))]
    span = float(held_to.margins.min()), float(held_to.margins.max())
    found = Slice(
        scan="now",
        scorer_id=1,
        scorer="s",
        source=None,
        tally=tally(now, edges, span),
        before=None if before is None else tally(before, edges, span),
        reference="scan before",
        n_calibration=0 if now.unlike is None else N_CALIBRATION,
    )
    return any(finding.level == "alarm" for finding in judge(found))


def _found(positive: float, material: Draw, far: float, *, tells: bool) -> float:
    rng = np.random.default_rng([round(100 * positive), round(100 * far), tells])
    hits = 0
    for _ in range(PAIRS):
        archive = Archive(positive, rng, tells=tells)
        hits += alarms(archive.scan(), archive.scan(material, far=far))
    return hits / PAIRS


def _false(*, first: bool) -> float:
    rng = np.random.default_rng(7)
    hits = 0
    for number in range(SAME):
        archive = Archive((0.1, 0.3)[number % 2], rng, tells=True)
        hits += alarms(None if first else archive.scan(), archive.scan())
    return hits / SAME


def run() -> Report:
    """found: the worst cell in which new images are mostly far; false: of scans without new material."""
    cells = {
        f"{name}_at_{positive:.0%}": {
            **{f"far_{far:g}": _found(positive, material, far, tells=True) for far in FAR_SHARES},
            "margins_only": _found(positive, material, 0.0, tells=False),
        }
        for positive in (0.1, 0.3)
        for name, material in MATERIALS.items()
    }
    worst = min(found[f"far_{FAR_SHARES[1]:g}"] for found in cells.values())
    least = min(found["margins_only"] for found in cells.values())
    return Report(
        name="drift",
        figures={
            "found": worst,
            "found_margins_only": least,
            "false_alarms": _false(first=False),
            "false_alarms_first_scan": _false(first=True),
            **cells,
        },
        notes=(
            f"{PAIRS} pairs of scans of {N} a cell, a tenth of the second one new; {SAME} without new material",
            "far_X: share of the new images that lie far from the calibration images; NAME_at_X: share of positives",
        ),
    )
