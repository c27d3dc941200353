"""How often the gate promotes: pairs of simulated models whose true accuracies are known.

Both models share 80 % of their noise, one third of the images is positive, and each has a calibrator that was fitted
on as many other images as the golden set has. 300 unlabelled images are the shadow set.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr

from bench.report import Report
from scanfleet.models.adapters.calibration import fit_platt
from scanfleet.models.promotion import GateReport, Paired, Shadow, Side, judge
from scanfleet.models.types import Question
from scanfleet.worker.evaluation.compare import shift_between

QUESTION = Question(name="q", prompt="Is it?", labels=("overlay", "natural", "none"), flags=frozenset({"overlay"}))
PAIRS = int(os.environ.get("BENCH_PAIRS", "200"))  # of each cell
RESAMPLES = 500
SHARED = 0.8  # of the noise is the image's, not the model's
PREVALENCE = 1 / 3
N_SHADOW = 300


class Cell(NamedTuple):
    """True accuracies of champion and challenger, and the number of golden images."""

    before: float
    after: float
    n: int


EQUAL = tuple(Cell(0.90, after, n) for after in (0.90, 0.88, 0.85) for n in (100, 300, 1000))
BETTER = {
    "plus5_at_100": Cell(0.90, 0.95, 100),
    "plus5_at_300": Cell(0.90, 0.95, 300),
    "plus5_at_1000": Cell(0.90, 0.95, 1000),
    "plus2_at_4000": Cell(0.90, 0.92, 4000),
}


def skill_of(accuracy: float) -> float:
    """Return the distance of the mean margins from 0, in deviations, that gives an accuracy at even odds."""

    def excess(skill: float) -> float:
        even = np.log((1 - PREVALENCE) / PREVALENCE) / (2 * skill)
        found = PREVALENCE * ndtr(skill - even) + (1 - PREVALENCE) * ndtr(skill + even)
        return float(found - accuracy)

    return float(brentq(excess, 0.1, 5.0))


class Images:
    """Images of a number of kinds, with the noise that they have for both models."""

    def __init__(self, n: int, rng: np.random.Generator) -> None:
        self.truth: NDArray[np.int64] = rng.integers(0, 3, n)
        self.positive = self.truth == 0
        self._common = rng.normal(size=n)

    def margins(self, skill: float, rng: np.random.Generator) -> NDArray[np.float64]:
        noise = SHARED**0.5 * self._common + (1 - SHARED) ** 0.5 * rng.normal(size=len(self.truth))
        return np.where(self.positive, skill, -skill) + noise


def one_pair(cell: Cell, seed: int) -> GateReport:
    rng = np.random.default_rng([cell.n, round(1000 * cell.after), seed])
    golden, shadow, calibration = Images(cell.n, rng), Images(N_SHADOW, rng), Images(cell.n, rng)
    sides, unlabelled = [], []
    for name, accuracy in (("champion", cell.before), ("challenger", cell.after)):
        skill = skill_of(accuracy)
        calibrator = fit_platt(calibration.margins(skill, rng).tolist(), calibration.positive.tolist())
        margins = golden.margins(skill, rng)
        answers = np.where(margins >= 0, 0, 1 + (golden.truth == 2))
        sides.append(Side(name=name, margins=margins, answers=answers, calibrator=calibrator))
        unlabelled.append(
            Side(name=name, margins=shadow.margins(skill, rng), answers=shadow.truth, calibrator=calibrator)
        )
    paired = Paired(
        question=QUESTION,
        keys=[f"key{i}" for i in range(cell.n)],
        truth=golden.truth,
        clusters=[f"cluster{i}" for i in range(cell.n)],
        champion=sides[0],
        challenger=sides[1],
        recent=np.ones(cell.n, dtype=np.bool_),
    )
    before, after = unlabelled
    seen = Shadow(
        champion_flags=before.margins >= before.even,
        challenger_flags=after.margins >= after.even,
        psi=shift_between(before, after),
        golden_psi=shift_between(sides[0], sides[1]),
    )
    return judge(paired, seen, resamples=RESAMPLES, seed=seed)


def outcomes(job: tuple[Cell, int]) -> tuple[str, tuple[str, ...]]:
    """Return the verdict, and the conditions that are not met."""
    report = one_pair(*job)
    not_met = (f"{each.gate} {each.title}" for each in report.results if each.outcome in ("fail", "undecided"))
    return report.verdict, tuple(not_met)


def cells(pool: ProcessPoolExecutor, wanted: tuple[Cell, ...]) -> Iterator[tuple[Cell, Counter[str], Counter[str]]]:
    for cell in wanted:
        found = list(pool.map(outcomes, [(cell, seed) for seed in range(PAIRS)], chunksize=10))
        verdicts = Counter(verdict for verdict, _ in found)
        yield cell, verdicts, Counter(name for _, names in found for name in names)


def run() -> Report:
    notes, promoted = [], {}
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for cell, verdicts, not_met in cells(pool, (*EQUAL, *BETTER.values())):
            promoted[cell] = verdicts["promote"] / PAIRS
            words = ", ".join(f"{verdicts[name]} {name}" for name in ("promote", "hold", "reject"))
            against = ", ".join(f"{name} {n}" for name, n in not_met.most_common())
            notes.append(f"{cell.before:.2f} -> {cell.after:.2f}, {cell.n:>4} golden: {words}; not met: {against}")
    figures = {"equal_promoted": max(promoted[cell] for cell in EQUAL)}
    return Report(
        name="gate", figures=figures | {name: promoted[cell] for name, cell in BETTER.items()}, notes=tuple(notes)
    )
