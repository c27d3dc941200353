"""G6, decisions: whether the challenger may still flag and clear automatically what the champion does.

The golden set cannot show this: even odds, by which it is judged, need no certificate. A worker serves by certified
thresholds; where one is missing, all images of that kind go to people.
"""

from __future__ import annotations

from scanfleet.models.adapters.certificates import LEAST_FLAGGED, Certificate
from scanfleet.models.promotion.types import GateResult, Paired, Side

ASIDE = " (not binding against the base alone)"


def g6_decisions(paired: Paired) -> GateResult:
    """G6: fails, which holds, where the champion has a certified threshold and the challenger has none."""
    theirs, ours = _certified(paired.champion), _certified(paired.challenger)
    learnt = paired.champion.learnt
    lost = [kind for kind in theirs if kind not in ours]
    lacking = [kind for kind in ("flag", "review") if kind not in ours]
    words = "; ".join(f"the challenger {_effect(paired.challenger, kind)}: {_reason(paired, kind)}" for kind in lacking)
    if not lacking:
        words = "it flags and clears by certified thresholds"
    elif not learnt:
        words += ASIDE
    elif not lost:
        words += " (neither does the champion)"
    return GateResult(
        gate="G6",
        title="decisions",
        outcome="fail" if lost and learnt else ("skipped" if lacking else "pass"),
        words=words,
        figures={"certified": ours, "champion_certified": theirs if learnt else [], "binding": learnt},
    )


def notes_on(paired: Paired) -> tuple[str, ...]:
    """Return one line on the decisions that the challenger never takes automatically, with reasons; empty for none."""
    served = paired.challenger.served
    never = [kind for kind in ("flag", "review") if getattr(served, kind) is None]
    if not paired.flags or not never:
        return ()
    reasons = "; ".join(f"it {_effect(paired.challenger, kind)}: {_reason(paired, kind)}" for kind in never)
    opening = "sends EVERY image to review" if len(never) == 2 else "leaves more to people"
    return (f"WARNING: {paired.challenger.name} {opening}: {reasons}",)


def _certified(side: Side) -> list[str]:
    if side.thresholds is None:
        return []
    return [kind for kind in ("flag", "review") if getattr(side.thresholds, kind) is not None]


def _effect(side: Side, kind: str) -> str:
    if side.thresholds is None:
        return "flags at even odds" if kind == "flag" else "clears at even odds"
    return "flags nothing" if kind == "flag" else "clears nothing"


def _reason(paired: Paired, kind: str) -> str:
    """Return the reason in words, with the fewest labels that could change it where the certificate tells."""
    side = paired.challenger
    name = "precision" if kind == "flag" else "recall"
    found = side.precision if kind == "flag" else side.recall
    if found is None or found.met:
        return f"its card certifies no {name}"
    on = _precision_seen(found, side.certified_on) if kind == "flag" else f"{found.trials:g} positives"
    least = found.fewest if kind == "review" else max(LEAST_FLAGGED, found.fewest)
    kept = "positives without a miss" if kind == "review" else "flagged images without an error"
    target = f"{name} {found.target:g}{_place(found)}"
    return (
        f"{target} could not be certified on {on}, which needs at least {least:g} {kept}; "
        f"label more in calibration/threshold, or lower target_{name}"
    )


def _precision_seen(found: Certificate, labels: int | None) -> str:
    on = "the labels at hand" if labels is None else f"{labels} labels"
    return f"{on} ({found.failures:g} of the {found.trials:g} highest margins wrong)" if found.trials else on


def _place(found: Certificate) -> str:
    """The share of positives that a precision refers to."""
    return "" if found.prevalence is None else f" at {100 * found.prevalence:.3g} % positives"
