"""From listing to rows, on SQLite and PostgreSQL: early, complete, once; whatever interrupts."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from celery import Celery
from structlog.testing import capture_logs

from scanfleet.checks.check import load_check
from scanfleet.config.settings import Settings, load_settings
from scanfleet.db.engine import connect, reading, transaction
from scanfleet.db.results import verdicts
from scanfleet.db.results.answers import NewVerdict
from scanfleet.db.results.scorers import ScorerSpec, scorer_id
from scanfleet.db.results.verdicts import Outcome
from scanfleet.db.scans import batches, scans
from scanfleet.db.scans.retries import retry_failures
from scanfleet.db.tables import Batch, Failure, Image, Scan
from scanfleet.errors import EmptySource, ImageError, LeaseLost, RequestError
from scanfleet.messages import score_queue
from scanfleet.producer.scans.enqueue import Enqueued, enqueue
from scanfleet.producer.sources.base import Candidate, Skip
from scanfleet.producer.sources.filters import Filters
from scanfleet.producer.sources.listed import BucketSource
from scanfleet.producer.sources.listing import Listing
from scanfleet.queue.app import broker_folder, make_app
from scanfleet.reconcile import reconcile_once
from scanfleet.storage.memory import MemoryStore
from tests.helpers.migrated import upgrade

BATCH_IMAGES = 4
QUEUE = score_queue("fake")


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return load_settings(database_url=database_url, data_dir=tmp_path, model="fake", batch_images=BATCH_IMAGES)


@pytest.fixture
def engine(settings: Settings) -> Iterator[sa.Engine]:
    engine = connect(settings)
    upgrade(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def app(settings: Settings) -> Iterator[Celery]:
    with make_app(settings, (QUEUE,)) as app:
        yield app


class Archive:
    """A bucket in memory whose listing can be watched and broken off."""

    sifts_by_suffix = True
    root = None
    top = "mem://a/"

    def __init__(self, n: int, *, resumable: bool = True) -> None:
        self.store = MemoryStore({f"mem://a/{number:05}.jpg": b"x" for number in range(n)})
        self.name = "mem://a/"
        self.resumable = resumable
        self.n_read = 0
        self.break_after: int | None = None

    def candidates(self, *, after: str | None, skip: Skip) -> Iterator[Candidate]:
        for candidate in BucketSource(self.name, self.store).candidates(after=after, skip=skip):
            if self.break_after is not None and self.n_read == self.break_after:
                raise KeyboardInterrupt
            self.n_read += 1
            yield candidate


def start(
    engine: sa.Engine, app: Celery, settings: Settings, archive: Archive, *, fresh: bool | None = None, **filters: Any
) -> Iterator[Enqueued]:
    listing = Listing([archive], Filters(**filters))
    how = {} if fresh is None else {"fresh": fresh}
    return enqueue(engine, app, settings, listing=listing, checks=[load_check("overlay")], **how)


def run(engine: sa.Engine, app: Celery, settings: Settings, archive: Archive, **how: Any) -> Enqueued:
    return list(start(engine, app, settings, archive, **how))[-1]


def uris(engine: sa.Engine, scan_id: str) -> list[str]:
    with reading(engine) as connection:
        return list(
            connection.execute(sa.select(Image.uri).where(Image.scan_id == scan_id).order_by(Image.uri)).scalars()
        )


def scan_of(engine: sa.Engine, scan_id: str) -> scans.ScanInfo:
    with reading(engine) as connection:
        return scans.get_scan(connection, scan_id)


def work(engine: sa.Engine, *, failing: tuple[str, ...] = ()) -> int:
    """Settle every ready batch, as a worker would. Returns how many images were answered."""
    n = 0
    while True:
        with transaction(engine) as connection:
            held = batches.claim(connection, model="fake", worker="w", lease_seconds=60)
        if held is None:
            return n
        n += len(held.images)
        with transaction(engine) as connection:
            verdicts.write(connection, held, outcome_for(connection, held, failing))


def must_claim(connection: sa.Connection) -> batches.Claim:
    held = batches.claim(connection, model="fake", worker="w", lease_seconds=60)
    assert held is not None
    return held


def outcome_for(connection: sa.Connection, held: batches.Claim, failing: tuple[str, ...]) -> Outcome:
    spec = ScorerSpec(
        check_id=held.check_id,
        base_model="fake",
        base_revision="1",
        precision="fp32",
        adapter_id=None,
        max_pixels=100,
        crop="never",
        calibrator=None,
        thresholds=None,
    )
    wrong = [image for image in held.images if image.uri in failing]
    right = [image for image in held.images if image.uri not in failing]
    return Outcome(
        scorer_id=scorer_id(connection, spec),
        verdicts=[
            NewVerdict(
                image_id=image.id,
                identity=image.identity,
                content_sha256=image.uri,
                width=1,
                height=1,
                label="none",
                decision="clear",
                score=None,
                margin=-1.0,
                mass=1.0,
                logits=(0.0, 0.0, 1.0),
            )
            for image in right
        ],
        failures={image.id: ImageError(stage="fetch", reason="denied", detail="no") for image in wrong},
    )


def notifications(settings: Settings) -> int:
    return len(list((broker_folder(settings) / "messages").iterdir()))


def test_the_first_batch_is_committed_and_notified_before_the_listing_continues(
    engine: sa.Engine, app: Celery, settings: Settings
) -> None:
    archive = Archive(200)
    pages = start(engine, app, settings, archive)
    opened = next(pages)
    assert (opened.n_new, opened.ended, opened.broker_away) == (0, False, False)
    first = next(pages)
    assert first.n_new == archive.n_read == BATCH_IMAGES
    assert notifications(settings) == 1
    assert scan_of(engine, opened.scan.id).n_listed is None
    assert scan_of(engine, opened.scan.id).cursor == {"after": "mem://a/00003.jpg"}
    assert work(engine) == BATCH_IMAGES  # scored while the listing stands still
    assert scan_of(engine, opened.scan.id).state == "running"
    last = list(pages)[-1]
    assert (last.n_new, last.ended) == (200, True)
    assert work(engine) == 200 - BATCH_IMAGES
    assert scan_of(engine, opened.scan.id).state == "done"


@pytest.mark.parametrize("resumable", [True, False])
def test_broken_off_and_started_again_each_image_is_there_once(
    engine: sa.Engine, app: Celery, settings: Settings, monkeypatch: pytest.MonkeyPatch, resumable: bool
) -> None:
    monkeypatch.setattr(
        "scanfleet.producer.scans.enqueue.SIFT_IMAGES", 16
    )  # else the second run reads all before it writes
    archive = Archive(500, resumable=resumable)
    for break_after in (100, 300):
        archive.break_after, archive.n_read = break_after, 0
        with pytest.raises(KeyboardInterrupt):
            run(engine, app, settings, archive)
        assert archive.n_read == break_after
    archive.break_after, archive.n_read = None, 0
    last = run(engine, app, settings, archive)
    assert 0 < last.n_new < 500
    assert uris(engine, last.scan.id) == sorted(archive.store.objects)
    assert scan_of(engine, last.scan.id).n_listed == 500
    if resumable:
        assert archive.n_read < 300  # it went on at the second cursor; one image shows that the source can be read
    else:
        assert archive.n_read == 501


def test_the_same_scan_again_adds_nothing_and_what_is_new_reopens_it(
    engine: sa.Engine, app: Celery, settings: Settings
) -> None:
    archive = Archive(50)
    first = run(engine, app, settings, archive)
    work(engine)
    again = run(engine, app, settings, archive)
    assert (again.scan.id, again.n_new) == (first.scan.id, 0)
    assert scan_of(engine, first.scan.id).state == "done"
    archive.store.objects["mem://a/new.jpg"] = b"x"
    archive.store.objects["mem://a/00007.jpg"] = b"changed"
    grown = run(engine, app, settings, archive)
    assert (grown.scan.id, grown.n_new) == (first.scan.id, 2)
    assert scan_of(engine, first.scan.id).state == "running"
    assert work(engine) == 2
    assert scan_of(engine, first.scan.id).state == "done"


def test_a_scan_that_is_listed_again_does_not_end_between_two_pages(
    engine: sa.Engine, app: Celery, settings: Settings
) -> None:
    archive = Archive(BATCH_IMAGES)
    first = run(engine, app, settings, archive)
    work(engine)
    assert scan_of(engine, first.scan.id).state == "done"
    archive.store.objects |= {f"mem://a/new-{number:05}.jpg": b"x" for number in range(200)}
    pages = start(engine, app, settings, archive)
    grown = next(page for page in pages if page.n_new)
    assert work(engine) == grown.n_new < 200  # workers are faster than the listing
    assert scan_of(engine, first.scan.id).state == "running"
    assert list(pages)[-1].n_new == 200
    assert scan_of(engine, first.scan.id).n_listed == 200 + BATCH_IMAGES
    work(engine)
    assert scan_of(engine, first.scan.id).state == "done"


def test_other_filters_or_fresh_make_another_scan(engine: sa.Engine, app: Celery, settings: Settings) -> None:
    archive = Archive(20)
    ids = {
        run(engine, app, settings, archive).scan.id,
        run(engine, app, settings, archive, exclude=("*7.jpg",)).scan.id,
        run(engine, app, settings, archive, fresh=True).scan.id,
        run(engine, app, settings, archive, fresh=True).scan.id,
    }
    assert len(ids) == 4


def test_a_limit_holds_over_restarts(engine: sa.Engine, app: Celery, settings: Settings) -> None:
    archive = Archive(100, resumable=False)
    archive.break_after = 20
    with pytest.raises(KeyboardInterrupt):
        run(engine, app, settings, archive, limit=30)
    archive.break_after = None
    archive.store.objects["mem://a/00000-earlier.jpg"] = b"x"  # listed before what is held already
    last = run(engine, app, settings, archive, limit=30)
    assert len(uris(engine, last.scan.id)) == scan_of(engine, last.scan.id).n_listed == 30
    archive.n_read = 0
    assert run(engine, app, settings, archive, limit=30).n_new == 0
    assert archive.n_read == 1  # the scan is full


def test_an_image_named_twice_is_scanned_once(engine: sa.Engine, app: Celery, settings: Settings) -> None:
    archive = Archive(10)
    listing = Listing([archive, archive], Filters())
    last = list(enqueue(engine, app, settings, listing=listing, checks=[load_check("overlay")]))[-1]
    assert len(uris(engine, last.scan.id)) == 10


def test_nothing_to_list_writes_nothing(engine: sa.Engine, app: Celery, settings: Settings) -> None:
    with pytest.raises(EmptySource, match="no images found in"):
        run(engine, app, settings, Archive(0))
    archive = Archive(3)
    with pytest.raises(EmptySource, match="3 files skipped"):
        run(engine, app, settings, archive, include=("*.gif",))
    with reading(engine) as connection:
        assert scans.list_scans(connection) == []


def test_cancelled_in_the_midst_the_listing_stops(engine: sa.Engine, app: Celery, settings: Settings) -> None:
    archive = Archive(500)
    pages = start(engine, app, settings, archive)
    next(pages)
    scan_id = next(pages).scan.id
    with transaction(engine) as connection:
        scans.cancel(connection, scan_id)
    with pytest.raises(RequestError, match="--fresh"):
        list(pages)
    assert archive.n_read < 50
    with pytest.raises(RequestError, match="--fresh"):
        run(engine, app, settings, archive)
    with reading(engine) as connection:
        assert scans.progress(connection, scan_id).n_pending == 0
    assert run(engine, app, settings, archive, fresh=True).n_new == 500


def test_paused_the_listing_continues_and_nobody_is_notified(
    engine: sa.Engine, app: Celery, settings: Settings
) -> None:
    pages = start(engine, app, settings, Archive(100))
    scan_id = next(pages).scan.id
    with transaction(engine) as connection:
        scans.pause(connection, scan_id)
    assert list(pages)[-1].n_new == 100
    assert notifications(settings) == 0
    assert work(engine) == 0
    with transaction(engine) as connection:
        scans.resume(connection, scan_id)
    assert reconcile_once(engine, app, settings).notified == 25
    assert work(engine) == 100
    assert scan_of(engine, scan_id).state == "done"


def test_notifications_stay_below_their_limit(engine: sa.Engine, app: Celery, settings: Settings) -> None:
    capped = settings.model_copy(update={"max_outstanding_notifications": 5, "reconcile_seconds": 600.0})
    pages = start(engine, app, capped, Archive(200))
    for _ in range(5):
        next(pages)
    assert notifications(settings) == 5
    work(engine)  # there is room again, and the ledger is not asked before the next round of reconcilers
    list(pages)
    assert notifications(settings) == 5


def test_a_queue_that_nobody_empties_does_not_grow(engine: sa.Engine, app: Celery, settings: Settings) -> None:
    """One slow worker: its notifications are older than renotify_seconds, and none is lost."""
    capped = settings.model_copy(update={"max_outstanding_notifications": 5})
    run(engine, app, capped, Archive(40))
    capped = capped.model_copy(update={"renotify_seconds": 0.001})
    for _ in range(3):
        reconcile_once(engine, app, capped)
    assert notifications(settings) == 5
    for message in (broker_folder(settings) / "messages").glob("*.msg"):
        message.unlink()  # lost
    assert reconcile_once(engine, app, capped).notified == 5
    assert notifications(settings) == 5


def test_a_broker_that_is_away_costs_no_image(engine: sa.Engine, settings: Settings) -> None:
    away = settings.model_copy(update={"broker_url": load_settings(broker_url="redis://127.0.0.1:1/0").broker_url})
    with make_app(away, (QUEUE,)) as app:
        with capture_logs() as logs:
            last = run(engine, app, away, Archive(200))
        assert [entry["event"] for entry in logs] == ["broker_away"]  # not for each page
        assert reconcile_once(engine, app, away).notified == 0
    assert last.broker_away
    with reading(engine) as connection:
        assert scans.progress(connection, last.scan.id).n_images == 200
        assert connection.execute(sa.select(sa.func.count(Batch.notified_at))).scalar_one() == 0
    with make_app(settings, (QUEUE,)) as app:
        assert reconcile_once(engine, app, settings).notified == 50


def test_reconcilers_end_a_scan_whose_last_batch_was_settled(
    engine: sa.Engine, app: Celery, settings: Settings
) -> None:
    scan_id = run(engine, app, settings, Archive(8)).scan.id
    with transaction(engine) as connection:
        assert batches.claim(connection, model="fake", worker="gone", lease_seconds=-1) is not None
    found = reconcile_once(engine, app, settings)
    assert (found.expired, found.finished) == (1, 0)
    work(engine)
    with transaction(engine) as connection:  # as if whoever settled it had found another batch still open
        connection.execute(sa.update(Scan).values(state="running", finished_at=None))
    assert reconcile_once(engine, app, settings).finished == 1
    assert scan_of(engine, scan_id).state == "done"
    assert reconcile_once(engine, app, settings).finished == 0


def test_a_listing_waits_for_no_worker_that_writes_verdicts(engine: sa.Engine, app: Celery, settings: Settings) -> None:
    """A verdict names its scan, and so holds the scan's key until its transaction ends."""
    pages = start(engine, app, settings, Archive(2 * BATCH_IMAGES))
    scan_id = next(pages).scan.id
    with reading(engine) as connection:
        key = sa.select(Scan.id).where(Scan.id == scan_id)
        connection.execute(key.with_for_update(read=True, key_share=True))
        assert next(pages).n_new == BATCH_IMAGES


def test_two_producers_of_one_scan_double_nothing(engine: sa.Engine, settings: Settings) -> None:
    errors: list[BaseException] = []

    def produce() -> None:
        try:
            with make_app(settings, (QUEUE,)) as app:
                run(engine, app, settings, archive)
        except BaseException as error:
            errors.append(error)

    archive = Archive(300)
    with make_app(settings, (QUEUE,)) as app:
        run(engine, app, settings, archive, limit=1)  # another scan: the check's row is there already
        opened = next(start(engine, app, settings, archive))
    threads = [threading.Thread(target=produce) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert errors == []
    assert uris(engine, opened.scan.id) == sorted(archive.store.objects)


def test_retried_failures_are_scored_again_and_counted_once(engine: sa.Engine, app: Celery, settings: Settings) -> None:
    archive = Archive(10)
    scan_id = run(engine, app, settings, archive).scan.id
    failing = ("mem://a/00001.jpg", "mem://a/00002.jpg", "mem://a/00009.jpg")
    work(engine, failing=failing)
    with reading(engine) as connection:
        assert scans.progress(connection, scan_id).n_failures == 3
    with transaction(engine) as connection:
        assert retry_failures(connection, scan_id, reason="gone") == 0
    assert scan_of(engine, scan_id).state == "done"
    with transaction(engine) as connection:
        assert retry_failures(connection, scan_id, stage="fetch", reason="denied") == 3
    with reading(engine) as connection:
        done = scans.progress(connection, scan_id)
        assert (done.n_failures, done.n_pending) == (0, 3)
        assert connection.execute(sa.select(sa.func.count()).select_from(Failure)).scalar_one() == 0
    assert scan_of(engine, scan_id).state == "running"
    assert reconcile_once(engine, app, settings).notified == 2
    assert work(engine, failing=failing[:1]) == 3
    with reading(engine) as connection:
        done = scans.progress(connection, scan_id)
    assert (done.n_verdicts, done.n_failures, done.n_pending) == (9, 1, 0)
    assert scan_of(engine, scan_id).state == "done"


def test_a_retry_takes_the_batch_from_a_worker_that_holds_it(
    engine: sa.Engine, app: Celery, settings: Settings
) -> None:
    scan_id = run(engine, app, settings, Archive(4)).scan.id
    denied = ImageError(stage="fetch", reason="denied", detail="no")
    with transaction(engine) as connection:
        held = must_claim(connection)
        scorer = outcome_for(connection, held, failing=()).scorer_id
        one_failed = Outcome(scorer_id=scorer, verdicts=[], failures={held.images[0].id: denied}, waiting_for="store")
        verdicts.write(connection, held, one_failed)
        connection.execute(sa.update(Batch).values(not_before=None))
        slow = must_claim(connection)
        assert len(slow.images) == 3
        assert retry_failures(connection, scan_id) == 1
    with pytest.raises(LeaseLost), transaction(engine) as connection:
        verdicts.write(connection, slow, outcome_for(connection, slow, failing=()))
    assert work(engine) == 4
    assert scan_of(engine, scan_id).state == "done"


def test_a_cancelled_scan_is_not_retried(engine: sa.Engine, app: Celery, settings: Settings) -> None:
    scan_id = run(engine, app, settings, Archive(4)).scan.id
    with transaction(engine) as connection:
        scans.cancel(connection, scan_id)
    with pytest.raises(RequestError, match="cancelled"), transaction(engine) as connection:
        retry_failures(connection, scan_id)
    with reading(engine) as connection:
        assert connection.execute(sa.select(Scan.state)).scalar_one() == "cancelled"


def test_a_listing_that_outlived_a_restored_database_leaves_nothing_out(
    engine: sa.Engine, app: Celery, settings: Settings
) -> None:
    """The database loses the second page while the command lives, the command writes the third and is killed."""
    archive = Archive(10 * BATCH_IMAGES)
    listing = start(engine, app, settings, archive)
    first = next(page for page in listing if page.n_new == BATCH_IMAGES)
    backup = scan_of(engine, first.scan.id).cursor
    next(listing)
    with transaction(engine) as connection:
        lost = sa.select(Batch.id).where(Batch.scan_id == first.scan.id).order_by(Batch.id).offset(1)
        ids = connection.execute(lost).scalars().all()
        connection.execute(sa.delete(Image).where(Image.batch_id.in_(ids)))
        connection.execute(sa.delete(Batch).where(Batch.id.in_(ids)))
        connection.execute(sa.update(Scan).where(Scan.id == first.scan.id).values(cursor=backup))
    next(listing)
    listing.close()
    run(engine, app, settings, archive)
    assert len(uris(engine, first.scan.id)) == 10 * BATCH_IMAGES
