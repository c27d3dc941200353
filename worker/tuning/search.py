"""The search: Optuna proposes settings, the evaluator scores them.

It optimises two goals, the objective and the cost, by TPE (Bergstra et al. 2011; several goals: Ozaki et al. 2020).
It uses Optuna's ask-and-tell interface, so that a stopped search keeps its results.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scanfleet.worker.tuning.search_space import FIRST_TRIALS, OWN, CheckSetting, Space

PROPOSALS_PER_TRIAL = 20  # at most; beyond that the space is nearly exhausted
Score = Callable[[CheckSetting], tuple[float, float]]  # -> objective, cost ratio
Watch = Callable[[int, int, float], None]  # (trials done, trials in all, seconds left)


class SearchStopped(Exception):
    """The user stopped the search; its results so far are kept."""


class UnsupportedSetting(Exception):
    """The model does not support this setting; the message gives the reason."""


@dataclass(frozen=True, kw_only=True)
class ScoredSetting:
    """One setting on the search part. cost: mean visual tokens of an image, as a ratio to the current check."""

    setting: CheckSetting
    value: float
    cost: float


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """tried: in order, including settings that exceed the limit. rejected: reason -> number of proposals that were not
    computed. proposals: their number. stopped: whether the user stopped the search."""

    tried: tuple[ScoredSetting, ...]
    rejected: dict[str, int]
    proposals: int
    stopped: bool


def search(
    space: Space,
    score: Score,
    *,
    trials: int,
    limit: float,
    seed: int,
    watch: Watch,
) -> SearchResult:
    """Try `trials` different settings.

    score: raises UnsupportedSetting for a setting that the model does not support, SearchStopped to end the search.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(8, trials // 4))
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    for first in FIRST_TRIALS:
        if space.other_order is not None:
            study.enqueue_trial(dict(first))
        elif first["order"] == OWN:
            study.enqueue_trial({name: choice for name, choice in first.items() if name != "order"})
    results: dict[CheckSetting, ScoredSetting | str] = {}
    rejected: dict[str, int] = {}
    proposals, computed, start, stopped = 0, 0, time.monotonic(), False
    while computed < trials and proposals < PROPOSALS_PER_TRIAL * trials:
        proposals += 1
        trial = study.ask()
        setting = space.suggest(trial)
        try:
            result = _cached_or_scored(setting, results, score)
        except SearchStopped:
            stopped = True
            break
        if isinstance(setting, CheckSetting) and setting not in results:
            results[setting] = result
            computed += isinstance(result, ScoredSetting)
            if computed:
                watch(computed, trials, (time.monotonic() - start) / computed * (trials - computed))
        if isinstance(result, str):
            rejected[result] = rejected.get(result, 0) + 1
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        elif result.cost > limit:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, [result.value, result.cost])
    tried = tuple(one for one in results.values() if isinstance(one, ScoredSetting))
    return SearchResult(tried=tried, rejected=rejected, proposals=proposals, stopped=stopped)


def _cached_or_scored(
    setting: CheckSetting | str, results: dict[CheckSetting, ScoredSetting | str], score: Score
) -> ScoredSetting | str:
    """The scored setting, or the reason why there is none."""
    if isinstance(setting, str):
        return setting
    if setting in results:
        return results[setting]
    try:
        value, cost = score(setting)
    except UnsupportedSetting as error:
        return str(error)
    return ScoredSetting(setting=setting, value=value, cost=cost)


def front(tried: Sequence[ScoredSetting], *, limit: float, most: int) -> list[ScoredSetting]:
    """The Pareto front within the limit, by rising cost. A longer front is thinned to `most` settings, evenly spaced,
    both ends included."""
    best: list[ScoredSetting] = []
    for one in sorted(tried, key=lambda one: (one.cost, -one.value)):
        if one.cost <= limit and (not best or one.value > best[-1].value):
            best.append(one)
    if len(best) <= most:
        return best
    places = sorted({round(at * (len(best) - 1) / (most - 1)) for at in range(most)})
    return [best[place] for place in places]
