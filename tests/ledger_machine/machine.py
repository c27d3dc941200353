"""The rules. Random choices never depend on the ledger, and each rule is valid in any state. So the same choices always
give the same example, however fast the machine is."""

from __future__ import annotations

import sys

import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as with_seed
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.ledger_machine.fleet import Late
from tests.ledger_machine.ground import WORKERS
from tests.ledger_machine.ledger import quick
from tests.ledger_machine.simulation import HOUR, Fate, Simulation
from tests.ledger_machine.workers import Answer

MAX_DRAIN_ROUNDS = 60

which_scan = st.integers(0, 1)
any_scan = st.integers(0, 2)  # or the one that renews answers of the first
which_worker = st.sampled_from(WORKERS)
which = st.integers(0, 2)
answers = st.lists(st.sampled_from(Answer), min_size=1, max_size=3)
poisons = st.sampled_from([(), (1,), (0, 1), (), (2,), (0, 2)])


class Machine(RuleBasedStateMachine):
    """Subclassed for each engine by `run_machine`."""

    engine: sa.Engine
    strict = True
    n_rounds: list[int]  # of draining, per example

    @initialize(kills=st.booleans(), n_images=st.integers(1, 6), batch_images=st.integers(1, 3), poison=poisons)
    def start(self, kills: bool, n_images: int, batch_images: int, poison: tuple[int, ...]) -> None:
        self.simulation = Simulation(self.engine, strict=self.strict, kills=kills)
        self.simulation.list_page(0, n_images, batch_images=batch_images, poison=poison)

    @rule(scan=which_scan, n_images=st.integers(1, 6), batch_images=st.integers(1, 3), poison=poisons)
    def list_page(self, scan: int, n_images: int, batch_images: int, poison: tuple[int, ...]) -> None:
        self.simulation.list_page(scan, n_images, batch_images=batch_images, poison=poison)

    @rule(scan=which_scan)
    def list_again(self, scan: int) -> None:
        self.simulation.list_again(scan)

    @rule(n_images=st.integers(1, 4), batch_images=st.integers(1, 3))
    def rescan(self, n_images: int, batch_images: int) -> None:
        self.simulation.rescan(n_images, batch_images=batch_images)

    @rule(scan=any_scan)
    def end_listing(self, scan: int) -> None:
        self.simulation.end_listing(scan)

    @rule(worker=which_worker, listen=st.booleans())
    def claim(self, worker: str, listen: bool) -> None:
        self.simulation.claim(worker, listen=listen)

    @rule(worker=which_worker, which=which, answers=answers, store=st.booleans())
    def work(self, worker: str, which: int, answers: list[Answer], store: bool) -> None:
        if not self.simulation.work(worker, which, answers, store=store):
            self.simulation.claim(worker, listen=store)

    @rule(worker=which_worker, first=st.integers(0, 3))
    def work_on(self, worker: str, first: int) -> None:
        """Several steps at once, so that suspects get somewhere, and every kind of answer is given."""
        kinds = [Answer.FLAG, Answer.BROKEN, Answer.REVIEW, Answer.REUSED]
        for step in range(first, first + 4):
            if not self.simulation.work(worker, 0, kinds[step % 4 :] + kinds[: step % 4], store=False):
                self.simulation.claim(worker, listen=True)

    @rule(worker=which_worker, seconds=st.sampled_from([0, 2, 61]))
    def store_away(self, worker: str, seconds: int) -> None:
        """Batch after batch finds the store unavailable, and so, after a while, does the probe."""
        for _ in range(7):
            if not self.simulation.work(worker, 0, [Answer.WAITS], store=True):
                self.simulation.claim(worker, listen=True)
        self.simulation.check()  # the model takes over the lengths of pauses with jitter
        self.simulation.pass_time(seconds, silent=False)
        self.simulation.reconcile(Fate.DELIVERED)
        self.simulation.work(worker, 0, [Answer.WAITS], store=True)

    @rule(worker=which_worker, which=which, n_known=st.integers(0, 3), answers=answers)
    def hand_back(self, worker: str, which: int, n_known: int, answers: list[Answer]) -> None:
        self.simulation.hand_back(worker, which, n_known, answers)

    @rule(worker=which_worker)
    def vanish(self, worker: str) -> None:
        self.simulation.vanish(worker)

    @rule(which=st.integers(0, 5), how=st.sampled_from(Late))
    def late(self, which: int, how: Late) -> None:
        self.simulation.late(which, how)

    @rule(worker=which_worker, other=which_worker, how=st.sampled_from(Late))
    def frozen(self, worker: str, other: str, how: Late) -> None:
        """A worker freezes for longer than its lease, another one does its work, and the first one continues."""
        self.simulation.claim(worker, listen=True)
        self.simulation.vanish(worker)
        self.simulation.pass_time(61, silent=False)
        self.simulation.reconcile(Fate.DELIVERED)
        self.simulation.claim(other, listen=True)
        self.simulation.work(other, 0, [Answer.FLAG], store=False)
        for which in range(3):
            self.simulation.late(which, how)

    @rule(worker=which_worker)
    def beat(self, worker: str) -> None:
        self.simulation.beat(worker)

    @rule(worker=which_worker)
    def look(self, worker: str) -> None:
        self.simulation.look(worker)

    @rule(seconds=st.sampled_from([2, 15, 31, 61, 300]), silent=st.booleans())
    def pass_time(self, seconds: int, silent: bool) -> None:
        self.simulation.pass_time(seconds, silent=silent)

    @rule(hours=st.sampled_from([1, -1]), silent=st.booleans())
    def clock_jumps(self, hours: int, silent: bool) -> None:
        self.simulation.pass_time(hours * HOUR, silent=silent)

    @rule(fate=st.sampled_from(Fate))
    def reconcile(self, fate: Fate) -> None:
        self.simulation.reconcile(fate)

    @rule(seconds=st.sampled_from([2, 61]), fate=st.sampled_from(Fate))
    def later_reconcile(self, seconds: int, fate: Fate) -> None:
        self.simulation.pass_time(seconds, silent=False)
        self.simulation.reconcile(fate)

    @rule(scan=any_scan)
    def pause_or_resume(self, scan: int) -> None:
        self.simulation.pause_or_resume(scan)

    @rule(scan=any_scan, sure=st.integers(0, 3))
    def cancel(self, scan: int, sure: int) -> None:
        if sure == 3:
            self.simulation.cancel(scan)

    @rule(scan=any_scan, only_killers=st.booleans())
    def retry(self, scan: int, only_killers: bool) -> None:
        self.simulation.retry(scan, only_killers=only_killers)

    @rule(
        scan=which_scan, worker=which_worker, same=st.booleans(), n_images=st.integers(1, 3), how=st.sampled_from(Late)
    )
    def restored(self, scan: int, worker: str, same: bool, n_images: int, how: Late) -> None:
        """The database loses what follows a backup, and live workers meet others' rows under the ids they know."""
        self.simulation.back_up()
        self.simulation.list_page(0, n_images, batch_images=1)
        self.simulation.claim_newest(worker)
        self.simulation.restore()
        self.simulation.list_page(scan, n_images, batch_images=1)
        self.simulation.claim_newest(worker if same else "w1")
        for which in range(3):
            self.simulation.work(worker, 0, [Answer.FLAG], store=False)
            self.simulation.late(which, how)

    @rule()
    def back_up(self) -> None:
        self.simulation.back_up()

    @rule(sure=st.integers(0, 2))
    def restore(self, sure: int) -> None:
        if sure == 2:
            self.simulation.restore()

    @invariant()
    def sound(self) -> None:
        if hasattr(self, "simulation"):
            self.simulation.check()

    def teardown(self) -> None:
        if sys.exc_info()[1] is None and hasattr(self, "simulation"):
            self.n_rounds.append(self.simulation.drain(MAX_DRAIN_ROUNDS))


def run_machine(
    engine: sa.Engine,
    *,
    examples: int,
    steps: int = 40,
    strict: bool = True,
    seed: int | None = None,
    shrink: bool = False,
) -> list[int]:
    """Run `examples` examples; without a seed always the same ones. Returns the rounds that each took to drain.

    A failing example is printed as it was found; to `shrink` it to the steps that matter takes minutes.
    """
    rounds: list[int] = []
    name = f"{engine.dialect.name}Machine"
    machine = type(name, (Machine,), {"engine": quick(engine), "strict": strict, "n_rounds": rounds})
    settled = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=seed is None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
    )
    run_state_machine_as_test(machine if seed is None else with_seed(seed)(machine), settings=settled)
    return rounds
