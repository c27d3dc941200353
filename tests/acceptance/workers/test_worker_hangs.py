"""Worker processes that hang: they end themselves, say why, and others do their work."""

import signal
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from scanfleet.db.engine import reading
from scanfleet.db.tables import Worker
from tests.rigs.worker_fleet import Fleet, fleet

START_ME_AGAIN = 75


def reasons(here: Fleet) -> list[str | None]:
    with reading(here.engine) as connection:
        return list(connection.execute(sa.select(Worker.ended_because).where(Worker.stopped_at.is_not(None))).scalars())


@pytest.mark.slow
def test_a_worker_with_a_hung_device_ends_itself_and_says_why(tmp_path: Path) -> None:
    with fleet(tmp_path) as here:
        scan = here.scan(16)
        hung = here.start(seconds_per_image=3600, device_timeout_seconds=1)
        assert hung.end() == START_ME_AGAIN
        assert "worker_hung" in hung.log
        assert "in score" in hung.log  # where its threads stood
        (reason,) = reasons(here)
        assert reason is not None
        assert reason.startswith("the device hangs: a forward has taken")
        here.start()
        here.until_done(scan)
        here.assert_complete(scan, 16)


@pytest.mark.slow
def test_a_worker_that_gets_nowhere_ends_itself_and_says_why(tmp_path: Path) -> None:
    """Its decoders are frozen: everything lives and nothing moves."""
    with fleet(tmp_path, lease_seconds=1.5) as here:
        scan = here.scan(16)
        stuck = here.start(seconds_per_image=0.5, worker_stall_seconds=2)
        here.until_leased()
        family = psutil.Process(stuck.process.pid)
        here.until(lambda: bool(family.children()))
        for child in family.children():
            child.send_signal(signal.SIGSTOP)
        assert stuck.end() == START_ME_AGAIN
        (reason,) = reasons(here)
        assert reason is not None
        assert reason.startswith("no progress for")
        here.start()
        here.until_done(scan)
        here.assert_complete(scan, 16)
