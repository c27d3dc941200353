"""The labelled images that no training learns from, and which of them serve which purpose.

With many labels each purpose has images of its own: `calibration` and `threshold` fit the score and the certificates,
`golden` compares models. With few, all of them serve all purposes: what is fitted to images is judged on them by
cross-fitting (`worker.evaluation.calibrate`), so that nothing judges what it was fitted to.
"""

from __future__ import annotations

import sqlalchemy as sa

from scanfleet.db.labels.queries import has_pins

FITTED = ("calibration", "threshold")
HELD_OUT = (*FITTED, "golden")
ENOUGH_GOLDEN = 300  # images; with these alone the gate promotes a gain of 5 points in nine comparisons of ten
SHARED_WORDS = (
    f"fewer than {ENOUGH_GOLDEN} golden images: those of calibration and threshold judge as well, each by a calibrator "
    "that was fitted on others"
)


def is_shared(connection: sa.Connection, check_name: str, n_golden: int) -> bool:
    """Return whether the held-out images serve all purposes. A golden set that people chose stays the only measure."""
    return n_golden < ENOUGH_GOLDEN and not connection.execute(sa.select(has_pins(check_name))).scalar_one()


def learnt_from(*, shared: bool) -> tuple[str, ...]:
    """Return the splits whose images must not judge an adapter."""
    return ("train",) if shared else ("train", *FITTED)
