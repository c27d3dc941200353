"""An unavailable store holds its scan and no other; and the meaning of times after the clock was set back."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from scanfleet.config.settings import MAX_LEASE_SECONDS, load_settings
from scanfleet.db import clock
from scanfleet.db.engine import connect, now, reading, transaction
from scanfleet.db.scans import batches, new_images
from scanfleet.db.scans.source_breaker import LIMIT, count_source_error, release_scan
from scanfleet.db.tables import Batch, Scan
from scanfleet.retry import MAX_BACKOFF_SECONDS
from tests.helpers.migrated import upgrade
from tests.ledger_machine.ledger import QUEUE, open_scan
from tests.ledger_machine.small import Small
from tests.ledger_machine.workers import Answer

AWAY = [Answer.WAITS]


@pytest.fixture
def engine(database_url: str, tmp_path: Path) -> Iterator[sa.Engine]:
    engine = connect(load_settings(database_url=database_url, data_dir=tmp_path, model="fake"))
    upgrade(engine)
    yield engine
    engine.dispose()


def held_ledger(engine: sa.Engine, *, n_batches: int = 6) -> Small:
    """A scan whose store was found away often enough."""
    ledger = Small(engine, n_images=n_batches, batch_images=1)
    for _ in range(LIMIT):
        ledger.write(ledger.must_claim(), AWAY)
    return ledger


def pause_seconds(ledger: Small) -> float:
    with reading(ledger.engine) as connection:
        return float((ledger.row(Scan, ledger.scan_id).not_before - now(connection)).total_seconds())


def test_a_few_batches_prove_nothing_the_third_in_a_row_holds_the_scan(engine: sa.Engine) -> None:
    ledger = Small(engine, n_images=6, batch_images=1)
    for trouble in range(1, LIMIT):
        ledger.write(ledger.must_claim(), AWAY)
        scan = ledger.row(Scan, ledger.scan_id)
        assert (scan.trouble, scan.not_before) == (trouble, None)
    ledger.write(ledger.must_claim())  # an image gets through: from the beginning
    assert ledger.row(Scan, ledger.scan_id).trouble == 0
    for _ in range(LIMIT):
        ledger.write(ledger.must_claim(), AWAY)
    scan = ledger.row(Scan, ledger.scan_id)
    assert (scan.trouble, scan.waiting_for) == (LIMIT, "a transient error")
    assert 0 < pause_seconds(ledger) <= 1
    assert ledger.claim() is None
    assert ledger.notify() == []


def test_errors_of_the_device_hold_no_scan(engine: sa.Engine) -> None:
    ledger = Small(engine, n_images=6, batch_images=1)
    for _ in range(LIMIT + 1):
        ledger.write(ledger.must_claim(), AWAY, store=False)
    assert ledger.row(Scan, ledger.scan_id).trouble == 0


def test_what_several_workers_find_out_at_the_same_time_counts_once(engine: sa.Engine) -> None:
    ledger = Small(engine, n_images=6, batch_images=1)
    for held in [ledger.must_claim() for _ in range(6)]:
        ledger.write(held, AWAY)
    scan = ledger.row(Scan, ledger.scan_id)
    assert scan.trouble == LIMIT
    with transaction(engine) as connection:
        count_source_error(connection, ledger.scan_id, waiting_for="still away")
    assert ledger.row(Scan, ledger.scan_id) == scan


def test_pauses_grow_while_probes_fail(engine: sa.Engine) -> None:
    ledger = held_ledger(engine)
    pauses = [pause_seconds(ledger)]
    for _ in range(8):
        ledger.pass_time()
        (probe,) = ledger.notify()
        ledger.write(ledger.must_claim(notified=probe), AWAY)
        pauses.append(pause_seconds(ledger))
    longest = [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert all(least / 2 - 1 < pause <= least for pause, least in zip(pauses, longest, strict=True))
    assert all(pause > 15 for pause in pauses[6:])


def test_one_probe_at_a_time_and_the_least_tried_batch(engine: sa.Engine) -> None:
    ledger = held_ledger(engine)
    tried = {batch.id for batch in ledger.rows(Batch) if batch.attempts}
    assert len(tried) == LIMIT
    ledger.pass_time()
    (probe,) = ledger.notify()
    assert probe not in tried
    assert ledger.notify() == []  # one notification is out
    assert ledger.claim() is None  # without a notification no worker claims
    held = ledger.must_claim(notified=probe)
    other = next(batch for batch in ledger.batch_ids if batch != probe)
    assert ledger.claim(notified=other) is None  # one worker is at it
    assert ledger.notify() == []
    ledger.write(held, AWAY)
    ledger.pass_time()
    (second,) = ledger.notify()
    assert second not in {*tried, probe}


def test_the_first_image_that_gets_through_makes_everything_due(engine: sa.Engine) -> None:
    ledger = held_ledger(engine)
    ledger.pass_time()
    (probe,) = ledger.notify()
    ledger.write(ledger.must_claim(notified=probe), [Answer.CLEAR])
    scan = ledger.row(Scan, ledger.scan_id)
    assert (scan.trouble, scan.not_before, scan.waiting_for) == (0, None, None)
    assert sorted(ledger.notify()) == [batch for batch in ledger.batch_ids if batch != probe]
    with transaction(engine) as connection:
        assert not release_scan(connection, ledger.scan_id)  # nothing to release
    assert ledger.notify() == []  # and the notifications under way are still counted


def test_a_verdict_taken_over_says_nothing_of_the_store(engine: sa.Engine) -> None:
    ledger = held_ledger(engine)
    ledger.pass_time()
    (probe,) = ledger.notify()
    ledger.write(ledger.must_claim(notified=probe), [Answer.REUSED])
    assert ledger.row(Scan, ledger.scan_id).trouble == LIMIT


def test_a_scan_on_hold_holds_up_no_other(engine: sa.Engine) -> None:
    held_ledger(engine)
    other, _ = open_scan(engine, "mem://other")
    with transaction(engine) as connection:
        (batch,) = new_images.add_images(
            connection, scan_id=other, queue=QUEUE, images=[new_images.NewImage(uri="mem://o")], batch_images=1
        )
        assert batches.has_ready(connection, "fake")
        held = batches.claim(connection, model="fake", worker="w", lease_seconds=60)
    assert held is not None
    assert held.batch_id == batch


def test_a_scan_on_hold_is_probed_though_all_notifications_are_out_for_another(engine: sa.Engine) -> None:
    ledger = held_ledger(engine)
    ledger.pass_time()
    other, _ = open_scan(engine, "mem://other")
    with transaction(engine) as connection:
        page = [new_images.NewImage(uri=f"mem://o/{number}") for number in range(9)]
        more = new_images.add_images(connection, scan_id=other, queue=QUEUE, images=page, batch_images=1)
    first = ledger.notify(most=4)
    assert first[:4] == more[:4]
    assert len(first) == 5  # and one probe
    ledger.pass_time(31)
    with transaction(engine) as connection:
        notified = sa.update(Batch).where(Batch.scan_id == other).values(notified_at=now(connection))
        connection.execute(notified)
    (probe,) = ledger.notify(most=4)
    assert probe in ledger.batch_ids


def test_after_a_set_back_probes_still_pause(engine: sa.Engine) -> None:
    ledger = held_ledger(engine)
    ledger.pass_time(-3600)
    (probe,) = ledger.notify()  # an end of the pause in an hour counts as past
    ledger.write(ledger.must_claim(notified=probe), AWAY)
    assert ledger.row(Scan, ledger.scan_id).trouble == LIMIT + 1
    assert 0 < pause_seconds(ledger) <= 2


# times, on the database: each second with its right answer

START = datetime(2026, 10, 25, 0, 59, 30, 500_000, tzinfo=UTC)  # the rules know no other clock than UTC
FAR_BACKOFF = MAX_BACKOFF_SECONDS + 60
FAR_LEASE = MAX_LEASE_SECONDS + 60


def test_a_back_off_is_over_when_past_or_impossibly_far(engine: sa.Engine) -> None:
    over = _asked(engine, "not_before", clock.backoff_over)
    assert all(over(seconds) for seconds in (None, -3600, -1, 0, FAR_BACKOFF + 1, 3600))
    assert not any(over(seconds) for seconds in (0.000001, 1, 59, FAR_BACKOFF))


def test_a_lease_is_over_when_past_or_impossibly_far(engine: sa.Engine) -> None:
    over = _asked(engine, "lease_until", clock.lease_expired)
    assert all(over(seconds) for seconds in (-3600, -1, -0.000001, FAR_LEASE + 1, 3600))
    assert not any(over(seconds) for seconds in (None, 0, 1, MAX_LEASE_SECONDS, FAR_LEASE))


def test_a_notification_is_recent_unless_stale_or_from_the_future(engine: sa.Engine) -> None:
    def since(moment: clock.Time, at: datetime) -> sa.ColumnElement[bool]:
        return clock.happened_since(moment, at - timedelta(seconds=30), at)

    lately = _asked(engine, "notified_at", since)
    assert all(lately(seconds) for seconds in (-30, -1, 0, 60))
    assert not any(lately(seconds) for seconds in (None, -31, -30.000001, 61, 3600))


def test_the_ledgers_clock_is_what_the_store_asks(engine: sa.Engine) -> None:
    with reading(engine) as connection:
        first, second = now(connection), now(connection)
    assert first.tzinfo is not None
    assert first <= second  # also inside one transaction: it advances


Question = Callable[[clock.Time, datetime], sa.ColumnElement[bool]]


def _asked(engine: sa.Engine, name: str, question: Question) -> Callable[[float | None], bool]:
    """The database's answer for a time N seconds after START."""
    Small(engine, n_images=1, batch_images=1)

    def answer(seconds: float | None) -> bool:
        moment = None if seconds is None else START + timedelta(seconds=seconds)
        with transaction(engine) as connection:
            connection.execute(sa.update(Batch).values({name: moment}))
            clause = question(getattr(Batch, name), START)
            return connection.execute(sa.select(Batch.id).where(clause)).first() is not None

    return answer
