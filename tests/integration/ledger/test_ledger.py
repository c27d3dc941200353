"""The life of a batch, on SQLite and on PostgreSQL: nothing lost, nothing doubled, late writers refused."""

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from scanfleet.checks.check import load_check
from scanfleet.config.settings import Settings, load_settings
from scanfleet.db import schema
from scanfleet.db.engine import connect, reading, transaction
from scanfleet.db.results import answers, verdicts
from scanfleet.db.results.answers import NewVerdict
from scanfleet.db.results.scorers import ScorerSpec, scorer_id
from scanfleet.db.results.verdicts import Outcome
from scanfleet.db.scans import batches, crash_isolation, new_images, notifications, scans
from scanfleet.db.scans.batches import Claim
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.scans.scans import ScanInfo
from scanfleet.db.tables import Batch, Failure, Image, Scan, Verdict
from scanfleet.errors import ImageError, LeaseLost, RequestError, UnknownName
from scanfleet.messages import score_queue
from tests.helpers.migrated import upgrade
from tests.helpers.schema_diff import schema_diff

QUEUE = score_queue("fake")


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return load_settings(database_url=database_url, data_dir=tmp_path, model="fake")


@pytest.fixture
def engine(settings: Settings) -> Iterator[sa.Engine]:
    engine = connect(settings)
    upgrade(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def empty(empty_database_url: str, tmp_path: Path) -> Iterator[sa.Engine]:
    engine = connect(load_settings(database_url=empty_database_url, data_dir=tmp_path))
    yield engine
    engine.dispose()


def start_scan(engine: sa.Engine, n_images: int, *, batch_images: int = 4, listed: bool = True) -> ScanInfo:
    with transaction(engine) as connection:
        scan, _ = scans.open_scan(
            connection, check=load_check("overlay"), model="fake", sources=["mem://a"], filters={}
        )
        images = [NewImage(uri=f"mem://a/{number}") for number in range(n_images)]
        new_images.add_images(connection, scan_id=scan.id, queue=QUEUE, images=images, batch_images=batch_images)
        if listed:
            connection.execute(sa.update(Scan).values(n_listed=n_images))
    return scan


def claim(engine: sa.Engine, *, lease_seconds: float = 60, notified: int | None = None) -> Claim | None:
    with transaction(engine) as connection:
        return batches.claim(connection, model="fake", worker="w", lease_seconds=lease_seconds, notified=notified)


def must_claim(engine: sa.Engine, *, lease_seconds: float = 60) -> Claim:
    held = claim(engine, lease_seconds=lease_seconds)
    assert held is not None
    return held


def a_scorer(engine: sa.Engine, check_id: int, *, adapter_id: int | None = None) -> int:
    spec = ScorerSpec(
        check_id=check_id,
        base_model="fake",
        base_revision="1",
        precision="fp32",
        adapter_id=adapter_id,
        max_pixels=100,
        crop="never",
        calibrator=None,
        thresholds=None,
    )
    with transaction(engine) as connection:
        return scorer_id(connection, spec)


def verdict_for(image: batches.ClaimedImage, *, margin: float = 1.5) -> NewVerdict:
    return NewVerdict(
        image_id=image.id,
        identity=image.identity,
        content_sha256=f"sha-{image.uri}",
        width=10,
        height=20,
        label="overlay",
        decision="flag",
        score=None,
        margin=margin,
        mass=0.99,
        logits=(1.5, 0.0, 0.0),
    )


def settle(engine: sa.Engine, held: Claim) -> None:
    scorer = a_scorer(engine, held.check_id)
    outcome = Outcome(scorer_id=scorer, verdicts=[verdict_for(image) for image in held.images], failures={})
    with transaction(engine) as connection:
        verdicts.write(connection, held, outcome)


def count(engine: sa.Engine, table: type, *where: sa.ColumnElement[bool]) -> int:
    with reading(engine) as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(table).where(*where)).scalar_one()


def test_migrations_lead_to_the_tables_on_both_databases(empty: sa.Engine) -> None:
    schema.upgrade(empty)
    assert schema_diff(empty) == []


def test_upgrading_twice_at_once_is_one_upgrade(empty: sa.Engine) -> None:
    errors: list[BaseException] = []

    def upgrade_it() -> None:
        try:
            schema.upgrade(empty)
        except BaseException as error:
            errors.append(error)

    if empty.dialect.name == "sqlite":
        upgrade_it()
    else:
        threads = [threading.Thread(target=upgrade_it) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []
    assert schema.check_schema(empty)


def test_every_image_ends_with_one_verdict_and_the_scan_is_done(engine: sa.Engine) -> None:
    scan = start_scan(engine, 10)
    while held := claim(engine):
        settle(engine, held)
    assert count(engine, Image, Image.state == "verdict") == 10
    assert count(engine, Verdict) == 10
    with reading(engine) as connection:
        assert scans.get_scan(connection, scan.id).state == "done"
        summary = scans.progress(connection, scan.id)
    assert (summary.n_images, summary.n_verdicts, summary.n_flagged, summary.n_pending) == (10, 10, 10, 0)


def test_the_batch_that_was_notified_comes_first(engine: sa.Engine) -> None:
    start_scan(engine, 12)
    with reading(engine) as connection:
        last = connection.execute(sa.select(sa.func.max(Batch.id))).scalar_one()
    held = claim(engine, notified=last)
    assert held is not None
    assert held.batch_id == last
    other = claim(engine, notified=last)  # it is taken: any other one will do
    assert other is not None
    assert other.batch_id != last


def test_batches_that_were_never_tried_come_before_those_that_failed(engine: sa.Engine) -> None:
    """A few that always fail and have low ids would come first forever."""
    start_scan(engine, 12)
    failed = must_claim(engine)
    with transaction(engine) as connection:
        batches.settle(connection, failed, values={}, waiting_for="the store")
        connection.execute(sa.update(Batch).values(not_before=None))
    order = [must_claim(engine).batch_id for _ in range(3)]
    assert order == [failed.batch_id + 1, failed.batch_id + 2, failed.batch_id]


def test_two_workers_never_hold_one_batch(engine: sa.Engine) -> None:
    start_scan(engine, 40, batch_images=1)
    taken: list[int] = []
    barrier = threading.Barrier(4)

    def work() -> None:
        barrier.wait()
        while held := claim(engine):
            taken.append(held.batch_id)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(taken)) == 40


def test_adding_the_same_images_again_adds_nothing(engine: sa.Engine) -> None:
    first = start_scan(engine, 10)
    again = start_scan(engine, 12)
    assert again.id == first.id
    assert count(engine, Image) == 12
    assert count(engine, Batch) == 4  # 3 for the first ten, 1 for the two new ones


def test_a_page_that_names_an_image_twice_holds_it_once(engine: sa.Engine) -> None:
    scan = start_scan(engine, 0)
    with transaction(engine) as connection:
        twice = [NewImage(uri="mem://a/x"), NewImage(uri="mem://a/x")]
        new_images.add_images(connection, scan_id=scan.id, queue=QUEUE, images=twice, batch_images=4)
    assert count(engine, Image) == 1


def test_a_late_writer_changes_nothing(engine: sa.Engine) -> None:
    start_scan(engine, 4)
    late = must_claim(engine, lease_seconds=-1)
    with transaction(engine) as connection:
        assert crash_isolation.expire_leases(connection).n == 1
    fresh = must_claim(engine)
    assert fresh.batch_id == late.batch_id
    with pytest.raises(LeaseLost):
        settle(engine, late)
    assert count(engine, Verdict) == 0
    settle(engine, fresh)
    with pytest.raises(LeaseLost):
        settle(engine, late)
    with pytest.raises(LeaseLost), transaction(engine) as connection:
        batches.extend(connection, late, lease_seconds=60)
    assert count(engine, Verdict) == 4


def test_a_live_lease_does_not_expire(engine: sa.Engine) -> None:
    start_scan(engine, 4)
    held = must_claim(engine, lease_seconds=-1)
    with transaction(engine) as connection:
        batches.extend(connection, held, lease_seconds=60)
        assert crash_isolation.expire_leases(connection).n == 0


def test_a_failed_image_is_recorded_once_and_its_neighbours_go_on(engine: sa.Engine) -> None:
    scan = start_scan(engine, 4)
    held = must_claim(engine)
    bad, *good = held.images
    broken = ImageError(stage="decode", reason="truncated", detail="x" * 900)
    outcome = Outcome(
        scorer_id=a_scorer(engine, held.check_id),
        verdicts=[verdict_for(image) for image in good],
        failures={bad.id: broken},
    )
    with transaction(engine) as connection:
        verdicts.write(connection, held, outcome)
    with reading(engine) as connection:
        failure = connection.execute(sa.select(Failure.stage, Failure.reason, Failure.detail)).one()
        assert scans.progress(connection, scan.id).n_failures == 1
        assert scans.get_scan(connection, scan.id).state == "done"
    assert (failure.stage, failure.reason, len(failure.detail)) == ("decode", "truncated", 500)


def test_images_with_transient_errors_stay_pending_and_come_again(engine: sa.Engine) -> None:
    scan = start_scan(engine, 4)
    held = must_claim(engine)
    first, *waiting = held.images
    scorer = a_scorer(engine, held.check_id)
    part = Outcome(scorer_id=scorer, verdicts=[verdict_for(first)], failures={}, waiting_for="bucket away")
    with transaction(engine) as connection:
        verdicts.write(connection, held, part)
    assert claim(engine) is None  # not before its back-off
    with reading(engine) as connection:
        summary = scans.progress(connection, scan.id)
        assert (summary.n_verdicts, summary.n_pending, summary.waiting_for) == (1, 3, "bucket away")
        assert connection.execute(sa.select(Scan.trouble)).scalar_one() == 0  # an image was fetched
    with transaction(engine) as connection:
        connection.execute(sa.update(Batch).values(not_before=None))
    again = must_claim(engine)
    assert [image.id for image in again.images] == [image.id for image in waiting]
    settle(engine, again)
    with reading(engine) as connection:
        summary = scans.progress(connection, scan.id)
        assert (summary.n_verdicts, summary.waiting_for) == (4, None)


def test_an_answer_given_again_renews_every_column(engine: sa.Engine) -> None:
    start_scan(engine, 1)
    held = must_claim(engine)
    (image,) = held.images
    scorer = a_scorer(engine, held.check_id)
    later = replace(
        verdict_for(image, margin=-2.0), content_sha256="other", label="none", decision="clear", score=0.1, mass=0.5,
        logits=(0.0, 2.0, 0.0), boxes=({"x0": 1},), box_problems=("cut",), notes=("n",), unlike=0.2, doubted="flag",
    )  # fmt: skip
    rows = []
    for answer in (verdict_for(image), later):
        with transaction(engine) as connection:
            verdicts._write_verdicts(connection, held, Outcome(scorer_id=scorer, verdicts=[answer], failures={}))
        with reading(engine) as connection:
            rows.append(connection.execute(sa.select(Verdict.__table__)).one())
    names = ("content_sha256", "label", "decision", "score", "margin", "mass", "unlike", "doubted")
    assert [getattr(rows[1], name) for name in names] == [getattr(later, name) for name in names]
    assert (rows[1].logits, rows[1].boxes) == ([0.0, 2.0, 0.0], [{"x0": 1}])
    assert (rows[1].box_problems, rows[1].notes) == (["cut"], ["n"])
    assert rows[1].id == rows[0].id
    assert rows[1].created_at > rows[0].created_at


def test_a_later_attempt_reads_the_version_that_the_first_one_read(engine: sa.Engine) -> None:
    start_scan(engine, 2)
    scorer = None
    for version in ("first", "second"):
        held = must_claim(engine)
        scorer = scorer or a_scorer(engine, held.check_id)
        read = {held.images[0].id: version}
        part = Outcome(scorer_id=scorer, verdicts=[], failures={}, versions=read, waiting_for="the device")
        with transaction(engine) as connection:
            verdicts.write(connection, held, part)
            connection.execute(sa.update(Batch).values(not_before=None))
    assert [(image.etag, image.pin) for image in must_claim(engine).images] == [(None, "first"), (None, None)]


def test_a_batch_given_back_is_ready_at_once(engine: sa.Engine) -> None:
    start_scan(engine, 8)
    held = must_claim(engine)
    with transaction(engine) as connection:
        batches.give_back(connection, held, values={})
    again = must_claim(engine)
    assert (again.batch_id, again.attempts) == (held.batch_id, 1)


def test_a_paused_scan_gives_no_batch(engine: sa.Engine) -> None:
    scan = start_scan(engine, 4)
    with transaction(engine) as connection:
        scans.pause(connection, scan.id)
    assert claim(engine) is None
    with transaction(engine) as connection:
        scans.resume(connection, scan.id)
    assert claim(engine) is not None


def test_cancelling_ends_every_image_and_refuses_the_batch_under_way(engine: sa.Engine) -> None:
    scan = start_scan(engine, 8)
    settle(engine, must_claim(engine))
    under_way = must_claim(engine)
    with transaction(engine) as connection:
        assert scans.cancel(connection, scan.id) == 4
    with pytest.raises(LeaseLost):
        settle(engine, under_way)
    assert count(engine, Image, Image.state == "verdict") == 4
    assert count(engine, Image, Image.state == "cancelled") == 4
    with reading(engine) as connection:
        summary = scans.progress(connection, scan.id)
        assert (summary.n_cancelled, summary.n_pending) == (4, 0)
    with pytest.raises(RequestError, match="is cancelled"), transaction(engine) as connection:
        scans.resume(connection, scan.id)


def test_rings_are_capped_and_not_repeated_at_once(engine: sa.Engine) -> None:
    start_scan(engine, 10, batch_images=1)

    def due(**limits: float) -> list[int]:
        with transaction(engine) as connection:
            renotify = limits.get("renotify_seconds", 30.0)
            found = notifications.due_for_notification(
                connection, renotify_seconds=renotify, max_outstanding=int(limits.get("max_outstanding", 4))
            )
        return [batch_id for batch_id, _ in found]

    first = due()
    assert len(first) == 4
    assert due() == []  # four are outstanding
    more = due(max_outstanding=100)
    assert len(more) == 6
    assert not set(first) & set(more)
    assert len(due(renotify_seconds=-1, max_outstanding=100)) == 10  # all are stale by now


def test_a_scan_is_not_done_while_its_listing_goes_on(engine: sa.Engine) -> None:
    scan = start_scan(engine, 4, listed=False)
    settle(engine, must_claim(engine))
    with transaction(engine) as connection:
        assert scans.get_scan(connection, scan.id).state == "running"
        connection.execute(sa.update(Scan).values(n_listed=4))
        assert scans.finish_all_complete(connection) == 1


def test_a_scorer_is_one_row_for_one_configuration(engine: sa.Engine) -> None:
    start_scan(engine, 1)
    check_id = must_claim(engine).check_id
    assert a_scorer(engine, check_id) == a_scorer(engine, check_id)


def test_earlier_verdicts_are_found_by_version_and_by_content(engine: sa.Engine) -> None:
    start_scan(engine, 4)
    held = must_claim(engine)
    settle(engine, held)
    scorer = a_scorer(engine, held.check_id)
    image = held.images[0]
    with reading(engine) as connection:
        assert set(answers.answers_by_identity(connection, scorer, [image.identity, "other"])) == {image.identity}
        assert set(answers.answers_by_content(connection, scorer, [f"sha-{image.uri}"])) == {f"sha-{image.uri}"}
        assert answers.answers_by_content(connection, scorer + 1, [f"sha-{image.uri}"]) == {}


def test_a_scan_is_found_by_the_start_of_its_id(engine: sa.Engine) -> None:
    scan = start_scan(engine, 1)
    with reading(engine) as connection:
        assert scans.get_scan(connection, scan.id[:4]).id == scan.id
        for nonsense in ("%", "", "zzzzzzzzz"):
            with pytest.raises(UnknownName):
                scans.get_scan(connection, nonsense)


def test_a_rolled_back_write_leaves_nothing(engine: sa.Engine) -> None:
    start_scan(engine, 4)
    held = must_claim(engine)
    outcome = Outcome(
        scorer_id=a_scorer(engine, held.check_id),
        verdicts=[verdict_for(image) for image in held.images],
        failures={},
    )
    with closing(engine.connect()) as connection:
        transaction_ = connection.begin()
        verdicts.write(connection, held, outcome)
        transaction_.rollback()
    assert count(engine, Verdict) == 0
    settle(engine, held)
    assert count(engine, Verdict) == 4


def test_a_part_that_is_written_again_counts_once(engine: sa.Engine) -> None:
    """The first commit held, and its answer was lost on the way: the worker repeats the write."""
    start_scan(engine, 3)
    held = must_claim(engine)
    first, second, _ = held.images
    lethal = ImageError(stage="decode", reason="truncated", detail="")
    outcome = Outcome(
        scorer_id=a_scorer(engine, held.check_id), verdicts=[verdict_for(first)], failures={second.id: lethal}
    )
    for _ in range(2):
        with transaction(engine) as connection:
            verdicts.write_part(connection, held, outcome, in_hand=held.images[2].id)
    with reading(engine) as connection:
        counts = connection.execute(sa.select(Batch.n_verdicts, Batch.n_failures, Batch.n_flagged)).one()
    assert tuple(counts) == (1, 1, 1)
