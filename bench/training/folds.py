"""Trainings on LABELS labels: what the splits leave, against fold trainings; then the same in simulation.

Of every family of models (`bench.training.families`, and linear probes in `bench.training.probes`) label sets are drawn
from the unseen pictures, and what is fitted to them is measured on the rest. split: the adapter that learnt from the
train split, on 100 held-out labels. pooled: the same on 160. folds: the adapter that learnt from all labels, by margins
of those that learnt from the other folds. own: the same by its own margins, which nobody has: it learnt from those.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from bench.judging import folds as simulated
from bench.report import Report
from bench.training.families import FOLDS, LABELS, UNSEEN, Family, family
from bench.training.probes import probe_families
from scanfleet.models.adapters.calibration import fit_platt
from scanfleet.models.adapters.certificates import certify_recall
from scanfleet.models.adapters.metrics import calibration_error
from scanfleet.models.network.base import load_base

SEEDS = tuple(range(1, 1 + int(os.environ.get("BENCH_SEEDS", "1"))))  # seven trainings each
SETS = 200  # of labels, drawn from the pictures of each family of trainings
PROBES, PROBE_SETS = 150, 3
SPLIT, POOLED = 100, 160  # held-out labels
TARGET = 0.9  # .95 is out of reach for these adapters
ARMS = ("split", "pooled", "folds", "own")
Floats = NDArray[np.float64]


class Drawn(NamedTuple):
    """Of one label set: error and true recall on the pictures that are not in it; None: nothing was certified."""

    error: float
    recall: float | None


def run() -> Report:
    torch.set_num_threads(1)
    base = load_base("pocket", precision="fp32")
    with tempfile.TemporaryDirectory() as folder:
        families = [family(base, seed, Path(folder) / str(seed)) for seed in SEEDS]
    trained = figures_of(families, sets=SETS)
    trained["seconds_split"] = mean(each.seconds[0] for each in families)
    trained["seconds_folds"] = mean(sum(each.seconds[1 : 2 + FOLDS]) for each in families)
    probes = figures_of(list(probe_families(base, PROBES)), sets=PROBE_SETS)
    notes = f"{len(families)} sets of {LABELS} labels with {SETS} label sets each, {PROBES} of probes with {PROBE_SETS}"
    return Report(
        name="folds", figures={"trained": trained, "probes": probes, **dict(simulated.cells())}, notes=(notes,)
    )


def figures_of(families: Sequence[Family], *, sets: int) -> dict[str, Any]:
    """sets: of labels, drawn from the unseen pictures of each family."""
    found: dict[str, Any] = {}
    for arm in ARMS:
        found[arm] = _figures([drawn for at, each in enumerate(families) for drawn in _sets(each, arm, sets, seed=at)])
    for name in ("split", "whole"):
        found[f"auroc_{name}"] = mean(float(roc_auc_score(f.positive, getattr(f, name).margins)) for f in families)
    return found | _apart(families)


def _sets(family: Family, arm: str, sets: int, *, seed: int) -> list[Drawn]:
    rng = np.random.default_rng(seed)
    served = family.split if arm in ("split", "pooled") else family.whole
    n = {"split": SPLIT, "pooled": POOLED}.get(arm, LABELS)
    of_folds = np.array([each.margins for each in family.folds])  # [folds, pictures]
    found = []
    for _ in range(sets):
        order = rng.permutation(UNSEEN)
        labelled, rest = order[:LABELS][:n], order[LABELS:]
        margins = of_folds[np.arange(n) % FOLDS, labelled] if arm == "folds" else served.margins[labelled]
        found.append(_drawn(margins, family.positive[labelled], served.margins[rest], family.positive[rest]))
    return found


def _drawn(margins: Floats, events: NDArray[np.bool_], unseen: Floats, truth: NDArray[np.bool_]) -> Drawn:
    made = fit_platt(margins.tolist(), events.tolist())
    threshold = certify_recall(margins.tolist(), events.tolist(), target=TARGET).threshold
    return Drawn(
        error=calibration_error(expit(made.a * unseen + made.b).tolist(), truth.tolist()),
        recall=None if threshold is None else float((unseen[truth] >= threshold).mean()),
    )


def _figures(drawn: Sequence[Drawn]) -> dict[str, float]:
    """kept: share of the label sets whose certified recall is at least TARGET on the other pictures."""
    given = [each.recall for each in drawn if each.recall is not None]
    return {
        "calibration_error": round(mean(each.error for each in drawn), 4),
        "certified": round(len(given) / len(drawn), 3),
        "kept": round(mean(recall >= TARGET for recall in given), 3) if given else 1.0,
    }


def _apart(families: Sequence[Family]) -> dict[str, float]:
    """How far folds' calibrators are from that of the delivered adapter: root mean squares."""
    slopes, offsets = [], []
    for each in families:
        own, *others = (fit_platt(one.margins.tolist(), each.positive.tolist()) for one in (each.whole, *each.folds))
        slopes += [np.log(other.a / own.a) for other in others]
        offsets += [other.b - own.b for other in others]
    return {name: float(np.sqrt(np.mean(np.square(v)))) for name, v in (("slopes", slopes), ("offsets", offsets))}
