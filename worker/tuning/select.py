"""The front on held-out images, and the setting that is measurably better, if there is one.

Every setting is compared with the current check on the same samples of the same images. Their intervals hold jointly
(Bonferroni over the front), so that trying many settings does not produce a gain by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from scanfleet.models.promotion.bootstrap import Bounded
from scanfleet.worker.tuning.evaluate import Evaluator
from scanfleet.worker.tuning.objective import Estimate, Objective, Outcome, Truth, measure
from scanfleet.worker.tuning.search import ScoredSetting
from scanfleet.worker.tuning.search_space import CheckSetting

LEVEL = 0.05  # of all intervals of a report jointly
MAX_ON_FRONT = 6
MIN_GROUPS = 10  # held out, of each side; with fewer a bootstrap interval means nothing


@dataclass(frozen=True, kw_only=True)
class Row:
    """A setting on the held-out images. cost: ratio to the current check. crop_share: share of images with a crop pass.
    searched: the same setting on the search part; None: it was not tried there."""

    setting: CheckSetting
    cost: float
    crop_share: float
    value: Bounded
    change: Bounded
    searched: ScoredSetting | None = None


@dataclass(frozen=True, kw_only=True)
class Selection:
    """chosen: position on the front; None: no setting is measurably better. reason: why, for people. grew: whether the
    larger budget increased the tokens of any image."""

    current: Row
    larger: Row
    grew: bool
    front: tuple[Row, ...]
    chosen: int | None
    reason: str


def select_setting(
    evaluator: Evaluator,
    objective: Objective,
    front: Sequence[ScoredSetting],
    *,
    current: CheckSetting,
    images: Sequence[int],
    limit: float,
    seed: int,
) -> Selection:
    """front: without the current setting. images: the held-out ones. Raises what the device raises."""
    baseline = evaluator.outcome(current, images)
    outcomes = [evaluator.outcome(one.setting, images) for one in front]
    best = max(range(len(front)), key=lambda at: front[at].value, default=None)
    ratio = limit if best is None else outcomes[best].mean_tokens / baseline.mean_tokens
    without_crops = CheckSetting(first=current.first)
    first_alone = baseline if current == without_crops else evaluator.outcome(without_crops, images)
    larger = larger_budget(current, ratio=ratio * baseline.mean_tokens / first_alone.mean_tokens)
    at_larger = evaluator.outcome(larger, images)
    level = LEVEL / max(1, len(front))
    settings, outcomes = [current, larger, *(one.setting for one in front)], [baseline, at_larger, *outcomes]
    estimates = measure(objective, outcomes, evaluator.truth(images), baseline, seed=seed, level=level)
    rows = [
        _row(setting, outcome, baseline, estimate)
        for setting, outcome, estimate in zip(settings, outcomes, estimates, strict=True)
    ]
    on_front = tuple(Row(**{**vars(row), "searched": one}) for row, one in zip(rows[2:], front, strict=True))
    chosen, reason = _choose(on_front, objective, limit=limit, n_images=len(images))
    least = _rarer_groups(evaluator.truth(images), objective)
    if chosen is not None and least < MIN_GROUPS:
        chosen = None
        reason = (
            f"too few images to decide: {least} held-out groups of the rarer side, {MIN_GROUPS} are needed "
            f"({MIN_GROUPS * 2} labelled ones)"
        )
    grew = at_larger.mean_tokens > first_alone.mean_tokens
    return Selection(current=rows[0], larger=rows[1], grew=grew, front=on_front, chosen=chosen, reason=reason)


def _rarer_groups(truth: Truth, objective: Objective) -> int:
    """Held-out groups of the rarer side; half of all groups for a plain classification."""
    if objective.at_fpr is None:
        return len(set(truth.clusters)) // 2
    pairs = set(zip(truth.clusters, truth.positive.tolist(), strict=True))
    return min(sum(positive == side for _, positive in pairs) for side in (True, False))


def larger_budget(current: CheckSetting, *, ratio: float) -> CheckSetting:
    """`ratio` times the tokens of the first pass, spent on more pixels of the whole image, without a crop pass."""
    first = current.first
    return CheckSetting(first=replace(first, max_pixels=round(first.max_pixels * ratio)))


def _row(setting: CheckSetting, outcome: Outcome, baseline: Outcome, estimate: Estimate) -> Row:
    return Row(
        setting=setting,
        cost=outcome.mean_tokens / baseline.mean_tokens,
        crop_share=float(outcome.cropped.mean()),
        value=estimate.value,
        change=estimate.change,
    )


def _choose(front: Sequence[Row], objective: Objective, *, limit: float, n_images: int) -> tuple[int | None, str]:
    """Of the settings whose whole interval lies above the current check, the best one on the search part."""
    if not front:
        return None, "the search found nothing better than the current check"
    better = [at for at, row in enumerate(front) if row.change.known and row.change.low > 0]
    cheap = [at for at in better if front[at].cost <= limit]
    if cheap:
        at = max(cheap, key=lambda at: _searched(front[at]))
        change = front[at].change
        return at, (
            f"{objective.name} changes by {change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}] on "
            f"{n_images} held-out images, at {front[at].cost:.2f} times the tokens"
        )
    if better:
        return None, f"every measurably better setting costs more than {limit:g} times the tokens on held-out images"
    change = max(front, key=_searched).change
    seen = f"{change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}]" if change.known else "unknown"
    return None, (
        f"no setting is measurably better than the current check on {n_images} held-out images: the change of the best "
        f"one is {seen}; with more labelled images smaller differences can be measured"
    )


def _searched(row: Row) -> float:
    return float("-inf") if row.searched is None else row.searched.value
