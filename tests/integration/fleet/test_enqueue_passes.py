"""One listing for several checks: a scan for each, with the same batches, whatever interrupts."""

from collections.abc import Iterator, Sequence

import pytest
import sqlalchemy as sa
from celery import Celery

from scanfleet.checks.check import Check
from scanfleet.config.settings import Settings
from scanfleet.db.engine import reading, transaction
from scanfleet.db.scans import scans
from scanfleet.db.tables import Batch, Image, Scan
from scanfleet.errors import RequestError
from scanfleet.producer.scans.enqueue import Enqueued, enqueue
from scanfleet.producer.sources.filters import Filters
from scanfleet.producer.sources.listing import Listing
from tests.integration.fleet.test_producer_enqueue import Archive, app, engine, scan_of, settings, uris, work
from tests.rigs.many_questions import question_named

__all__ = ["app", "engine", "settings"]

LOGO, KNIFE, TEXT = (question_named(name) for name in ("logo", "knife", "text"))
SMALL = question_named("small", max_pixels=64 * 64)


@pytest.fixture
def enqueued(engine: sa.Engine, app: Celery, settings: Settings) -> "Enqueueing":
    return Enqueueing(engine, app, settings)


class Enqueueing:
    def __init__(self, engine: sa.Engine, app: Celery, settings: Settings) -> None:
        self.engine, self._app, self._settings = engine, app, settings

    def pages(
        self, archive: Archive, checks: Sequence[Check], *, fresh: bool = False, **filters: int
    ) -> Iterator[Enqueued]:
        listing = Listing([archive], Filters(**filters))  # type: ignore[arg-type]
        return enqueue(self.engine, self._app, self._settings, listing=listing, checks=checks, fresh=fresh)

    def __call__(self, archive: Archive, *checks: Check, fresh: bool = False, **filters: int) -> list[str]:
        return [scan.id for scan in list(self.pages(archive, checks, fresh=fresh, **filters))[-1].scans]

    def pass_ids(self) -> dict[str, str | None]:
        """Pass by scan."""
        with reading(self.engine) as connection:
            return {row.id: row.pass_id for row in connection.execute(sa.select(Scan.id, Scan.pass_id))}

    def batches_of(self, scan_id: str) -> list[list[str]]:
        query = sa.select(Batch.id, Image.uri).join(Image, Image.batch_id == Batch.id)
        found: dict[int, list[str]] = {}
        with reading(self.engine) as connection:
            for row in connection.execute(query.where(Batch.scan_id == scan_id).order_by(Image.id)):
                found.setdefault(row.id, []).append(row.uri)
        return list(found.values())


def test_one_listing_makes_a_scan_for_each_check_with_the_same_batches(enqueued: Enqueueing) -> None:
    archive = Archive(50)
    one, two, three = enqueued(archive, LOGO, KNIFE, TEXT)
    assert archive.n_read == 50
    assert uris(enqueued.engine, one) == sorted(archive.store.objects)
    assert enqueued.batches_of(one) == enqueued.batches_of(two) == enqueued.batches_of(three)
    assert [scan_of(enqueued.engine, each).check for each in (one, two, three)] == ["logo", "knife", "text"]
    found = enqueued.pass_ids()
    assert found[one] is not None
    assert found[one] == found[two] == found[three]
    work(enqueued.engine)
    assert {scan_of(enqueued.engine, each).state for each in (one, two, three)} == {"done"}


def test_one_check_is_in_no_pass_and_is_the_same_scan_in_company(enqueued: Enqueueing) -> None:
    archive = Archive(20)
    (alone,) = enqueued(archive, LOGO)
    assert enqueued.pass_ids() == {alone: None}
    first, added = enqueued(archive, LOGO, KNIFE)
    assert first == alone
    assert uris(enqueued.engine, added) == uris(enqueued.engine, first) == sorted(archive.store.objects)
    assert set(enqueued.pass_ids().values()) == {enqueued.pass_ids()[added]} != {None}
    assert enqueued(archive, LOGO, KNIFE, TEXT)[:2] == [first, added]
    assert set(enqueued.pass_ids().values()) == {enqueued.pass_ids()[added]}
    assert enqueued(archive, LOGO) == [first]


def test_checks_that_read_images_otherwise_are_in_other_passes(enqueued: Enqueueing) -> None:
    archive = Archive(4)
    boxes, steps = question_named("boxes", boxes=True), question_named("cropped", crop="always")
    many = enqueued(archive, LOGO, SMALL, boxes, steps, KNIFE)
    found = [enqueued.pass_ids()[each] for each in many]
    assert found[0] == found[4] is not None
    assert found[1:4] == [None, None, None]


def test_fresh_scans_are_a_pass_of_their_own(enqueued: Enqueueing) -> None:
    archive = Archive(4)
    old, new = enqueued(archive, LOGO, KNIFE), enqueued(archive, LOGO, KNIFE, fresh=True)
    found = enqueued.pass_ids()
    assert found[new[0]] == found[new[1]]
    assert found[old[0]] != found[new[0]]
    assert len({*old, *new}) == 4


def test_broken_off_and_started_again_each_scan_has_each_image_once(enqueued: Enqueueing) -> None:
    archive = Archive(500)
    archive.break_after = 300
    with pytest.raises(KeyboardInterrupt):
        enqueued(archive, LOGO, KNIFE)
    archive.break_after, archive.n_read = None, 0
    one, two = enqueued(archive, LOGO, KNIFE)
    assert archive.n_read < 350  # both go on at the same cursor
    assert uris(enqueued.engine, one) == uris(enqueued.engine, two) == sorted(archive.store.objects)
    assert enqueued.batches_of(one) == enqueued.batches_of(two)
    assert scan_of(enqueued.engine, two).n_listed == 500


def test_a_check_that_joins_an_interrupted_listing_misses_nothing(enqueued: Enqueueing) -> None:
    archive = Archive(500)
    archive.break_after = 300
    with pytest.raises(KeyboardInterrupt):
        enqueued(archive, LOGO, KNIFE)
    archive.break_after = None
    for scan_id in enqueued(archive, LOGO, KNIFE, TEXT):
        assert uris(enqueued.engine, scan_id) == sorted(archive.store.objects)


def test_a_limit_holds_for_each_scan(enqueued: Enqueueing) -> None:
    archive = Archive(100)
    enqueued(archive, LOGO, limit=30)
    one, two = enqueued(archive, LOGO, KNIFE, limit=30)
    assert len(uris(enqueued.engine, one)) == len(uris(enqueued.engine, two)) == 30


def test_a_scan_that_is_cancelled_does_not_stop_the_listing_of_the_others(enqueued: Enqueueing) -> None:
    archive = Archive(300)
    pages = enqueued.pages(archive, [LOGO, KNIFE])
    next(pages)
    one, two = (scan.id for scan in next(pages).scans)
    with transaction(enqueued.engine) as connection:
        scans.cancel(connection, one)
    list(pages)
    assert uris(enqueued.engine, two) == sorted(archive.store.objects)
    assert len(uris(enqueued.engine, one)) < 300
    with pytest.raises(RequestError, match=f"scan {one} of this source was cancelled"):
        enqueued(archive, LOGO, KNIFE)
    assert enqueued(archive, KNIFE) == [two]
