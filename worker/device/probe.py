"""How many visual tokens one forward should hold on this device: tried out for some seconds before work begins.

Larger is not always faster: a GPU wants thousands of tokens at once, a CPU is fastest as soon as its caches are full.
Images of two sizes are tried, because what a small image and a standard one gain from company differs, and a worker
does not know which checks will come.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import structlog

from models.types import Prepared, Question, Scorer
from scanfleet.config.settings import Settings
from scanfleet.errors import Retryable
from worker.device.memory import DeviceMemory, UnknownMemory, memory_of
from worker.device.synthetic import picture
from worker.errors import OutOfDeviceMemory
from worker.scoring.model import Model

log = structlog.get_logger()

UNPROBED_TOKENS = 8192  # where there is nothing to try out: 41 images of 448 x 448 pixels for a Qwen-VL
MOST_TOKENS = 1 << 17
SIDES = (128, 448)  # pixels of a square image; the first is tried first
PROBE_SECONDS = 3.0  # in all; a forward under way is not cut short
LEAST_SECONDS = 0.1  # that a size of pack is measured for, at least twice
CLOSE = 0.05  # a rate so near to the best one counts as the best
GROWTH = 0.03  # less is none
FLAT_STEPS = 2  # without growth, then a ladder ends: one alone may be a hiccup of the machine
CEILING = 0.5  # of the free memory that a forward may take
PACK_OF = 4  # different pictures in a pack

QUESTION = Question(
    name="token-budget-probe", prompt="Is there text in this image?", labels=("yes", "no"), flags=frozenset({"yes"})
)

Clock = Callable[[], float]


@dataclass(frozen=True, kw_only=True)
class Step:
    """A pack that was tried. images_per_second: of all lanes together, each with such a pack."""

    side: int  # pixels
    images: int
    tokens: int  # visual, in the whole pack
    images_per_second: float


@dataclass(frozen=True, kw_only=True)
class Probe:
    """tokens: the budget found. ended: why no larger packs were tried, for each side."""

    tokens: int
    steps: tuple[Step, ...]
    ended: dict[int, str]
    seconds: float


def budget_for(settings: Settings, model: Model) -> int:
    """The setting, or what a probe finds where it says "auto". Raises DeviceUnavailable for a device that fails."""
    if settings.token_budget != "auto":  # noqa: S105
        return settings.token_budget
    if not can_probe(model):
        return UNPROBED_TOKENS
    try:
        found = probe(model.scorer(QUESTION, None), streams=model.streams, room=memory_of(model.device))
    except Retryable:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, images will tell it better than a probe
        log.warning("token_budget_not_probed", error=f"{type(error).__name__}: {error}", token_budget=UNPROBED_TOKENS)
        return UNPROBED_TOKENS
    log.info(
        "token_budget_probed",
        token_budget=found.tokens,
        seconds=round(found.seconds, 2),
        ended={f"{side}px": why for side, why in found.ended.items()},
        curve=[f"{step.images} x {step.side}px: {step.images_per_second:.1f}/s" for step in found.steps],
    )
    return found.tokens


def can_probe(model: Model) -> bool:
    """Whether packing several images into a forward is ours to decide, and a device of ours computes it."""
    return not model.one_by_one and model.device != "none"


def probe(
    scorer: Scorer,
    *,
    streams: int = 1,
    sides: Sequence[int] = SIDES,
    seconds: float = PROBE_SECONDS,
    room: DeviceMemory | None = None,
    clock: Clock = time.perf_counter,
) -> Probe:
    """Try packs of 1, 2, 4 ... images of each size, in all lanes at once, and choose by `choose`.

    Raises DeviceUnavailable, DeviceBroken, and what the scorer raises for a single image.
    """
    start = clock()
    prepared = {side: [scorer.prepare(picture(side, side, seed=n)) for n in range(PACK_OF)] for side in sides}
    scorer.score(prepared[sides[0]][:1])  # what a first forward sets up is not to be measured
    steps: list[Step] = []
    ended: dict[int, str] = {}
    begun = clock()
    with ThreadPoolExecutor(streams, thread_name_prefix="probe") as pool:
        score = partial(_in_all_streams, scorer, pool, streams)
        for number, side in enumerate(sides, start=1):
            ladder = _Ladder(score, prepared[side], side=side, room=room or UnknownMemory(), clock=clock)
            steps += ladder.climb(until=begun + seconds * number / len(sides))
            ended[side] = ladder.ended
    return Probe(tokens=choose(steps), steps=tuple(steps), ended=ended, seconds=clock() - start)


def _in_all_streams(scorer: Scorer, pool: Executor, streams: int, pack: Sequence[Prepared]) -> int:
    """Images scored. As many forwards at once as there will be: they share memory and caches."""
    forwards = [pool.submit(scorer.score, pack) for _ in range(streams)]
    return sum(len(forward.result()) for forward in forwards)


class _Ladder:
    """Packs of one size of image, each twice as large as the one before. score: returns how many images it scored."""

    def __init__(
        self,
        score: Callable[[Sequence[Prepared]], int],
        prepared: Sequence[Prepared],
        *,
        side: int,
        room: DeviceMemory,
        clock: Clock,
    ) -> None:
        self._score = score
        self._prepared = prepared
        self._side = side
        self._room = room
        self._clock = clock
        self._each = prepared[0].visual_tokens
        self.ended = ""

    def climb(self, *, until: float) -> Iterator[Step]:
        """One image is always tried, however late it is."""
        best, flat = 0.0, 0
        for n in map((1).__lshift__, itertools.count()):
            step = self._try(n, until=until)
            if step is None:
                return
            yield step
            flat = 0 if step.images_per_second > best * (1 + GROWTH) else flat + 1
            best = max(best, step.images_per_second)
            if self._is_enough(2 * n, flat=flat, until=until):
                return

    def _is_enough(self, n: int, *, flat: int, until: float) -> bool:
        """Before a pack of n images."""
        taken, free = self._room.taken(), self._room.free()
        if flat >= FLAT_STEPS:
            self.ended = "no faster"
        elif n * self._each > MOST_TOKENS:
            self.ended = "large enough"
        elif taken is not None and free is not None and 2 * taken > CEILING * free:
            self.ended = "memory"
        elif self._clock() >= until:
            self.ended = "time"
        return bool(self.ended)

    def _try(self, n: int, *, until: float) -> Step | None:
        """None where so many images do not go through at once."""
        pack = [self._prepared[at % len(self._prepared)] for at in range(n)]
        self._room.begin()
        try:
            per_second = fastest(lambda: self._score(pack), until=until, clock=self._clock)
        except OutOfDeviceMemory:
            self.ended = "out of memory"
            return None
        except Retryable:
            raise
        except Exception as error:
            if n == 1:
                raise
            log.warning("probe_forward_failed", images=n, error=f"{type(error).__name__}: {error}")
            self.ended = "failed"
            return None
        return Step(side=self._side, images=n, tokens=n * self._each, images_per_second=per_second)


def fastest(work: Callable[[], int], *, until: float, clock: Clock) -> float:
    """Images/s of the fastest of several goes: what else the machine does makes some of them slower, none faster.

    At least two, unless one alone takes longer than there is time. work: returns how many images it scored.
    """
    start, best = clock(), 0.0
    for n in itertools.count(1):
        before = clock()
        n_images = work()
        now = clock()
        best = max(best, n_images / max(now - before, 1e-9))
        if now >= until or (n > 1 and now - start >= LEAST_SECONDS):
            break
    return best


def choose(steps: Sequence[Step]) -> int:
    """The smallest budget with which every size of image comes within a few per cent of the best that is possible.

    What one size wins with a budget another may lose, so it is the worst off that counts. Never less than one image
    of any size that was tried: that goes alone with whatever budget (`worker.device.packing`), and less would only
    split up the smaller ones. Without a step: UNPROBED_TOKENS.
    """
    if not steps:
        return UNPROBED_TOKENS
    least = max(step.tokens for step in steps if step.images == 1)
    budgets = sorted({step.tokens for step in steps if step.tokens >= least})
    worth = {budget: _worst_share(steps, budget) for budget in budgets}
    enough = (1 - CLOSE) * max(worth.values())
    return next(budget for budget, share in worth.items() if share >= enough)


def _worst_share(steps: Sequence[Step], budget: int) -> float:
    """Of the best rate, for the size of image that does worst with this budget."""
    shares = []
    for side in {step.side for step in steps}:
        ladder = [step for step in steps if step.side == side]
        best = max(step.images_per_second for step in ladder)
        fitting = [step for step in ladder if step.tokens <= budget]
        shares.append(fitting[-1].images_per_second / best)
    return min(shares)
