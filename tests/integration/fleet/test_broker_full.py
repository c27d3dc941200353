"""The embedded broker on a full disk: a failed notification is an unavailable broker, and leaves nothing."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from celery import Celery

from scanfleet.config.settings import Settings, load_settings
from scanfleet.db.engine import connect, reading
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.tables import Batch
from scanfleet.errors import BrokerUnavailable
from scanfleet.messages import score_queue
from scanfleet.queue.app import broker_folder, clear_taken, make_app, notify
from scanfleet.reconcile import reconcile_once
from tests.helpers.migrated import upgrade
from tests.rigs.worker_rig import add_scan
from tests.services.tiny_disk import TinyDisk, tiny_disk

QUEUE = score_queue("fake")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[TinyDisk]:
    with tiny_disk(tmp_path / "data", megabytes=1) as made:
        yield made


@pytest.fixture
def settings(disk: TinyDisk, tmp_path: Path) -> Settings:
    """The broker on the tiny disk, the ledger elsewhere."""
    return load_settings(data_dir=disk.folder, database_url=f"sqlite:///{tmp_path / 'ledger.db'}", model="fake")


@pytest.fixture
def app(settings: Settings) -> Iterator[Celery]:
    with make_app(settings) as made:
        yield made


def messages(settings: Settings) -> list[Path]:
    return list((broker_folder(settings) / "messages").iterdir())


def take(app: Celery) -> int:
    """How many messages a consumer gets."""
    n = 0
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue(QUEUE)
        while True:
            try:
                queue.get_nowait().ack()
            except queue.Empty:
                return n
            n += 1


@pytest.mark.parametrize("first", [True, False])
def test_a_notification_on_a_full_disk(disk: TinyDisk, settings: Settings, app: Celery, first: bool) -> None:
    """first: nothing was ever sent, so the files that bind the queue are not there yet either."""
    if not first:
        notify(app, queue=QUEUE, batch_id=1)
        assert take(app) == 1
    disk.fill()
    for batch_id in (2, 3):
        with pytest.raises(BrokerUnavailable, match="No space left"):
            notify(app, queue=QUEUE, batch_id=batch_id)
    disk.free()
    assert messages(settings) == []
    with make_app(settings) as later:
        notify(later, queue=QUEUE, batch_id=4)
        assert take(later) == 1


def test_reconciling_continues_when_there_is_space(disk: TinyDisk, settings: Settings, app: Celery) -> None:
    engine = connect(settings)
    upgrade(engine)
    add_scan(engine, [NewImage(uri=f"mem://{number}") for number in range(3)], batch_images=1)
    disk.fill()
    assert reconcile_once(engine, app, settings).notified == 0
    disk.free()
    with reading(engine) as connection:
        assert set(connection.execute(sa.select(Batch.notified_at)).scalars()) == {None}
    assert reconcile_once(engine, app, settings).notified == 3
    assert take(app) == 3
    engine.dispose()


def test_what_a_kill_left_half_written_is_passed_over(settings: Settings, app: Celery) -> None:
    notify(app, queue=QUEUE, batch_id=1)
    (message,) = messages(settings)
    message.with_name(f"0_torn.{QUEUE}.msg").write_bytes(b"")
    message.with_name(f"00_torn.{QUEUE}.msg").write_bytes(message.read_bytes()[:-5])
    old = message.with_name("1.part")
    old.write_bytes(b"half")
    os.utime(old, (0, 0))
    message.with_name("2.part").write_bytes(b"being written")
    clear_taken(settings)
    assert [path.name for path in messages(settings) if path.suffix == ".part"] == ["2.part"]
    for table in (broker_folder(settings) / "control").glob("*.exchange"):
        table.write_bytes(b"")
    with make_app(settings) as later:
        notify(later, queue=QUEUE, batch_id=2)
        assert take(later) == 2
