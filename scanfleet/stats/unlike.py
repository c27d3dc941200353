"""When many images are unlike those that their adapter was calibrated on. Pure.

`unlike` of an image is the share of the calibration images that are less unlike (`models.adapters.likeness`): of
images of the same kind a tenth lies above .9, up to the chance in which images were drawn for the calibration.
"""

from __future__ import annotations

import math

FAR = 0.9  # `unlike` from here on is far
FAR_BY_CHANCE = 1 - FAR  # share of images of the same kind
UNKNOWN_IMAGES = 60  # calibration images, where their number is not known: few, so that more counts as chance
LOST_SHARE = 0.25  # of the images of a scan are far: its adapter is lost there
LOST_IMAGES = 100  # and at least so many were compared
DOUBTFUL_SHARE = 0.15  # of a batch: its scan is looked at


def is_lost(n_far: int, n_compared: int) -> bool:
    """Return whether a scan's decisions cannot rest on its adapter.

    Of 100 images of the same kind more than 25 are far once in 10,000 scans, and with 60 calibration images, whose own
    tenth is uncertain, once in 300.
    """
    return n_compared >= LOST_IMAGES and n_far >= LOST_SHARE * n_compared


def far_by_chance(k: int, n: int, *, n_calibration: int) -> float:
    """Return the probability that k or more of n images of the same kind are far.

    The share beyond the m-th farthest of N calibration images is distributed as Beta(m, N + 1 - m), whatever their
    distribution (Wilks 1942), so that k is beta-binomial.
    """
    m = max(1, round(FAR_BY_CHANCE * (n_calibration + 1)))
    whole = math.log(n + 1) + _log_beta(m, n_calibration + 1 - m)
    logs = (_log_beta(j + m, n - j + n_calibration + 1 - m) - _log_beta(n - j + 1, j + 1) - whole for j in range(k))
    return max(0.0, 1.0 - math.fsum(map(math.exp, logs)))


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
