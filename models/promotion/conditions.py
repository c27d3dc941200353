"""G0, G1, G2, G4 and G5: conditions on the golden set as a whole.

G3 is in models.promotion.slices, G6 in models.promotion.unlabelled and models.promotion.decisions.
"""

from __future__ import annotations

import numpy as np

from scanfleet.models.promotion.bootstrap import Bounded
from scanfleet.models.promotion.evidence import Evidence
from scanfleet.models.promotion.significance import at_least, mcnemar
from scanfleet.models.promotion.types import MODEL_MISFITS, Bools, GateResult, Limits, Outcome, Paired

LISTED = 1000  # negative flips that a report names


def points(difference: float) -> str:
    """Format a difference of two proportions in percentage points."""
    return f"{100 * difference:+.1f}"


def interval(found: Bounded) -> str:
    """Format a difference of two proportions with its bounds, in percentage points."""
    return f"{points(found.value)} points [{points(found.low)}, {points(found.high)}]"


def g0_facts(paired: Paired) -> GateResult:
    """G0: no golden image was trained on, the canary is reproduced, question and base are the champion's."""
    facts = paired.facts
    leaked = [key for key in paired.keys if key in facts.train_keys]
    alike = [
        key
        for key, cluster in zip(paired.keys, paired.clusters, strict=True)
        if cluster in facts.train_clusters and key not in facts.train_keys
    ]
    wrong = []
    if leaked:
        wrong.append(f"{len(leaked)} golden images were used for training")
    if alike:
        wrong.append(f"{len(alike)} golden images are near-duplicates of training images")
    if facts.canary_problem is not None:
        wrong.append(f"canary: {facts.canary_problem}")
    if facts.unreadable:
        wrong.append(f"no margin for {facts.unreadable} golden images")
    if not facts.same_question:
        wrong.append("it was trained for another question than the check's")
    if not facts.same_base:
        wrong.append("it was made for another revision of the base model")
    fine = "canary reproduced" if facts.canary_asked else "no canary"
    return GateResult(
        gate="G0",
        title="integrity",
        outcome="fail" if wrong else "pass",
        words="; ".join(wrong) or f"{fine}, no leakage, same question and base",
        figures={
            "leaked": leaked[:LISTED],
            "leaked_lookalikes": alike[:LISTED],
            "canary_problem": facts.canary_problem,
            "canary_asked": facts.canary_asked,
            "same_question": facts.same_question,
            "same_base": facts.same_base,
            "unreadable": facts.unreadable,
            "train_images": len(facts.train_keys),
        },
    )


def g1_no_worse(paired: Paired, evidence: Evidence, limits: Limits) -> GateResult:
    """G1: the lower bounds exclude a loss of more than `limits.loss`. Fails where a loss is shown instead."""
    names = ("average precision", "recall at the champion's false-positive rate")
    if not paired.flags:
        names = ("accuracy", "mean recall of the labels")
    both = dict(zip(names, (evidence.quality, evidence.reach), strict=True))
    outcome: Outcome = "pass"
    if any(found.known and found.high < 0 and found.low <= -limits.loss for found in both.values()):
        outcome = "fail"
    elif any(not found.known or found.low <= -limits.loss for found in both.values()):
        outcome = "undecided"
    words = ", ".join(f"{name} {interval(found)}" if found.known else f"{name}: -" for name, found in both.items())
    lacking = _lacking(paired, limits)
    if lacking is not None and outcome == "pass":
        outcome, words = "undecided", f"{lacking}; {words}"
    kinds = {"clusters": len(set(paired.clusters)), "positives": int(paired.positive.sum())}
    figures = {name: found.record() for name, found in both.items()}
    return GateResult(gate="G1", title="golden set", outcome=outcome, words=words, figures=figures | kinds)


def _lacking(paired: Paired, limits: Limits) -> str | None:
    """Return why the bounds cannot be relied on: with few images of a kind, the bootstrap cannot see how they vary."""
    clusters = np.asarray(paired.clusters, dtype=np.str_)
    if not paired.flags:
        n = len(np.unique(clusters))
        return None if n >= 2 * limits.least_kind else f"{n} distinct golden images, {2 * limits.least_kind} needed"
    for kind, members in (("positive", paired.positive), ("negative", ~paired.positive)):
        n = len(np.unique(clusters[members]))
        if n < limits.least_kind:
            return f"{n} distinct {kind} golden images, {limits.least_kind} needed"
    return None


def g2_better(paired: Paired, evidence: Evidence, limits: Limits) -> GateResult:
    """G2: more images are right than with the champion, among those labelled since its training."""
    n_recent = int(paired.recent.sum())
    few = n_recent < min(limits.least_recent, len(paired))
    among = np.ones(len(paired), dtype=np.bool_) if few else paired.recent
    gain = evidence.accuracy if few or evidence.recent is None else evidence.recent
    counts = discordant(paired, paired.right(paired.champion), paired.right(paired.challenger), among)
    p_value = mcnemar(counts["clusters_won"], counts["clusters_lost"])
    won = counts["clusters_won"] > counts["clusters_lost"]
    outcome: Outcome = "undecided"
    if won and (p_value < limits.level or gain.low > 0):
        outcome = "pass"
    elif not won and p_value < limits.level:
        outcome = "fail"
    where = f"all {len(paired)} golden images" if few or n_recent == len(paired) else f"{n_recent} recent golden images"
    aside = f" ({n_recent} recent ones are too few)" if few else ""
    words = (
        f"on {where}{aside} {counts['won']} newly right, {counts['lost']} newly wrong, "
        f"accuracy {interval(gain)}, McNemar p = {p_value:.3g}"
    )
    figures = {**counts, "n": int(among.sum()), "recent": n_recent, "p_value": p_value, "gain": gain.record()}
    return GateResult(gate="G2", title="better", outcome=outcome, words=words, figures=figures)


def discordant(paired: Paired, champion_right: Bools, challenger_right: Bools, among: Bools) -> dict[str, int]:
    """Count the images and clusters on which one model alone is right.

    A cluster counts once, for the side that has more of its images, because near-duplicates are not independent.

    Args:
        paired: Both models on the golden set.
        champion_right: `[images]` bool.
        challenger_right: `[images]` bool.
        among: `[images]` bool, the images to count.

    Returns:
        won, lost: images; clusters_won, clusters_lost: clusters. Won: the challenger alone is right.
    """
    change = (challenger_right.astype(np.int64) - champion_right)[among]
    clusters = np.asarray(paired.clusters, dtype=np.str_)[among]
    _, codes = np.unique(clusters, return_inverse=True)
    net = np.zeros(int(codes.max()) + 1 if len(codes) else 0)
    np.add.at(net, codes, change)
    return {
        "won": int((change > 0).sum()),
        "lost": int((change < 0).sum()),
        "clusters_won": int((net > 0).sum()),
        "clusters_lost": int((net < 0).sum()),
    }


def g4_calibrated(paired: Paired, evidence: Evidence, limits: Limits) -> GateResult:
    """G4: Brier score and calibration error are not shown to exceed the champion's by more than `limits.calibration`.

    The bounds decide, not the figures: the calibration error of a few hundred images varies by several points, so that
    the figures alone would refuse every third equal model. A resampled calibration error is too high, because a sample
    repeats images; its mean excess over the figure is subtracted.
    """
    title = "calibration"
    challenger, champion = paired.challenger, paired.champion
    if challenger.calibrator is None:
        outcome: Outcome = "fail" if challenger.misfit in MODEL_MISFITS else "undecided"
        return GateResult(gate="G4", title=title, outcome=outcome, words=f"no calibrator: {challenger.misfit}")
    if champion.calibrator is None or evidence.brier is None or evidence.calibration_error is None:
        words = f"no comparison: the champion has no calibrator ({champion.misfit})"
        return GateResult(gate="G4", title=title, outcome="skipped", words=words)
    brier, error = evidence.brier, evidence.calibration_error
    least = {"Brier": brier.low, "calibration error": error.low - error.bias}
    worse = [name for name, low in least.items() if low > limits.calibration]
    words = f"Brier {brier.value:+.4f}, calibration error {error.value:+.4f}"
    if worse:
        words += f": {' and '.join(worse)} exceeds the champion's by more than {limits.calibration:g}, beyond chance"
    figures = {
        "brier": brier.record(),
        "calibration_error": error.record(),
        "least": least,
        "limit": limits.calibration,
    }
    return GateResult(gate="G4", title=title, outcome="fail" if worse else "pass", words=words, figures=figures)


def g5_flips(paired: Paired, limits: Limits) -> GateResult:
    """G5: images that the champion has right and the challenger wrong are few, or outweighed by those it corrects.

    The limit of 1 % alone would refuse every large gain (6 % discordance with a gain of 2 points is 2 % newly wrong),
    and on a small set a single image. So the flips pass within the limit, or up to half of the images newly right. Two
    models of nearly equal accuracy never keep that, however many images show the gain: so they pass as well where more
    clusters are newly right beyond chance (one-sided exact test at `limits.flips_level`). They fail where exact tests
    reject both limits, and are left to a person in between.
    """
    before, after = paired.right(paired.champion), paired.right(paired.challenger)
    flipped = np.flatnonzero(before & ~after)
    n, n_lost, n_won = len(paired), len(flipped), int((after & ~before).sum())
    share = limits.flips_per_gain / (1 + limits.flips_per_gain)  # of all flips
    p_limit = at_least(n_lost, n, limits.negative_flips)
    p_gain = at_least(n_lost, n_lost + n_won, share)
    everything = np.ones(n, dtype=np.bool_)
    counts = discordant(paired, paired.right(paired.champion), paired.right(paired.challenger), everything)
    p_more = at_least(counts["clusters_won"], counts["clusters_won"] + counts["clusters_lost"], 0.5)
    few = n_lost <= limits.negative_flips * n or n_lost <= limits.flips_per_gain * n_won
    outcome: Outcome = "undecided"
    if few or p_more < limits.flips_level:
        outcome = "pass"
    elif max(p_limit, p_gain) < limits.level:
        outcome = "fail"
    rate = n_lost / n if n else 0.0
    labels = paired.question.labels
    listed = [
        {
            "key": paired.keys[at],
            "truth": labels[paired.truth[at]],
            "champion": labels[paired.champion.answers[at]],
            "challenger": labels[paired.challenger.answers[at]],
            "champion_margin": float(paired.champion.margins[at]),
            "challenger_margin": float(paired.challenger.margins[at]),
        }
        for at in flipped[:LISTED]
    ]
    return GateResult(
        gate="G5",
        title="negative flips",
        outcome=outcome,
        words=f"{n_lost} of {n} ({100 * rate:.1f} %) newly wrong, {n_won} newly right",
        figures={
            "n": n,
            "lost": n_lost,
            "won": n_won,
            "p_limit": p_limit,
            "p_gain": p_gain,
            "p_more": p_more,
            "flips": listed,
        },
    )
