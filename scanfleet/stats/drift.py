"""Decide from counts whether answers have drifted. Pure: `scanfleet.db.drift.reference` counts.

A figure alarms where it is large *and* exceeds chance. With few images the finding is that they are too few.
Margins are compared within one scorer only: two scorers' logits have no common scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scanfleet.stats.proportions import Proportion, ratio_interval
from scanfleet.stats.psi import psi_mean, psi_noise, psi_of_counts

Level = Literal["alarm", "watch", "note"]

MIN_IMAGES = 200  # verdicts on both sides before a distribution is judged
PSI_ALARM, PSI_WATCH = 0.2, 0.1  # above the value expected by chance
RATIO_ALARM, RATIO_WATCH = 2.0, 1.25  # of flag rates, either way
MIN_MASS_IMAGES = 50
MASS_FLOOR = 0.9  # below it the model rarely answers with a label: prompt or adapter is suspect
MASS_ALARM, MASS_WATCH = 0.1, 0.01  # share of verdicts below the floor
MIN_LABELS = 30  # labels, or flags among them, before people's corrections are judged
OVERRIDE_ALARM = 0.2  # share of answers that people correct


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Counts over verdicts of one scorer. bins: between the edges of the reference."""

    bins: tuple[int, ...]
    n_flag: int
    n_review: int
    n_low_mass: int  # under MASS_FLOOR
    mean_mass: float

    @property
    def n(self) -> int:
        return sum(self.bins)


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Verdicts of one scorer in one scan, or in one source of it (None: the whole scan), with their reference.

    before: counts of the reference; None: there is none, or these images are it. reference: its scan and source as
    text, also where `before` is None because these are the reference's own images.
    """

    scan: str
    scorer_id: int
    scorer: str  # as text
    source: str | None
    tally: Tally
    before: Tally | None
    reference: str | None
    zero_shot: bool = False  # by the base alone

    @property
    def comparable(self) -> bool:
        return self.before is not None and min(self.tally.n, self.before.n) >= MIN_IMAGES

    @property
    def psi(self) -> float | None:
        """The PSI of the margins; None without a reference."""
        return None if self.before is None else psi_of_counts(self.before.bins, self.tally.bins)

    @property
    def psi_by_chance(self) -> float | None:
        """The mean of the PSI if nothing had changed."""
        if self.before is None:
            return None
        return psi_mean(self.before.n, self.tally.n, bins=len(self.tally.bins))

    @property
    def flag_rate(self) -> Proportion:
        return Proportion(k=self.tally.n_flag, n=self.tally.n)

    @property
    def flag_ratio(self) -> float | None:
        """Flag rate over that of the reference; None without one, or where it flagged nothing."""
        if self.before is None or not self.before.n_flag:
            return None
        return (self.tally.n_flag / self.tally.n) / (self.before.n_flag / self.before.n)


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Counts over people's labels of images whose answer they were shown.

    overridden: label differs from the answer. missed: of images shown as clear, those that should have been flagged.
    recall: of images that should have been flagged, those that were not shown as clear.
    positive: images that should be flagged; in a random sample this estimates the check's `prevalence`.
    """

    drawn: Literal["all", "random"]
    overridden: Proportion
    missed: Proportion
    recall: Proportion
    positive: Proportion


@dataclass(frozen=True, kw_only=True)
class Finding:
    level: Level
    words: str


def judge(found: Slice, *, of_mass: bool = True) -> list[Finding]:
    """Return the findings about a slice, the most severe first. of_mass: include its label mass."""
    name = f"scan {found.scan}" + (f", {found.source}" if found.source is not None else "")
    findings = [*(_of_mass(found.tally) if of_mass else ()), *_of_margins(found), *_of_flags(found)]
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


def _of_margins(found: Slice) -> list[Finding]:
    if found.before is None or found.psi is None or found.psi_by_chance is None:
        return []
    if not found.comparable:
        n, n_before = found.tally.n, found.before.n
        words = f"too few verdicts to judge the margins ({n}, reference {n_before}; {MIN_IMAGES} are needed)"
        return [Finding(level="note", words=words)]
    beyond = found.psi - found.psi_by_chance
    noise = psi_noise(found.before.n, found.tally.n, bins=len(found.tally.bins))
    if beyond < PSI_WATCH or found.psi <= noise:
        return []
    level: Level = "alarm" if beyond >= PSI_ALARM else "watch"
    by_chance = f"chance alone gives {found.psi_by_chance:.2f}"
    words = f"margins moved: PSI {found.psi:.2f} against {found.reference}, {by_chance}"
    return [Finding(level=level, words=words)]


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
