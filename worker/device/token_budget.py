"""How many visual tokens go into one forward: fewer after the device ran out of memory, slowly more again."""

from __future__ import annotations

RAISE_AFTER = 50  # large forwards that went well
RAISE_BY = 1.5
MOST_PATIENT = 3200  # forwards, when raising it failed again and again


class TokenBudget:
    """`tokens` is halved by `shrink` and grows back to `full`: another program may have held the memory for a while.

    Each time it proves too much again, the next try is twice as far away: a lost forward costs little, but not nothing.
    Used by the device thread alone.
    """

    def __init__(self, full: int) -> None:
        self.full = full
        self.tokens = full
        self._well = 0
        self._patience = RAISE_AFTER
        self._raised = False

    def shrink(self, used: int) -> None:
        """A forward of `used` tokens did not fit."""
        if self._raised:
            self._patience = min(2 * self._patience, MOST_PATIENT)
        self.tokens = max(1, min(self.tokens, used) // 2)
        self._well = 0
        self._raised = False

    def went_well(self, used: int) -> bool:
        """A forward of `used` tokens fitted. Returns whether the budget was raised for the next one."""
        if self.tokens >= self.full or 2 * used < self.tokens:
            return False  # a small forward says nothing of a larger one
        self._well += 1
        if self._well < self._patience:
            return False
        self.tokens = min(self.full, max(self.tokens + 1, int(RAISE_BY * self.tokens)))
        self._well = 0
        self._raised = True
        return True
