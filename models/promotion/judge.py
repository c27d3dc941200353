"""From both models' margins to one verdict.

promote: all conditions are met. hold: not shown to be better, or a change that a person should review first. reject:
shown to be worse somewhere, or unfit to serve.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from scanfleet.models.adapters import metrics
from scanfleet.models.promotion.conditions import g0_facts, g1_no_worse, g2_better, g4_calibrated, g5_flips
from scanfleet.models.promotion.curves import curves
from scanfleet.models.promotion.decisions import g6_decisions, notes_on
from scanfleet.models.promotion.evidence import collect_evidence
from scanfleet.models.promotion.report import GateReport
from scanfleet.models.promotion.significance import images_needed, visible_gain
from scanfleet.models.promotion.slices import g3_slices
from scanfleet.models.promotion.types import GateResult, Limits, Paired, Shadow, Side, Verdict
from scanfleet.models.promotion.unlabelled import g6_shadow

RESAMPLES = 2000
MOVED = 0.9  # share of the golden images
FOR_A_PERSON = ("G5", "G6")  # changes rather than losses: their failure holds instead of rejecting


def judge(
    paired: Paired,
    shadow: Shadow | None = None,
    *,
    limits: Limits | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> GateReport:
    """Compare the challenger with the champion and return the gate's verdict.

    Args:
        paired: Both models on the golden set.
        shadow: Both models on unlabelled images; None skips that condition.
        limits: Limits to keep; None: the defaults.
        seed: The same input and seed give the same report.
        resamples: Samples of the bootstrap.
    """
    limits = limits or Limits()
    results = [g0_facts(paired)]
    if len(paired):
        evidence = collect_evidence(paired, limits=limits, seed=seed, resamples=resamples)
        results += [
            g1_no_worse(paired, evidence, limits),
            g2_better(paired, evidence, limits),
            g3_slices(paired, limits),
            g4_calibrated(paired, evidence, limits),
            g5_flips(paired, limits),
        ]
    else:
        empty = "no golden images: label more, or pin some with `labels import --split golden`"
        results += [GateResult(gate="G1", title="golden set", outcome="undecided", words=empty)]
    results += [g6_shadow(shadow, limits, learnt=paired.champion.learnt, seed=seed, resamples=resamples)]
    if paired.flags:
        results += [g6_decisions(paired)]
    gain, needed, power = _power(paired, limits)
    verdict, reason = _conclude(results, n=len(paired), needed=needed, gain=gain)
    notes = notes_on(paired)
    if verdict == "promote":  # the reason is said with the promotion, the notes stand on a page
        reason = ". ".join((reason, *notes))
    sides = {"champion": paired.champion, "challenger": paired.challenger}
    return GateReport(
        verdict=verdict,
        reason=reason,
        champion=paired.champion.name,
        challenger=paired.challenger.name,
        n_golden=len(paired),
        results=tuple(results),
        power=power,
        notes=notes,
        figures={
            **{name: side_figures(paired, side) for name, side in sides.items()},
            "images_needed": needed,
            "images_needed_for": gain,
            "margin_move_p90": _margin_move(paired),
            "curves": curves(paired),
        },
    )


def _conclude(results: list[GateResult], *, n: int, needed: int, gain: float) -> tuple[Verdict, str]:
    for result in results:
        if result.outcome == "fail" and result.gate not in FOR_A_PERSON:
            return "reject", f"{result.gate} {result.title}: {result.words}"
    not_met = [result for result in results if result.outcome in ("undecided", "fail")]
    if not not_met:
        return "promote", "better than the champion, and every condition is met"
    first = not_met[0]
    if first.gate in ("G1", "G2") and n < needed:
        enough = f"{needed:,} needed to detect a gain of {100 * gain:.3g} points"
        return "hold", f"golden set too small to decide: {n} images, {enough} ({first.gate}: {first.words})"
    return "hold", f"{first.gate} {first.title}: {first.words}"


def _power(paired: Paired, limits: Limits) -> tuple[float, int, str]:
    """Return a gain, the golden images needed to detect it, and the statement about it.

    The gain is the one that was seen, or that which is worth having if none was.
    """
    n = len(paired)
    before, after = paired.right(paired.champion), paired.right(paired.challenger)
    discordance = float((before != after).mean()) if n else 0.0
    gain = max(float(after.mean() - before.mean()) if n else 0.0, limits.gain)
    needed = images_needed(discordance, gain, level=limits.level, power=limits.power)
    visible = visible_gain(discordance, n, level=limits.level, power=limits.power) if n else None
    seen = f"a gain of {100 * visible:.1f} points" if visible is not None else "no gain at all"
    words = (
        f"The models differ on {100 * discordance:.1f} % of {n} golden images: they can detect {seen} with "
        f"{100 * limits.power:.0f} % power; {100 * gain:.3g} points would need {needed:,}."
    )
    return gain, needed, words


def side_figures(paired: Paired, side: Side) -> dict[str, Any]:
    """Return the figures of one model on the golden set, as plain JSON."""
    n = len(paired)
    if not n:
        return {"n": 0}
    right = paired.right(side)
    figures: dict[str, Any] = {
        "n": n,
        "accuracy": float(right.mean()),
        "accuracy_interval": list(metrics.wilson(int(right.sum()), n)),
        "label_accuracy": float((side.answers == paired.truth).mean()),
    }
    if paired.flags:
        figures |= _flag_figures(paired, side)
    probabilities = side.probabilities()
    if probabilities is not None:
        figures |= metrics.probability_figures(probabilities.tolist(), paired.event(side).tolist())
    return figures


def _flag_figures(paired: Paired, side: Side) -> dict[str, Any]:
    positive, flagged = paired.positive, side.flagged
    n_positive, n_flagged, hits = int(positive.sum()), int(flagged.sum()), int((flagged & positive).sum())
    figures: dict[str, Any] = {
        "prevalence": float(positive.mean()),
        "recall": hits / n_positive if n_positive else None,
        "recall_interval": list(metrics.wilson(hits, n_positive)),
        "precision": hits / n_flagged if n_flagged else None,
        "precision_interval": list(metrics.wilson(hits, n_flagged)),
        "false_positive_rate": float(flagged[~positive].mean()) if n_positive < len(positive) else None,
        **metrics.ranking_figures(side.margins.tolist(), positive.tolist()),
    }
    decisions = np.array([side.served.decide(margin) for margin in side.margins.tolist()])
    return figures | {f"share_{name}": float((decisions == name).mean()) for name in ("flag", "review", "clear")}


def _margin_move(paired: Paired) -> float | None:
    """Return the difference in logits that 90 % of the golden images stay within.

    It tells how far from a threshold answers may change. A quantile, since the largest of many is that of one odd
    image.
    """
    if not len(paired):
        return None
    return float(np.quantile(np.abs(paired.challenger.margins - paired.champion.margins), MOVED))
