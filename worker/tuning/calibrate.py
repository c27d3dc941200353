"""Calibrator and thresholds of the chosen setting, from held-out images alone; the gate's band from the search part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from models.training.data.types import Example
from models.types import Question
from scanfleet.checks.check import Check
from worker.evaluation.calibrate import Measured, calibrated_from
from worker.tuning.evaluate import Evaluator
from worker.tuning.search_space import Setting
from worker.tuning.splits import halves


def fitted(
    evaluator: Evaluator,
    setting: Setting,
    images: Sequence[int],
    examples: Sequence[Example],
    *,
    check: Check,
    question: Question,
    seed: int,
) -> dict[str, Any]:
    """{"calibrator", "thresholds", "first_thresholds", "metrics"} as `scanfleet.db.results.calibrations` keeps them.

    A target that these images cannot certify is null and says so in the metrics.
    """
    outcome = evaluator.outcome(setting, images)
    positive = evaluator.truth(images).positive
    events = positive if question.flags else outcome.right
    measured = {
        image: Measured(
            key=examples[image].key,
            margin=float(outcome.margins[at]),
            event=bool(events[at]),
            right=bool(outcome.right[at]),
        )
        for at, image in enumerate(images)
    }
    one, other = ([measured[image] for image in half] for half in halves(images, examples, seed=seed))
    found = calibrated_from(one, other, question, check.target_recall, check.target_precision)
    gate = None if isinstance(setting.crop, str) else evaluator.first_thresholds(setting.first)
    return {
        "calibrator": None if found.calibrator is None else asdict(found.calibrator),
        "thresholds": None if found.thresholds is None else asdict(found.thresholds),
        "first_thresholds": None if gate is None else asdict(gate),
        "metrics": found.metrics | {"split": "held out by tune"},
    }
