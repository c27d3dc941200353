"""G6, shadow: how decisions and cost would change on unlabelled images of the archive."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import bdtr

from scanfleet.models.promotion.types import GateResult, Limits, Outcome, Shadow

SMOOTH = 0.5  # flags added to both counts, so that the ratio exists without any


def g6_shadow(shadow: Shadow | None, limits: Limits, *, learnt: bool, seed: int, resamples: int) -> GateResult:
    """G6: flag rate, score distribution and latency stay near the champion's.

    Args:
        shadow: Both models on unlabelled images; None skips the condition.
        limits: Limits on ratio, PSI and latency.
        learnt: Whether the champion is an adapter. The base alone has no operating point worth keeping: flag rate and
            PSI are reported but not binding. Latency always binds, by a bound, so that a busy machine refuses no model.
        seed: Of the bootstrap.
        resamples: Samples of the bootstrap.
    """
    title = "shadow"
    if shadow is None or (not shadow.seconds and not len(shadow.champion_flags)):
        return GateResult(gate="G6", title=title, outcome="skipped", words="no unlabelled images to compare on")
    latency, latency_words, latency_figures = _latency(shadow, limits)
    rate, rate_words, rate_figures = _rates(shadow, limits, seed=seed, resamples=resamples)
    psi, psi_words = _psi(shadow, limits)
    binding = [latency, rate, psi] if learnt else [latency]
    outcome = max(binding, key=("skipped", "pass", "undecided", "fail").index)
    aside = "" if learnt else " (not binding against the base alone)"
    figures = {**latency_figures, **rate_figures, "psi": shadow.psi, "golden_psi": shadow.golden_psi, "binding": learnt}
    words = f"{rate_words}, {psi_words}{aside}; {latency_words}"
    return GateResult(gate="G6", title=title, outcome=outcome, words=words, figures=figures)


def _rates(shadow: Shadow, limits: Limits, *, seed: int, resamples: int) -> tuple[Outcome, str, dict[str, object]]:
    m = len(shadow.champion_flags)
    if not m:
        return "skipped", "flag rate: -", {"images": 0}
    before, after = int(shadow.champion_flags.sum()), int(shadow.challenger_flags.sum())
    low, high = _ratio_bounds(shadow, limits, seed=seed, resamples=resamples)
    ratio = (after + SMOOTH) / (before + SMOOTH)
    least, most = limits.flag_ratio
    outcome: Outcome = "undecided"
    if least <= ratio <= most:
        outcome = "pass"
    elif low > most or high < least:
        outcome = "fail"
    words = f"flags {after} of {m} images, the champion {before} (ratio {ratio:.2f} [{low:.2f}, {high:.2f}])"
    figures: dict[str, object] = {"images": m, "flags": after, "champion_flags": before}
    return outcome, words, figures | {"ratio": ratio, "ratio_low": low, "ratio_high": high}


def _ratio_bounds(shadow: Shadow, limits: Limits, *, seed: int, resamples: int) -> tuple[float, float]:
    """Return bounds at the gate's level. Only the pair of answers matters for an image, so samples are multinomial."""
    m = len(shadow.champion_flags)
    kinds = shadow.champion_flags * 2 + shadow.challenger_flags
    shares = np.bincount(kinds.astype(np.int64), minlength=4) / m
    sampled = np.random.default_rng(seed).multinomial(m, shares, size=resamples)
    ratios = (sampled[:, 1] + sampled[:, 3] + SMOOTH) / (sampled[:, 2] + sampled[:, 3] + SMOOTH)
    low, high = np.quantile(ratios, [limits.level, 1 - limits.level])
    return float(low), float(high)


def _psi(shadow: Shadow, limits: Limits) -> tuple[Outcome, str]:
    """Fail where probabilities shift by more than they do on golden images, where G1 to G5 judge the shift."""
    if shadow.psi is None:
        return "skipped", "PSI: -"
    golden = shadow.golden_psi or 0.0
    words = f"PSI {shadow.psi:.3f} ({golden:.3f} on golden images)"
    return ("pass" if shadow.psi - golden < limits.psi else "fail"), words


def _latency(shadow: Shadow, limits: Limits) -> tuple[Outcome, str, dict[str, object]]:
    """Fail where even the lower bound of the median ratio is above the limit."""
    ratios = sorted(ours / theirs for theirs, ours in shadow.seconds if theirs > 0)
    if not ratios:
        return "skipped", "latency: -", {"rounds": 0}
    median, low = float(np.median(ratios)), median_bound(ratios, level=limits.level)
    outcome: Outcome = "fail" if low is not None and low > limits.latency else "pass"
    words = f"latency {median:.2f} times the champion's, median of {len(ratios)} rounds"
    if median > limits.latency and outcome == "pass":
        words += ", too scattered to count"
    return outcome, words, {"rounds": len(ratios), "latency": median, "latency_low": low}


def median_bound(ranked: list[float], *, level: float) -> float | None:
    """Return a lower bound of the median by the sign test.

    Args:
        ranked: Values in ascending order.
        level: Error of the bound.

    Returns:
        The bound, or None where there are too few values.
    """
    below = -1
    while below + 1 < math.ceil(len(ranked) / 2) and bdtr(below + 1, len(ranked), 0.5) <= level:
        below += 1
    return None if below < 0 else ranked[below]
