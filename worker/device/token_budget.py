"""The visual tokens of one forward: fewer after the device has run out of memory, then slowly more again."""

from __future__ import annotations

RAISE_AFTER = 50  # large forwards that fitted
RAISE_BY = 1.5
MAX_PATIENCE = 3200  # forwards, after raising it has failed several times


class TokenBudget:
    """`tokens` is halved by `shrink` and grows back to `full`: another program may have held the memory for a while.

    Each time a raised budget is too large again, the next try is twice as far away, because a lost forward costs time.
    The caller holds a lock.
    """

    def __init__(self, full: int) -> None:
        self.full = full
        self.tokens = full
        self._n_fitted = 0
        self._patience = RAISE_AFTER
        self._raised = False

    def shrink(self, used: int) -> None:
        """Lower the budget: a forward of `used` tokens did not fit."""
        if self._raised:
            self._patience = min(2 * self._patience, MAX_PATIENCE)
        self.tokens = max(1, min(self.tokens, used) // 2)
        self._n_fitted = 0
        self._raised = False

    def count_success(self, used: int) -> bool:
        """Count a forward of `used` tokens that fitted. Return True if the budget was raised for the next one."""
        if self.tokens >= self.full or 2 * used < self.tokens:
            return False  # a small forward does not show that a larger one fits
        self._n_fitted += 1
        if self._n_fitted < self._patience:
            return False
        self.tokens = min(self.full, max(self.tokens + 1, int(RAISE_BY * self.tokens)))
        self._n_fitted = 0
        self._raised = True
        return True
