"""How long two models take for the same images, measured so that a busy machine shows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from models.errors import ImageUnsuitable
from models.types import Prepared, Scorer
from scanfleet.errors import ImageError
from worker.probe import UNPROBED_TOKENS
from worker.refresh.readings import Picture, packs, prepare

IMAGES = 32  # scored by each model in each round
ROUNDS = 9
LEAST_ROUNDS = 5  # fewer give no bound
SECONDS = 60.0  # after which no further round begins


def latency(
    champion: Scorer, challenger: Scorer, pictures: Sequence[Picture], *, token_budget: int = UNPROBED_TOKENS
) -> list[tuple[float, float]]:
    """Seconds of both models for the same prepared images, one pair a round; who begins alternates.

    Before the clock starts each scores one image, so that switching adapters is not part of it.
    """
    prepared: dict[str, Prepared] = {}
    for picture in pictures:
        if len(prepared) == IMAGES:
            break
        with suppress(ImageError, ImageUnsuitable):
            _, prepared[picture.key] = prepare(champion, picture)
    if not prepared:
        return []
    work = [[prepared[key] for key in keys] for keys in packs(prepared, token_budget=token_budget)]
    pairs: list[tuple[float, float]] = []
    began = time.monotonic()
    for number in range(ROUNDS):
        if number >= LEAST_ROUNDS and time.monotonic() - began > SECONDS:
            break
        if number % 2:
            after, before = _timed(challenger, work), _timed(champion, work)
        else:
            before, after = _timed(champion, work), _timed(challenger, work)
        pairs.append((before, after))
    return pairs


def _timed(scorer: Scorer, work: Sequence[Sequence[Prepared]]) -> float:
    scorer.score(work[0][:1])
    started = time.perf_counter()
    for images in work:
        scorer.score(images)
    return time.perf_counter() - started
