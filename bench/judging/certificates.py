"""How often certified recall and precision hold, on simulated margins whose truth is known.

A certificate that is given and does not hold breaks its promise; no certificate breaks none. Margins are normal,
SEPARATION apart; images of a group share their kind and a part of their noise. In hard groups all margins move towards
the other kind. The archive differs from the labels in its share of positives alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.special import ndtr

from bench.report import Report
from scanfleet.models.adapters.certificates import Certificate, certify_precision, certify_recall

SEED = 20_261_130
SIMULATIONS = 1000
TARGET, DELTA = 0.95, 0.05
SEPARATION = 4.0  # of the kinds' means, in standard deviations: AUROC .998
LABELLED = 1 / 3  # share of positives among labels
HARD_SHIFT = 4.0  # standard deviations


@dataclass(frozen=True, kw_only=True)
class Case:
    """n labelled images in groups of `size`. alike: correlation inside a group. hard: share of hard groups. archive:
    share of positives, as the check states it; None: not stated, and as among the labels."""

    name: str
    n: int
    size: int = 1
    alike: float = 0.0
    hard: float = 0.0
    archive: float | None = None

    def labels(self, rng: np.random.Generator) -> tuple[list[float], list[bool], list[str]]:
        """(margins, positive, clusters), each `[images]`."""
        groups = self.n // self.size
        kinds = rng.random(groups) < LABELLED
        noise = np.sqrt(self.alike) * rng.standard_normal((groups, 1))
        noise = noise + np.sqrt(1 - self.alike) * rng.standard_normal((groups, self.size))
        middle = SEPARATION / 2 - HARD_SHIFT * (rng.random(groups) < self.hard)
        margins = np.where(kinds, 1, -1)[:, None] * (middle[:, None] + noise)
        names = [str(group) for group in range(groups) for _ in range(self.size)]
        return margins.ravel().tolist(), np.repeat(kinds, self.size).tolist(), names

    def recall(self, threshold: float) -> float:
        return float(self._beyond(threshold - SEPARATION / 2))

    def precision(self, threshold: float) -> float:
        share = LABELLED if self.archive is None else self.archive
        right = share * self.recall(threshold)
        return right / (right + (1 - share) * (1 - self._beyond(-threshold - SEPARATION / 2)))

    def _beyond(self, z: float) -> float:
        """Share of positives more than z above their mean."""
        return float((1 - self.hard) * ndtr(-z) + self.hard * ndtr(-z - HARD_SHIFT))


CASES = (
    *(Case(name=f"independent_{n}", n=n) for n in (100, 200, 300, 500, 1000, 2000)),
    *(Case(name=f"groups_{rho}_{n}", n=n, size=5, alike=rho) for rho in (0.6, 0.9) for n in (1000, 2000)),
    *(Case(name=f"hard_groups_{n}", n=n, size=5, hard=0.04) for n in (1000, 2000)),
    *(Case(name=f"archive_{share:.0%}_{n}", n=n, archive=share) for share in (0.02, 0.05) for n in (2000, 8000)),
    *(Case(name=f"archive_33%_{n}", n=n, archive=LABELLED) for n in (1000, 2000)),
    Case(name="archive_5%_groups_0.6_20000", n=20_000, size=5, alike=0.6, archive=0.05),
)


def run(cases: Sequence[Case] = CASES, *, simulations: int = SIMULATIONS) -> Report:
    """worst_coverage: the smallest share of simulations that keep the promise, over the promised share."""
    figures = {case.name: _measure(case, simulations) for case in cases}
    promised = 1 - DELTA
    both = [found[kind] for found in figures.values() for kind in ("recall_kept", "precision_kept")]
    before = [found[kind] for found in figures.values() for kind in ("recall_kept_before", "precision_kept_before")]
    return Report(
        name="certificates",
        figures={"worst_coverage": min(both) / promised, "worst_coverage_before": min(before) / promised, **figures},
        notes=(
            f"{simulations} simulations a case; promised: {TARGET:g} with confidence {promised:g}, kept from 1.0 on",
            "before: every image as a witness of its own, precision at the prevalence of the labels",
        ),
    )


def _measure(case: Case, simulations: int) -> dict[str, float]:
    rng = np.random.default_rng(SEED)
    outcomes = []
    for _ in range(simulations):
        margins, positive, clusters = case.labels(rng)

        def holds(found: Certificate, truth: Callable[[float], float]) -> tuple[bool, bool]:
            """(certified, not broken)"""
            return found.met, found.threshold is None or truth(found.threshold) >= TARGET

        recall = partial(certify_recall, margins, positive, target=TARGET, delta=DELTA)
        precision = partial(certify_precision, margins, positive, target=TARGET, delta=DELTA)
        outcomes.append(
            (
                *holds(recall(clusters=clusters), case.recall),
                *holds(precision(clusters=clusters, prevalence=case.archive), case.precision),
                holds(recall(), case.recall)[1],
                holds(precision(), case.precision)[1],
            )
        )
    names = ("recall_given", "recall_kept", "precision_given", "precision_kept")
    shares = np.mean(outcomes, axis=0).tolist()
    return dict(zip((*names, "recall_kept_before", "precision_kept_before"), shares, strict=True))
