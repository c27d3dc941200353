"""Explains the answers of a scan: who scored, what decides, what a score means. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from scanfleet.checks.crop import NEVER
from scanfleet.db.results.scorers import ScorerUse
from scanfleet.producer.reports.caveats import caveats
from scanfleet.stats.proportions import positives_text

UNCERTIFIED = "never, no threshold could be certified"
BY_LABEL = "review: the top label has less than half of the probability"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One scorer of a scan. who: model, precision, adapter; decision: what flags and clears; score: its meaning.

    shift: how far the margins of canary images moved; None: there are no canaries. looks: which images get a crop
    pass, and how; None: none. warnings: what an operator must fix, and what keeps the answers from being relied on.
    """

    who: str
    n_images: int
    decision: str
    score: str
    shift: str | None = None
    looks: str | None = None
    warnings: tuple[str, ...] = ()


def entry(scorer: ScorerUse, *, has_flags: bool, check: str = "NAME", prevalence: float | None = None) -> Entry:
    """Explain a scorer. has_flags: the check has flagging labels. check: its name, for commands to copy.

    prevalence: share of positives in the archive, as the check has it.
    """
    adapter = f"adapter {scorer.adapter[:12]}" if scorer.adapter else "no adapter"
    mode = f" ({scorer.mode})" if scorer.mode else ""
    return Entry(
        who=f"{scorer.base_model} ({scorer.precision}), {adapter}{mode}",
        n_images=scorer.n_images,
        decision=_decision(scorer, prevalence) if has_flags else BY_LABEL,
        score=_score(scorer, prevalence),
        shift=None if scorer.shift is None else _shift(scorer.shift),
        looks=None if scorer.crop == NEVER else _crop_pass(json.loads(scorer.crop)),
        warnings=_caveats(scorer) + ((_warning(check),) if has_flags and _untried(scorer) else ()),
    )


def _caveats(scorer: ScorerUse) -> tuple[str, ...]:
    return caveats(
        base_model=scorer.base_model,
        adapter=scorer.adapter,
        calibrated=scorer.calibrator is not None,
        n_images=scorer.n_images,
        n_low_mass=scorer.n_low_mass,
        n_far=scorer.n_far,
        n_compared=scorer.n_compared,
        n_doubted=scorer.n_doubted,
    )


def _untried(scorer: ScorerUse) -> bool:
    """Return True if an adapter certifies the first pass, but nothing the crop pass (`worker.scoring.crop`)."""
    if scorer.crop == NEVER or scorer.calibrator is not None or scorer.thresholds is None:
        return False
    return scorer.thresholds.get("review") is None


def _warning(check: str) -> str:
    fit = f"scanfleet tune --check {check} --labels ... --apply"
    return f"the crop pass of this check is not calibrated, so it clears no image: calibrate it with `{fit}`"


def _decision(scorer: ScorerUse, prevalence: float | None) -> str:
    if scorer.thresholds is None:
        rule = "margin of 0 or more" if scorer.calibrator is None else "score of 0.5 or more"
        return f"flag: {rule}, no certified threshold"
    flag, review = scorer.thresholds.get("flag"), scorer.thresholds.get("review")
    share = prevalence or (scorer.calibrator or {}).get("prevalence")
    place = "" if share is None else f" {positives_text(share)}"
    certified = f", certified{place}" if place else ""
    flagged = f"{UNCERTIFIED}{place}" if flag is None else f"margin of {flag:+.3f} or more{certified}"
    if _untried(scorer):
        return (
            f"flag: {flagged} after a crop; clear: none after a crop; else review; "
            "an image without a crop is decided as without a crop pass"
        )
    cleared = UNCERTIFIED if review is None else f"margin under {review:+.3f}"
    return f"flag: {flagged}; clear: {cleared}; else review"


def _score(scorer: ScorerUse, prevalence: float | None) -> str:
    held = scorer.calibrator
    if held is None:
        return "score: none, the margin is not calibrated"
    words = f"score: probability of a flag by {held.get('method', 'platt')} calibration"
    if "n" in held and "prevalence" in held:
        words += f" on {held['n']} images, {held['prevalence']:.0%} of which should be flagged"
    return words if prevalence is None else f"{words}; stated for an archive {positives_text(prevalence)}"


def _shift(held: dict[str, Any]) -> str:
    return (
        f"checked on {held['n']} canary images: margins within {held['max']:.3f} of those stored with the adapter "
        f"({held['against']}), {held['mean']:.3f} on average"
    )


_GATES = {"shrunk": "of shrunk images", "always": "of every image"}


def _crop_pass(crop: dict[str, Any]) -> str:
    """Describe a crop pass. crop: parsed from `scanfleet.checks.crop.crop_text`."""
    which = _GATES.get(crop["when"])
    if which is None:
        ends = crop["uncertain"]
        low, high = (ends["low"], -crop["band"]), (ends["high"], crop["band"])
        words = [f"{end + band:+.3f}" if end is not None else "any" for end, band in (low, high)]
        which = f"where the first margin lies between {words[0]} and {words[1]}"
        which += ", and of shrunk images" if crop["when"] == "uncertain-or-shrunk" else ""
    return f"crop pass ({crop['look']}) {which}, for at most {crop['max_extra']:g} times the tokens of the first pass"
