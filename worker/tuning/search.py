"""Optuna proposes, the evaluator answers: settings that were tried, what they scored and what they cost.

Two goals at once, the objective and the cost, by TPE (Bergstra et al. 2011; for several goals Ozaki et al. 2020).
Proposals come by ask and tell, so that a search that is stopped keeps what it knows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from worker.tuning.search_space import BEGINNINGS, Setting, Space

ASKED_PER_TRIAL = 20  # proposals for each one that is worth computing; then the space is all but known
Score = Callable[[Setting], tuple[float, float]]  # -> objective, cost ratio
Watch = Callable[[int, int, float], None]  # (trials done, trials in all, seconds left)


class Stopped(Exception):
    """Somebody asked for the end of the search; what is known stays known."""


class Impossible(Exception):
    """This model cannot look in this way; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One setting on the search part. cost: mean visual tokens of an image, as a ratio to the check as it stands."""

    setting: Setting
    value: float
    cost: float


@dataclass(frozen=True, kw_only=True)
class Searched:
    """tried: in their order, those within the limit and those that turned out over it. turned_down: reason -> how
    many proposals were not computed. asked: proposals in all. stopped: before its end, by a person."""

    tried: tuple[Tried, ...]
    turned_down: dict[str, int]
    asked: int
    stopped: bool


def search(
    space: Space,
    score: Score,
    *,
    trials: int,
    limit: float,
    seed: int,
    watch: Watch,
) -> Searched:
    """Try so many different settings.

    score: raises Impossible for a setting that this model cannot do, Stopped to end the search.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(8, trials // 4))
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    for first in BEGINNINGS:
        study.enqueue_trial(dict(first))
    known: dict[Setting, Tried | str] = {}
    turned_down: dict[str, int] = {}
    asked, computed, began, stopped = 0, 0, time.monotonic(), False
    while computed < trials and asked < ASKED_PER_TRIAL * trials:
        asked += 1
        trial = study.ask()
        setting = space.suggest(trial)
        try:
            found = _known_or_scored(setting, known, score)
        except Stopped:
            stopped = True
            break
        if isinstance(setting, Setting) and setting not in known:
            known[setting] = found
            computed += isinstance(found, Tried)
            if computed:
                watch(computed, trials, (time.monotonic() - began) / computed * (trials - computed))
        if isinstance(found, str):
            turned_down[found] = turned_down.get(found, 0) + 1
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        elif found.cost > limit:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, [found.value, found.cost])
    tried = tuple(one for one in known.values() if isinstance(one, Tried))
    return Searched(tried=tried, turned_down=turned_down, asked=asked, stopped=stopped)


def _known_or_scored(setting: Setting | str, known: dict[Setting, Tried | str], score: Score) -> Tried | str:
    if isinstance(setting, str):
        return setting
    if setting in known:
        return known[setting]
    try:
        value, cost = score(setting)
    except Impossible as error:
        return str(error)
    return Tried(setting=setting, value=value, cost=cost)


def front(tried: Sequence[Tried], *, limit: float, most: int) -> list[Tried]:
    """Those within the limit that none beats at no higher cost, by rising cost; at most so many, evenly, with both
    ends."""
    best: list[Tried] = []
    for one in sorted(tried, key=lambda one: (one.cost, -one.value)):
        if one.cost <= limit and (not best or one.value > best[-1].value):
            best.append(one)
    if len(best) <= most:
        return best
    places = sorted({round(at * (len(best) - 1) / (most - 1)) for at in range(most)})
    return [best[place] for place in places]
