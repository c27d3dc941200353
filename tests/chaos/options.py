"""The options of a chaos run, and the seeded order of its faults."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

# Kind of fault -> its weight after its first time.
KINDS = {
    "kill9": 6,
    "freeze": 4,
    "sigterm": 3,
    "broker_kill": 1,
    "broker_restart": 1,
    "broker_flush": 2,
    "broker_cut": 2,
    "broker_silent": 1,
    "broker_oom": 1,
    "broker_full": 1,
    "database_kill": 1,
    "database_restart": 1,
    "database_cut": 2,
    "database_silent": 1,
    "database_full": 1,
    "database_restored": 2,
    "pooler_kill": 1,
    "s3_errors": 2,
    "s3_slow": 2,
    "s3_truncated": 2,
    "s3_cut": 2,
    "s3_silent": 1,
    "s3_kill": 1,
    "s3_refused": 1,
    "s3_deleted": 2,
    "s3_overwritten": 2,
    "s3_denied": 2,
    "duplicates": 2,
    "clock_jump": 1,
}
CONTROLS = ("reconciler", "token", "guard", "scorer-identity", "model-check")
IMAGES_PER_POISON = 2500


@dataclass(frozen=True, kw_only=True)
class Options:
    """One run. The same seed makes the same archive and the same order of faults; their moments depend on the clock."""

    faults: int
    seed: int
    images: int = 20_000
    workers: int = 4
    pooled: int | None = None  # workers that reach the database by way of pgbouncer; None: half of them
    poison: int | None = None  # images that kill the process that scores them; None: one in IMAGES_PER_POISON
    kinds: tuple[str, ...] = tuple(KINDS)
    without: str | None = None  # a negative control: this part of the protection is removed
    seconds_per_image: float = 0.002  # of the fake scorer
    patience_seconds: float = 150.0  # longest silence of the whole fleet before the run is given up
    logs: Path | None = None  # a folder in which the workers' logs are kept

    @property
    def n_poison(self) -> int:
        return max(1, self.images // IMAGES_PER_POISON) if self.poison is None else self.poison

    @property
    def n_pooled(self) -> int:
        return self.workers // 2 if self.pooled is None else self.pooled

    def plan(self) -> list[str]:
        """The kinds of the faults in their order: each kind once, as far as they go, then by weight."""
        rng = random.Random(f"plan {self.seed}")
        first = rng.sample(self.kinds, k=min(len(self.kinds), self.faults))
        weights = [KINDS[kind] for kind in self.kinds]
        plan = first + rng.choices(self.kinds, weights, k=self.faults - len(first))
        rng.shuffle(plan)
        return plan
