"""A random forest over features, with probabilities from what its trees had not seen."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanfleet.models.baselines.fitted import LogOdds, Task

Features = NDArray[np.float32]  # [pictures, features]


class CalibratedForest:
    """A random forest (Breiman 2001), calibrated on its out-of-bag votes.

    Every tree leaves out a third of the pictures. The votes of the trees that have not seen a picture tell what the
    forest's share of votes is worth, at no cost in pictures. A regularised logistic regression over the logarithms of
    these shares (vector scaling, Guo et al. 2017, with all pairs of classes) turns votes into probabilities.
    """

    def __init__(self, features: Features, task: Task, *, trees: int) -> None:
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.linear_model import LogisticRegression

        self._n_names = len(task.names)
        self._trees = trees
        self._forest: Any = RandomForestClassifier(
            trees, oob_score=True, class_weight="balanced_subsample", min_samples_leaf=2, random_state=task.seed
        )
        self._forest.fit(features, task.targets)
        self._calibrator: Any = LogisticRegression(max_iter=1000)
        self._calibrator.fit(self._logs(self._forest.oob_decision_function_), task.targets)

    def log_odds(self, features: Features) -> LogOdds:
        """Return `[pictures, names]` logarithms of probabilities."""
        known = self._calibrator.predict_log_proba(self._logs(self._forest.predict_proba(features)))
        # A class without pictures gets what a tree that never voted would give it.
        odds = np.full((len(features), self._n_names), -np.log(self._trees + 2), dtype=np.float64)
        odds[:, self._forest.classes_] = known
        return odds

    def _logs(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the logarithms of shares of votes, one vote added to each class.

        A picture that every tree has seen (possible with few trees) has no out-of-bag votes, and gets even shares.
        """
        votes = np.nan_to_num(shares) * self._trees + 1
        return np.log(votes / votes.sum(axis=1, keepdims=True))
