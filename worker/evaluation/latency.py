"""The latency of two models on the same images, measured in alternating rounds so that a busy machine shows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from scanfleet.errors import ImageError
from scanfleet.models.errors import ImageUnsuitable
from scanfleet.models.types import Prepared, Scorer
from scanfleet.worker.device.probe import UNPROBED_TOKENS
from scanfleet.worker.evaluation.readings import Picture, packs, prepare

IMAGES = 32  # scored by each model in each round
ROUNDS = 9
MIN_ROUNDS = 5  # with fewer there is no bound
MAX_SECONDS = 60.0  # no further round begins after this


def measure_latency(
    champion: Scorer, challenger: Scorer, pictures: Sequence[Picture], *, token_budget: int = UNPROBED_TOKENS
) -> list[tuple[float, float]]:
    """Seconds of both models for the same prepared images, one pair a round; the model that begins alternates.

    Each scores one image before its clock starts, so that switching adapters is not counted.
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
    start = time.monotonic()
    for number in range(ROUNDS):
        if number >= MIN_ROUNDS and time.monotonic() - start > MAX_SECONDS:
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
