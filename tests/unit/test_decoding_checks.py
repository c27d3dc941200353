"""How often a pool of decoders looks after its children before it ends one."""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from scanfleet.config.settings import load_settings
from scanfleet.decoding import process
from scanfleet.decoding.pool import Decoders


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Decoders]:
    """A pool that does not look after its children by itself."""
    made = Decoders(load_settings(data_dir=tmp_path), n_children=1, decode="tests.helpers.bad_decoders:decode")
    made._stopped.set()
    made._checks.join()
    yield made
    made.close()


def test_only_checks_in_a_row_without_any_work_end_a_child(pool: Decoders, monkeypatch: pytest.MonkeyPatch) -> None:
    pool.decode(b"shout")
    (child,) = pool._all
    used = iter([1.0, 1.0, 1.1, 1.1, 1.2, 1.2, 1.2])
    monkeypatch.setattr(process, "_cpu_seconds", lambda _: next(used))
    child._busy = True
    for _ in range(6):
        child.check(max_still=2)
        assert child._killed_for is None
    child.check(max_still=2)
    assert child._killed_for == "still"
    child._busy = False


def test_a_child_that_nobody_needs_ends_after_so_many_checks_and_the_last_one_stays(pool: Decoders) -> None:
    class Child:
        n_idle = 0

    first, last = Child(), Child()
    pool._max_idle = 3
    pool._idle = cast("list[process.DecoderProcess]", [first, last])
    assert [pool._surplus() for _ in range(3)] == [[], [], []]
    assert pool._surplus() == [first]
    assert pool._idle == [last]
    pool._idle = []
