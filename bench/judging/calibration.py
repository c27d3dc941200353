"""Calibration error of Platt scaling by the number of images it is fitted on, on simulated margins.

Margins are normal, a third positive, of models of two accuracies. The error (15 bins of equal mass) is that on FRESH
new images, whose own noise is in it (`floor`). By labels: what the default splits leave, by `calibration` alone
(before), with `threshold` (both), and with `golden` as well where that is small (now).
"""

from __future__ import annotations

from statistics import mean

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, ndtri

from bench.report import Report
from scanfleet.models.adapters.calibration import fit_platt
from scanfleet.models.adapters.metrics import calibration_error
from scanfleet.models.errors import ModelInvalid
from scanfleet.worker.evaluation.held_out import ENOUGH_GOLDEN

SEED = 20_261_201
IMAGES = (30, 60, 100, 150, 300, 500, 1000)
LABELS = (200, 400, 800, 1200, 2000)
CALIBRATION, BOTH, GOLDEN = 0.15, 0.25, 0.15  # of the labels: calibration, with threshold; and golden
ACCURACIES = (0.8, 0.9)
PREVALENCE = 1 / 3
FITS, FRESH = 100, 20_000
GOOD = 0.03

Sample = tuple[NDArray[np.float64], NDArray[np.bool_]]


def run() -> Report:
    figures = {f"{n}_images": _errors(n) for n in IMAGES}
    for n in LABELS:
        figures[f"{n}_labels"] = {
            "before": _errors(round(CALIBRATION * n))["mean"],
            "both": _errors(round(BOTH * n))["mean"],
            "now": _errors(_now(n))["mean"],
        }
    return Report(name="calibration", figures=figures | {"floor": _floor()}, notes=(f"{FITS} fits an accuracy",))


def _now(labels: int) -> int:
    shared = round(GOLDEN * labels) < ENOUGH_GOLDEN
    return round((BOTH + GOLDEN * shared) * labels)


def _draw(rng: np.random.Generator, n: int, accuracy: float) -> Sample:
    positive = rng.random(n) < PREVALENCE
    return np.where(positive, 1, -1) * float(ndtri(accuracy)) + rng.standard_normal(n), positive


def _errors(n: int) -> dict[str, float]:
    """mean: error of all fits; good: share of them of at most GOOD."""
    found = []
    for accuracy in ACCURACIES:
        rng = np.random.default_rng(SEED)
        margins, positive = _draw(rng, FRESH, accuracy)
        for _ in range(FITS):
            fitted, events = _draw(rng, n, accuracy)
            try:
                made = fit_platt(fitted.tolist(), events.tolist())
            except ModelInvalid:  # by chance one kind alone, or a slope of the wrong sign
                continue
            found.append(calibration_error(expit(made.a * margins + made.b).tolist(), positive.tolist()))
    return {"mean": round(mean(found), 4), "good": round(mean(error <= GOOD for error in found), 3)}


def _floor() -> float:
    """The error of the true probabilities, which is noise alone."""
    found = []
    for accuracy in ACCURACIES:
        margins, positive = _draw(np.random.default_rng(SEED), FRESH, accuracy)
        truth = expit(2 * float(ndtri(accuracy)) * margins + logit(PREVALENCE))
        found.append(calibration_error(truth.tolist(), positive.tolist()))
    return round(mean(found), 4)
