"""Decide from counts whether answers have drifted. Pure: `scanfleet.db.drift.reference` counts.

A figure alarms where it is large *and* exceeds chance. With few images the finding is that they are too few.
Margins are compared within one scorer only: two scorers' logits have no common scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from scanfleet.stats.counts import MASS_FLOOR, MIN_IMAGES, Labels, Slice, Tally
from scanfleet.stats.proportions import Proportion, ratio_interval
from scanfleet.stats.psi import psi_mean, psi_noise
from scanfleet.stats.shares import Moved, least_z, most_moved, outside_by_chance
from scanfleet.stats.unlike import FAR_BY_CHANCE, LOST_SHARE, far_by_chance

Level = Literal["alarm", "watch", "note"]

MIN_RANGE_IMAGES = 500  # and before the share of a range of margins is
PSI_ALARM, PSI_WATCH = 0.2, 0.1  # above the value expected by chance
LEVEL = 0.01  # error of the test of a range of margins
SHARE_ALARM, SHARE_WATCH = 0.05, 0.03  # of the verdicts, that moved into a range of margins or out of it
OUTSIDE_LEVEL, OUTSIDE_ALARM = 0.001, 0.01  # margins that no verdict of the reference had
MIN_CALIBRATED = 60  # margins of the calibration, and of a first scan that is held to them
MIN_FAR_IMAGES = 100  # compared with the calibration images, before their share of far ones is judged
FAR_LEVEL = 0.001  # error of the test of that share
FAR_RANGE_LEVEL, FAR_RANGE_ALARM = 0.005, 0.03  # far images of one range of margins: error, and share of the verdicts
RATIO_ALARM, RATIO_WATCH = 2.0, 1.25  # of flag rates, either way
MIN_MASS_IMAGES = 50
MASS_ALARM, MASS_WATCH = 0.1, 0.01  # share of verdicts below the floor
MIN_LABELS = 30  # labels, or flags among them, before people's corrections are judged
OVERRIDE_ALARM = 0.2  # share of answers that people correct


@dataclass(frozen=True, kw_only=True)
class Finding:
    level: Level
    words: str


def judge(found: Slice, *, of_mass: bool = True) -> list[Finding]:
    """Return the findings about a slice, the most severe first. of_mass: include its label mass."""
    name = f"scan {found.scan}" + (f", {found.source}" if found.source is not None else "")
    findings = [
        *(_of_mass(found.tally) if of_mass else ()),
        *_of_images(found),
        *_of_calibration(found),
        *_of_margins(found),
        *_of_flags(found),
    ]
    order: tuple[Level, ...] = ("alarm", "watch", "note")
    named = [Finding(level=each.level, words=f"{name}: {each.words}") for each in findings]
    return sorted(named, key=lambda each: order.index(each.level))


def judge_labels(check: str, found: Labels, *, target_recall: float) -> list[Finding]:
    """Return the findings about people's corrections. Only a random sample represents the archive."""
    if found.drawn != "random":
        return []
    alarms = []
    low, _ = found.overridden.interval
    if found.overridden.n >= MIN_LABELS and low > OVERRIDE_ALARM:
        words = f"people correct {share_text(found.overridden)} of the answers in a random sample"
        alarms.append(Finding(level="alarm", words=f"check {check}: {words}: train on the corrections"))
    _, high = found.recall.interval
    if found.recall.n >= MIN_LABELS and high < target_recall:
        words = (
            f"{share_text(found.recall)} of what should be flagged is not cleared, the target is {target_recall:.0%}"
        )
        alarms.append(Finding(level="alarm", words=f"check {check}: in a random sample {words}"))
    return alarms


def share_text(share: Proportion) -> str:
    """Return a proportion with its interval as text.

    >>> share_text(Proportion(k=5, n=50))
    '10.0% (5 of 50; 95 % interval 4.3% to 21.4%)'
    """
    low, high = share.interval
    return f"{share.value or 0:.1%} ({share.k} of {share.n}; 95 % interval {low:.1%} to {high:.1%})"


def _of_images(found: Slice) -> list[Finding]:
    """Findings about what the images look like: held to the calibration's, so also in a first scan, and to the
    reference's."""
    k, n, share = found.tally.n_far, found.tally.n_compared, found.far_share
    if share is None or n < MIN_FAR_IMAGES or not found.n_calibration:
        return []
    more = share - FAR_BY_CHANCE
    if more >= SHARE_ALARM and far_by_chance(k, n, n_calibration=found.n_calibration) < FAR_LEVEL:
        words = f"unlike what the adapter was calibrated on: {share:.1%} of the images lie as far from those images as "
        words += f"{FAR_BY_CHANCE:.0%} of them do from each other"
        if share >= LOST_SHARE:
            words += "; no certificate holds here"
        return [Finding(level="alarm", words=words)]
    return _of_more_far(found)


def _of_calibration(found: Slice) -> list[Finding]:
    """Findings about the margins of a first scan. Labels are often of hard images, so these do not alarm."""
    held, n = found.calibration, found.tally.n
    if held is None or min(n, held.n) < MIN_CALIBRATED:
        return []
    outside = found.tally.n_outside
    if outside / n >= OUTSIDE_ALARM and outside_by_chance(outside, n, n_before=held.n) < OUTSIDE_LEVEL:
        return [Finding(level="watch", words=f"{outside / n:.1%} of the margins lie outside all of the calibration's")]
    psi, bins = held.least_psi(found.tally.bins), len(found.tally.bins)
    if psi - psi_mean(held.n, n, bins=bins) < PSI_ALARM or psi <= psi_noise(held.n, n, bins=bins):
        return []
    words = f"margins are like no mixture of those that the adapter was calibrated on: PSI {psi:.2f}"
    return [Finding(level="watch", words=words)]


def _of_more_far(found: Slice) -> list[Finding]:
    """The finding about a part of images of a new kind, beside those of the reference."""
    now, before = found.tally, found.before
    if before is None or before.n_compared < MIN_FAR_IMAGES:
        return []
    pooled = (now.n_far + before.n_far) / (now.n_compared + before.n_compared)
    spread = math.sqrt(pooled * (1 - pooled) * (1 / now.n_compared + 1 / before.n_compared))
    share, was = now.n_far / now.n_compared, before.n_far / before.n_compared
    moved = share - was >= SHARE_WATCH and share - was >= NormalDist().inv_cdf(1 - FAR_LEVEL) * spread
    words = f"{share:.1%} of the images are far from those of the calibration, {was:.1%} in {found.reference}"
    if moved and share - was >= SHARE_ALARM:
        return [Finding(level="alarm", words=f"images of a new kind: {words}")]
    of_range = _of_far_range(now, before, found.reference)
    return of_range or ([Finding(level="watch", words=f"images of a new kind: {words}")] if moved else [])


def _of_far_range(now: Tally, before: Tally, reference: str | None) -> list[Finding]:
    """The finding about far images whose margins are alike.

    New images of one kind are far *and* answered alike. A tenth of the known ones is far as well, but spread over all
    margins: in the range of the new ones few of those are in the way.
    """
    if not now.far_bins or not before.far_bins or min(now.n_compared, before.n_compared) < MIN_RANGE_IMAGES:
        return []
    # The images that are not far are a last bin, so that shares are of all.
    was, are = ([*each.far_bins, each.n_compared - each.n_far] for each in (before, now))
    moved = most_moved(was, are)
    if moved.z < least_z(len(are), level=FAR_RANGE_LEVEL) or moved.change < FAR_RANGE_ALARM:
        return []
    if moved.last - moved.first >= len(now.far_bins) // 2:
        return []  # spread over all margins: `_of_more_far` judges that
    words = f"{moved.now:.1%} of the images are far from those of the calibration and have margins in "
    words += f"{_deciles(moved)}, {moved.before:.1%} in {reference}"
    return [Finding(level="alarm", words=f"images of a new kind: {words}")]


def _of_margins(found: Slice) -> list[Finding]:
    if found.before is None or found.psi is None or found.psi_by_chance is None:
        return []
    if not found.comparable:
        n, n_before = found.tally.n, found.before.n
        words = f"too few verdicts to judge the margins ({n}, reference {n_before}; {MIN_IMAGES} are needed)"
        return [Finding(level="note", words=words)]
    beyond = found.psi - found.psi_by_chance
    noise = psi_noise(found.before.n, found.tally.n, bins=len(found.tally.bins))
    if beyond >= PSI_WATCH and found.psi > noise:
        level: Level = "alarm" if beyond >= PSI_ALARM else "watch"
        by_chance = f"chance alone gives {found.psi_by_chance:.2f}"
        words = f"margins moved: PSI {found.psi:.2f} against {found.reference}, {by_chance}"
        if level == "alarm":
            return [Finding(level=level, words=words)]
        return _of_part(found, found.before) or [Finding(level=level, words=words)]
    return _of_part(found, found.before)


def _of_part(found: Slice, before: Tally) -> list[Finding]:
    """The finding about a part of the images that is of another kind."""
    return _of_outside(found, before) or _of_range(found, before)


def _of_range(found: Slice, before: Tally) -> list[Finding]:
    """Findings about the range of margins whose share moved most: a part of the images is of another kind."""
    bins = found.tally.bins
    if len(bins) < 2 or min(found.tally.n, before.n) < MIN_RANGE_IMAGES:
        return []
    moved = most_moved(before.bins, bins)
    if abs(moved.z) < least_z(len(bins), level=LEVEL) or abs(moved.change) < SHARE_WATCH:
        return []
    part = f"{moved.now:.1%} of the margins lie where {moved.before:.1%} did in {found.reference}"
    level: Level = "alarm" if abs(moved.change) >= SHARE_ALARM else "watch"
    return [Finding(level=level, words=f"margins moved: {part} ({_deciles(moved)} of its margins)")]


def _deciles(moved: Moved) -> str:
    several = moved.last > moved.first
    return f"deciles {moved.first + 1} to {moved.last + 1}" if several else f"decile {moved.first + 1}"


def _of_outside(found: Slice, before: Tally) -> list[Finding]:
    k, n = found.tally.n_outside, found.tally.n
    if k / n < OUTSIDE_ALARM or outside_by_chance(k, n, n_before=before.n) >= OUTSIDE_LEVEL:
        return []
    words = f"{k / n:.1%} of the margins lie outside all of {found.reference}: images of a kind that it had none of"
    return [Finding(level="alarm", words=words)]


def _of_flags(found: Slice) -> list[Finding]:
    if found.before is None or not found.comparable:
        return []
    now, before = found.tally, found.before
    if not now.n_flag and not before.n_flag:
        return []
    low, high = ratio_interval(now.n_flag, now.n, before.n_flag, before.n)
    away = max(low, 1 / high)  # how far even the near end of the interval is from "as before"
    if away <= RATIO_WATCH:
        return []
    level: Level = "alarm" if away > RATIO_ALARM else "watch"
    rates = f"{now.n_flag / now.n:.1%} flagged, {before.n_flag / before.n:.1%} in {found.reference}"
    return [Finding(level=level, words=f"flag rate moved: {rates}")]


def _of_mass(now: Tally) -> list[Finding]:
    if now.n < MIN_MASS_IMAGES:
        return []
    share = now.n_low_mass / now.n
    if share < MASS_WATCH and now.mean_mass >= MASS_FLOOR:
        return []
    level: Level = "alarm" if share >= MASS_ALARM or now.mean_mass < MASS_FLOOR else "watch"
    words = f"{share:.1%} of the verdicts have a label mass under {MASS_FLOOR} (mean {now.mean_mass:.2f})"
    return [Finding(level=level, words=f"{words}: the model rarely answers with a label: check prompt and adapter")]
