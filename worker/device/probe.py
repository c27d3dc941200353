"""Find the best number of visual tokens for one forward on this device, in a few seconds before work begins.

Larger is not always faster: a GPU wants thousands of tokens at once, a CPU is fastest as soon as its caches are full.
The probe tries images of two sizes: small and standard images gain differently from packing, and a worker does not know
which checks will come.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import structlog

from scanfleet.config.settings import Settings
from scanfleet.errors import Retryable
from scanfleet.models.types import Prepared, Question, Scorer
from scanfleet.worker.device.memory import DeviceMemory, UnknownMemory, memory_of
from scanfleet.worker.device.synthetic import picture
from scanfleet.worker.errors import OutOfDeviceMemory
from scanfleet.worker.scoring.model import Model

log = structlog.get_logger()

UNPROBED_TOKENS = 8192  # without a probe: 41 images of 448 x 448 pixels for a Qwen-VL
MOST_TOKENS = 1 << 17
SIDES = (128, 448)  # pixels of a square image; the first is tried first
PROBE_SECONDS = 3.0  # in total; a forward under way is not interrupted
LEAST_SECONDS = 0.1  # to measure one size of pack, at least twice
CLOSE = 0.05  # a rate within this share of the best counts as the best
GROWTH = 0.03  # a smaller gain counts as none
FLAT_STEPS = 2  # without growth end a ladder: a single one may be noise
CEILING = 0.5  # share of the free memory that a forward may take
PACK_OF = 4  # different pictures in a pack

QUESTION = Question(
    name="token-budget-probe",
    prompt="Is there text in this image?",
    labels=("yes", "no"),
    flags=frozenset({"yes"}),
    min_pixels=64 * 64,  # below the smaller of SIDES, so that they stay two sizes
)

Clock = Callable[[], float]


@dataclass(frozen=True, kw_only=True)
class Step:
    """A pack that was tried. images_per_second: of all streams together, each with such a pack."""

    side: int  # pixels
    images: int
    tokens: int  # visual, in the whole pack
    images_per_second: float


@dataclass(frozen=True, kw_only=True)
class Probe:
    """tokens: the budget found. ended: for each side, the reason that no larger packs were tried."""

    tokens: int
    steps: tuple[Step, ...]
    ended: dict[int, str]
    seconds: float


def budget_for(settings: Settings, model: Model) -> int:
    """Return the setting, or the result of a probe if it is "auto". Raises DeviceUnavailable if the device fails."""
    if settings.token_budget != "auto":  # noqa: S105
        return settings.token_budget
    if not can_probe(model):
        return UNPROBED_TOKENS
    try:
        found = probe(model.plain(QUESTION), streams=model.streams, memory=memory_of(model.device))
    except Retryable:
        raise
    except Exception as error:  # noqa: BLE001 - the first image reports the error better than a probe
        log.warning("token_budget_not_probed", error=f"{type(error).__name__}: {error}", token_budget=UNPROBED_TOKENS)
        return UNPROBED_TOKENS
    log.info(
        "token_budget_probed",
        token_budget=found.tokens,
        seconds=round(found.seconds, 2),
        ended={f"{side}px": reason for side, reason in found.ended.items()},
        curve=[f"{step.images} x {step.side}px: {step.images_per_second:.1f}/s" for step in found.steps],
    )
    return found.tokens


def can_probe(model: Model) -> bool:
    """Return True if the worker packs several images into a forward, and a local device computes it."""
    return not model.one_by_one and model.device != "none"


def probe(
    scorer: Scorer,
    *,
    streams: int = 1,
    sides: Sequence[int] = SIDES,
    seconds: float = PROBE_SECONDS,
    memory: DeviceMemory | None = None,
    clock: Clock = time.perf_counter,
) -> Probe:
    """Try packs of 1, 2, 4 ... images of each size, in all streams at once, and pick the budget with `choose`.

    Raises DeviceUnavailable, DeviceBroken, and the errors of the scorer for a single image.
    """
    start = clock()
    prepared = {side: [scorer.prepare(picture(side, side, seed=n)) for n in range(PACK_OF)] for side in sides}
    scorer.score(prepared[sides[0]][:1])  # leaves the set-up in the first forward out of the measurement
    steps: list[Step] = []
    ended: dict[int, str] = {}
    begun = clock()
    with ThreadPoolExecutor(streams, thread_name_prefix="probe") as pool:
        score = partial(_in_all_streams, scorer, pool, streams)
        for number, side in enumerate(sides, start=1):
            ladder = _Ladder(score, prepared[side], side=side, memory=memory or UnknownMemory(), clock=clock)
            steps += ladder.climb(until=begun + seconds * number / len(sides))
            ended[side] = ladder.ended
    return Probe(tokens=choose(steps), steps=tuple(steps), ended=ended, seconds=clock() - start)


def _in_all_streams(scorer: Scorer, pool: Executor, streams: int, pack: Sequence[Prepared]) -> int:
    """Score the pack in every stream at once, as in production. Return the number of images scored."""
    forwards = [pool.submit(scorer.score, pack) for _ in range(streams)]
    return sum(len(forward.result()) for forward in forwards)


class _Ladder:
    """Packs of one size of image, each twice as large as the one before. score: returns the number of images scored."""

    def __init__(
        self,
        score: Callable[[Sequence[Prepared]], int],
        prepared: Sequence[Prepared],
        *,
        side: int,
        memory: DeviceMemory,
        clock: Clock,
    ) -> None:
        self._score = score
        self._prepared = prepared
        self._side = side
        self._memory = memory
        self._clock = clock
        self._each = prepared[0].visual_tokens
        self.ended = ""

    def climb(self, *, until: float) -> Iterator[Step]:
        """Try one pack after the other. One image is always tried, even past the deadline."""
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
        """Return True if a pack of n images is not to be tried, and set `ended` to the reason."""
        taken, free = self._memory.taken(), self._memory.free()
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
        """Return None if n images do not go through at once."""
        pack = [self._prepared[at % len(self._prepared)] for at in range(n)]
        self._memory.begin()
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
    """Return images/s of the fastest of several runs: other load on the machine makes some of them slower, none faster.

    There are at least two runs, unless the first one takes all the time. work: returns the number of images scored.
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
    """Return the smallest budget with which every size of image comes within a few per cent of its best rate.

    One size may lose what another wins, so the size that does worst counts. The budget is never less than one image of
    any size that was tried: such an image goes alone with any budget (`worker.device.packing`), and a smaller budget
    would only split up the smaller images. Without a step: UNPROBED_TOKENS.
    """
    if not steps:
        return UNPROBED_TOKENS
    least = max(step.tokens for step in steps if step.images == 1)
    budgets = sorted({step.tokens for step in steps if step.tokens >= least})
    worth = {budget: _worst_share(steps, budget) for budget in budgets}
    enough = (1 - CLOSE) * max(worth.values())
    return next(budget for budget, share in worth.items() if share >= enough)


def _worst_share(steps: Sequence[Step], budget: int) -> float:
    """Return the share of its best rate that the size of image which does worst reaches with this budget."""
    shares = []
    for side in {step.side for step in steps}:
        ladder = [step for step in steps if step.side == side]
        best = max(step.images_per_second for step in ladder)
        fitting = [step for step in ladder if step.tokens <= budget]
        shares.append(fitting[-1].images_per_second / best)
    return min(shares)
