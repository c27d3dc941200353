"""The front on images that it was not chosen on, and which of its settings is measurably better, if any.

All settings are held against the check as it stands on the same draws of the same images. Their intervals hold
together (Bonferroni over the front), so that trying many settings finds nothing by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from models.promotion.bootstrap import Bounded
from worker.tuning.evaluate import Evaluator
from worker.tuning.objective import Measured, Objective, Outcome, Truth, measure
from worker.tuning.search import Tried
from worker.tuning.search_space import First, Setting

LEVEL = 0.05  # of all intervals of a report together
MOST_ON_FRONT = 6
LEAST_GROUPS = 10  # held out, of each side; with fewer no interval of draws is worth its name


@dataclass(frozen=True, kw_only=True)
class Row:
    """A setting on the held-out images. cost: ratio to the check as it stands. again: share of images that were looked
    at twice. searched: the same setting on the search part; None: it was not tried there."""

    setting: Setting
    cost: float
    again: float
    value: Bounded
    change: Bounded
    searched: Tried | None = None


@dataclass(frozen=True, kw_only=True)
class Judged:
    """chosen: place on the front; None: no setting is measurably better, for the reason in words. grew: whether the
    larger budget read more of any image."""

    standing: Row
    larger: Row
    grew: bool
    front: tuple[Row, ...]
    chosen: int | None
    reason: str


def judge(
    evaluator: Evaluator,
    objective: Objective,
    front: Sequence[Tried],
    *,
    standing: Setting,
    images: Sequence[int],
    limit: float,
    seed: int,
) -> Judged:
    """front: settings other than the standing one. images: those held out. Raises what the device raises."""
    stood = evaluator.outcome(standing, images)
    found = [evaluator.outcome(one.setting, images) for one in front]
    best = max(range(len(front)), key=lambda at: front[at].value, default=None)
    ratio = limit if best is None else found[best].mean_tokens / stood.mean_tokens
    once = stood if isinstance(standing.crop, str) else evaluator.outcome(Setting(first=standing.first), images)
    larger = larger_budget(standing, ratio=ratio * stood.mean_tokens / once.mean_tokens)
    seen = evaluator.outcome(larger, images)
    level = LEVEL / max(1, len(front))
    measured = measure(objective, [stood, seen, *found], evaluator.truth(images), stood, seed=seed, level=level)
    rows = [
        _row(setting, outcome, stood, figures)
        for setting, outcome, figures in zip(
            [standing, larger, *(one.setting for one in front)], [stood, seen, *found], measured, strict=True
        )
    ]
    on_front = tuple(Row(**{**vars(row), "searched": one}) for row, one in zip(rows[2:], front, strict=True))
    chosen, reason = _choose(on_front, objective, limit=limit, n_images=len(images))
    least = _least_groups(evaluator.truth(images), objective)
    if chosen is not None and least < LEAST_GROUPS:
        chosen = None
        reason = (
            f"too few images to tell: {least} held-out groups of the rarer side, {LEAST_GROUPS} are needed "
            f"({LEAST_GROUPS * 2} labelled ones)"
        )
    grew = seen.mean_tokens > once.mean_tokens
    return Judged(standing=rows[0], larger=rows[1], grew=grew, front=on_front, chosen=chosen, reason=reason)


def _least_groups(truth: Truth, objective: Objective) -> int:
    """Of the rarer side; of all images, where there are no sides."""
    if objective.at_fpr is None:
        return len(set(truth.clusters)) // 2
    pairs = set(zip(truth.clusters, truth.positive.tolist(), strict=True))
    return min(sum(positive == side for _, positive in pairs) for side in (True, False))


def larger_budget(standing: Setting, *, ratio: float) -> Setting:
    """So many times the first look's tokens spent on more pixels of the whole image, at one look."""
    first = standing.first
    return Setting(first=First(words=first.words, max_pixels=round(first.max_pixels * ratio)))


def _row(setting: Setting, outcome: Outcome, stood: Outcome, measured: Measured) -> Row:
    return Row(
        setting=setting,
        cost=outcome.mean_tokens / stood.mean_tokens,
        again=float(outcome.again.mean()),
        value=measured.value,
        change=measured.change,
    )


def _choose(front: Sequence[Row], objective: Objective, *, limit: float, n_images: int) -> tuple[int | None, str]:
    """The best on the search part of those whose whole interval lies above the check as it stands."""
    if not front:
        return None, "the search found nothing better than the check as it stands"
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
        return None, f"what is measurably better costs more than {limit:g} times the tokens on held-out images"
    change = max(front, key=_searched).change
    seen = f"{change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}]" if change.known else "unknown"
    return None, (
        f"no setting is measurably better than the check as it stands on {n_images} held-out images: of the best one "
        f"the change is {seen}; more labelled images would tell smaller differences"
    )


def _searched(row: Row) -> float:
    return float("-inf") if row.searched is None else row.searched.value
