"""The claims of the literature on the pocket model and generated pictures: `python -m bench claims --json`.

`BENCH_CLAIMS=quick` takes fewer labels, pictures and steps: about 3 minutes on a core without the baselines. Every
figure has a 95 % interval. The ratio of labels is that of the published comparison, 1 to 10; the numbers are smaller.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.pocket import fresh, measure
from bench.report import Report
from scanfleet.checks.check import load_check
from scanfleet.checks.experiment import parse_experiment
from scanfleet.config.settings import Settings
from scanfleet.models import factory
from scanfleet.models.network.base import load_base
from scanfleet.models.pocket import adapter_folder
from scanfleet.models.pocket.questions import QUESTIONS
from scanfleet.worker.experiments.arms import Arms, check_arms
from scanfleet.worker.experiments.data import generated, split_of
from scanfleet.worker.experiments.record import record_of
from scanfleet.worker.experiments.run import run_cells
from scanfleet.worker.scoring.factory import question_of

SPEC = Path(__file__).with_name("claims.toml")
FULL = {"LABELS": "500", "MORE": "5000", "PICTURES": "8000", "STEPS": "", "SEEDS": "1, 2, 3"}
QUICK = {
    "LABELS": "80",
    "MORE": "800",
    "PICTURES": "1500",
    "STEPS": ", epochs = 2, min_steps = 0, max_epochs = 2",
    "SEEDS": "1, 2",
}
ROWS = {  # key -> arm whose accuracy is compared with that of its `against`
    "vlm_1k_minus_cnn_10k_points": "sft",
    "head_gain_points": "sft-head",
    "mixup_points": "mixup",
    "unfrozen_minus_frozen_points": "unfrozen",
}
WITH = {"sft": "cnn", "resnet": "sft", "sft-head": "sft", "mixup": "sft", "unfrozen": "sft"}
PUBLISHED = {  # which side of 0 the literature reports: docs/findings.md has the sources
    "vlm_1k_minus_cnn_10k_points": 1,
    "vlm_1k_minus_resnet_10k_points": 1,
    "head_gain_points": 1,
    "mixup_points": -1,
}
FRESH_SEED, SIDES = 7_600_000, (128, 224, 448)  # pictures that nothing was trained on; pixels


def run() -> Report:
    quick = os.environ.get("BENCH_CLAIMS") == "quick"
    record = _experiment(QUICK if quick else FULL)
    figures: dict[str, Any] = {key: _points(record, arm) for key, arm in ROWS.items()}
    figures["vlm_1k_minus_resnet_10k_points"] = _turned(_points(record, "resnet"))
    sft = _row(record, "sft")
    figures["ood_drop_points"] = None if sft is None else _times(sft["unseen_styles"]["drop"])
    figures |= _shipped(50 if quick else 400)
    left_out = tuple(f"left out: {one['arm']}: {one['reason']}" for one in record["left_out"])
    print(markdown(figures))
    return Report(name="claims", figures=figures, notes=(f"{record['images']}, seeds {record['seeds']}", *left_out))


def _experiment(figures: dict[str, str]) -> dict[str, Any]:
    text = SPEC.read_text(encoding="utf-8")
    for name, value in figures.items():
        text = text.replace(name, value)
    experiment = parse_experiment(text, where=SPEC.name)
    check = load_check(experiment.check)
    check_arms(experiment)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder))
        images = generated(settings, experiment.data, question_of(check), Path(folder))
        split = split_of(experiment, images)
        arms = Arms(settings, experiment, check, split, Path(folder) / "cells")
        cells = run_cells(arms, experiment, (), on_cell=lambda _: None, on_progress=_say)
    return record_of(experiment, question_of(check), split, cells)


def _say(what: str, done: int, total: int) -> None:
    print(f"{done} of {total}: {what}", file=sys.stderr, flush=True)


def _row(record: dict[str, Any], arm: str) -> dict[str, Any] | None:
    return next((row for row in record["rows"] if row["arm"] == arm), None)


def _points(record: dict[str, Any], arm: str) -> dict[str, float] | None:
    row = _row(record, arm)
    return None if row is None or row["compared_with"] != WITH[arm] else _times(row["against"])


def _times(found: dict[str, float | None] | None) -> dict[str, float] | None:
    """Return a difference of shares in points; None where it is unknown."""
    if found is None or found["value"] is None:
        return None
    return {name: round(100 * value, 2) for name, value in found.items() if value is not None}


def _turned(found: dict[str, float] | None) -> dict[str, float] | None:
    """Return the same difference from the other side."""
    return None if found is None else {"value": -found["value"], "low": -found["high"], "high": -found["low"]}


def _shipped(each: int) -> dict[str, Any]:
    """Return the accuracy of the shipped adapters on fresh pictures, with Wilson intervals."""
    base, found = load_base("pocket", precision="fp32"), {}
    for key, check, figure in (
        ("generated_overlay_accuracy", "overlay", "accuracy"),
        ("generated_threat_accuracy", "baggage", "flag_accuracy"),
    ):
        scorer = factory.scorer(base, QUESTIONS[check], adapter_folder(check))
        found[key] = measure(scorer, fresh(check, FRESH_SEED, [(side, side, each) for side in SIDES])).summary()[figure]
    return found


def markdown(figures: dict[str, Any]) -> str:
    """Return the figures as the rows of the table in docs/findings.md.

    >>> print(markdown({"mixup_points": {"value": -1.5, "low": -3, "high": 0.5}, "ood_drop_points": None}))
    | `mixup_points` | -1.5 [-3, 0.5] | undecided |
    | `ood_drop_points` | not measured | nothing published |
    """
    return "\n".join(f"| `{key}` | {_interval(found)} | {_verdict(key, found)} |" for key, found in figures.items())


def _interval(found: dict[str, float] | None) -> str:
    return "not measured" if found is None else f"{found['value']:g} [{found['low']:g}, {found['high']:g}]"


def _verdict(key: str, found: dict[str, float] | None) -> str:
    """Return "reproduced" where the whole interval is on the published side of 0, "refuted" on the other."""
    if key not in PUBLISHED:
        return "nothing published"
    if found is None or found["low"] <= 0 <= found["high"]:
        return "undecided"
    return "reproduced" if (found["low"] > 0) == (PUBLISHED[key] > 0) else "refuted"
