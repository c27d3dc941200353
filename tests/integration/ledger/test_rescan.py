"""Scoring again after a promotion, on SQLite and PostgreSQL: what is taken, once, and whose answer stands."""

import math
import statistics
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from scanfleet.checks.crop import CropSettings
from scanfleet.checks.crop_result import CropResult
from scanfleet.db.engine import reading, transaction
from scanfleet.db.queries.scan_sums import sums_of_scan
from scanfleet.db.results import answers, rescans, verdicts
from scanfleet.db.results.rescan_changes import iter_flips
from scanfleet.db.results.results import ResultFilter, iter_results
from scanfleet.db.scans import batches, new_images, retries, scans
from scanfleet.db.scans.batches import Claim
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.tables import Batch, Image, Scan, Verdict
from scanfleet.db.training import champions
from scanfleet.errors import LeaseLost, RequestError
from scanfleet.producer.scans.enqueue import Enqueued
from scanfleet.producer.scans.rescan_changes import find_report
from tests.ledger_machine.races import run_together, shuffled
from tests.rigs.rescan_rig import Archive, archive, empty, uri

ROUNDS = 6  # races


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    folder = tmp_path_factory.mktemp("rescan")
    url = f"sqlite:///{folder / 'scanfleet.db'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_server").fresh_database()
    with archive(folder, database_url=url) as made:
        yield made


@pytest.fixture
def held(shared: Archive) -> Archive:
    empty(shared.engine)
    return shared


def spread(name: str) -> float:
    """Margins from -3 to +3, a step of 0.2 an image."""
    return round((int(name[-5:]) % 31) * 0.2 - 3.0, 3)


def shifted(name: str) -> float:
    return spread(name) + 0.5


def counted(held: Archive, scan_id: str) -> tuple[int, int]:
    """(flagged, to review) by the batches; the images must agree."""
    progress = held.progress(scan_id)
    with reading(held.engine) as connection:
        answers = sums_of_scan(connection, scan_id).answers
    found = Counter[str]()
    for (decision, _), n in answers.items():
        found[decision] += n
    assert (progress.n_flagged, progress.n_review) == (found["flag"], found["review"])
    return progress.n_flagged, progress.n_review


def test_only_what_can_change_is_taken_and_its_answer_is_renewed(held: Archive) -> None:
    held.promote("one")
    root = held.scan(31, spread)
    before = held.images(root)
    second = held.promote("two")
    rescan = held.rescan(root, band=0.5, audit=0)
    taken = {name for name, row in before.items() if row.decision == "review" or 0.5 <= abs(row.margin) <= 1.5}
    assert held.drawn(rescan) == dict.fromkeys(taken, "band")
    assert 0 < len(taken) < 31
    copied = ("uri", "root", "etag", "size", "identity", "meta")
    for name, image in held.images(rescan).items():
        assert [getattr(image, key) for key in copied] == [getattr(before[name], key) for key in copied]
        assert image.rescan_of == before[name].id
    assert held.images(root) == before  # nothing changes before there is an answer

    held.work(shifted)
    assert held.margins(root) == {name: shifted(name) if name in taken else spread(name) for name in before}
    assert held.info(rescan).state == "done"
    assert held.info(rescan).rescan_of == root
    assert held.progress(rescan).n_verdicts == len(taken)
    flagged, review = counted(held, root)
    assert flagged + review < 31
    with reading(held.engine) as connection:
        n_verdicts = connection.execute(sa.select(sa.func.count()).select_from(Verdict)).scalar_one()
    assert n_verdicts == 31 + len(taken)  # the old ones are kept
    exported = {each.uri: each for each in iter_results(held.engine, ResultFilter(scan=root))}
    assert {name for name, each in exported.items() if each.scorer and each.scorer.adapter == "two"} == taken
    assert held.plan(root, band=0.5, audit=0, fresh=True).filters == {
        "adapter": second,
        "band": 0.5,
        "band_from": "as asked for",
        "changeable": 0,
        "audit": 0,
        "audit_of": 31 - len(taken),
        "current": len(taken),
        "seed": 0,
    }


def test_a_rescan_reads_the_version_that_was_read_and_knows_the_folders(held: Archive) -> None:
    held.promote("one")
    root = held.scan(4, spread)
    with transaction(held.engine) as connection:
        of_root = Image.scan_id == root
        connection.execute(sa.update(Image).where(of_root).values(etag=None, seen_etag=sa.cast(Image.id, sa.Text)))
        connection.execute(sa.update(Scan).where(Scan.id == root).values(roots={"/archive": "2a"}))
    held.promote("two")
    rescan = held.rescan(root, everything=True)
    before = held.images(root)
    assert {name: image.etag for name, image in held.images(rescan).items()} == {
        name: str(image.id) for name, image in before.items()
    }
    with reading(held.engine) as connection:
        assert connection.execute(sa.select(Scan.roots).where(Scan.id == rescan)).scalar_one() == {"/archive": "2a"}


def test_where_the_second_look_is_at_stake_the_answer_can_change(
    held: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = held.check.model_copy(update={"crop": CropSettings(when="uncertain", band=0.5)})
    monkeypatch.setattr(held, "check", check)

    def first(name: str) -> float:
        return int(name[-5:]) / 5 - 3.0

    def look(name: str) -> CropResult | None:
        asked = abs(first(name)) <= 1.5
        return CropResult(why="uncertain", first=first(name), second=9.0, look="pair") if asked else None

    held.promote("one")
    root = held.scan(31, lambda name: 5.0 if look(name) else first(name), looks=look)
    held.promote("two")
    rescan = held.rescan(root, band=0.25, audit=100)
    drawn = held.drawn(rescan)
    assert len(drawn) == 31  # images without a crop pass count among the others
    taken = {name for name, why in drawn.items() if why == "band"}
    assert taken == {uri(number) for number in range(31) if abs(first(uri(number))) <= 1.75}


def test_results_of_all_scans_hold_every_image_once_with_the_answer_that_stands(held: Archive) -> None:
    held.promote("one")
    root = held.scan(31, spread)
    held.promote("two")
    rescan = held.rescan(root, band=0.5, audit=0)
    held.work(shifted)
    every = list(iter_results(held.engine, ResultFilter()))
    assert {each.uri: each.margin for each in every} == held.margins(root)
    assert len(every) == 31
    own = list(iter_results(held.engine, ResultFilter(scan=rescan)))
    assert 0 < len(own) == len(held.drawn(rescan))


def test_everything_is_taken_but_failures_and_what_the_champion_answered(held: Archive) -> None:
    held.promote("one")
    root = held.scan(12, spread, failing=[uri(3)])
    held.promote("two")
    held.work(shifted)
    with transaction(held.engine) as connection:
        retries.retry_failures(connection, root)
    held.work(shifted, failing=[uri(3)])
    held.rescan(root, band=0.0, audit=0)
    held.work(shifted)
    current = {name for name, row in held.images(root).items() if row.margin == shifted(name)}
    rescan = held.rescan(root, everything=True)
    assert held.drawn(rescan) == {name: "all" for name in held.images(root) if name not in current | {uri(3)}}
    assert current


def test_the_same_command_adds_nothing_and_another_promotion_makes_another_rescan(held: Archive) -> None:
    first = held.promote("one")
    root = held.scan(12, spread)
    held.promote("two")
    rescan = held.rescan(root, audit=0)
    assert held.rescan(root, audit=0) == rescan
    held.work(shifted)
    assert held.rescan(root, audit=0) == rescan
    assert held.rescan(rescan, audit=0) == rescan  # a rescan of a rescan renews the same scan
    with transaction(held.engine) as connection:
        champions.roll_back(connection, held.check.name, "fake", why="worse", who=None)
    back = held.rescan(root, audit=0)
    assert back != rescan
    assert held.info(back).rescan_of == root
    assert held.info(back).filters["adapter"] == first
    held.work(spread)
    assert held.margins(root) == {uri(number): spread(uri(number)) for number in range(12)}


@pytest.mark.parametrize("after", [0, 1, 4])
def test_killed_between_two_pages_it_goes_on_and_takes_nothing_twice(held: Archive, after: int) -> None:
    """Workers score meanwhile, so that the answers that the selection reads change under it."""
    held.promote("one")
    root = held.scan(93, spread)
    held.promote("two")
    request = {"band": 0.3, "audit": 20.0, "seed": 5}
    undisturbed = held.plan(root, **request)
    pages = held.pages(root, **request)
    for _ in range(after + 1):
        next(pages)
    del pages
    held.work(shifted)
    rescan = held.rescan(root, **request)
    drawn = Counter(held.drawn(rescan).values())
    assert drawn == {"band": undisturbed.filters["changeable"], "audit": 20}
    held.work(shifted)
    assert held.info(rescan).state == "done"
    assert held.info(rescan).n_listed == drawn.total()
    counted(held, root)


def test_two_at_the_same_rescan_share_it(held: Archive) -> None:
    held.promote("one")
    root = held.scan(93, spread)
    held.promote("two")
    first, second = (held.pages(root, band=0.3, audit=20.0) for _ in range(2))
    seen: tuple[list[Enqueued], list[Enqueued]] = ([], [])
    for pages, those in zip((first, second) * 12, seen * 12, strict=True):
        those.extend(islice(pages, 1))
        held.work(shifted)  # what the other one is about to read changes meanwhile
    with reading(held.engine) as connection:
        (rescan,) = scans.list_rescans(connection, root)
    drawn = Counter(held.drawn(rescan.id).values())
    assert drawn == {"band": rescan.filters["changeable"], "audit": 20}
    assert rescan.n_listed == drawn.total() == sum(those[-1].n_listed for those in seen)


def test_a_late_writer_renews_nothing(held: Archive) -> None:
    held.promote("one")
    root = held.scan(4, spread)
    held.promote("two")
    held.rescan(root, everything=True)
    late = held.must_claim()
    known = held.outcome(late, shifted)
    with transaction(held.engine) as connection:
        connection.execute(sa.update(Batch).where(Batch.id == late.batch_id).values(state="ready"))
    held.work(lambda name: 9.0)
    with pytest.raises(LeaseLost), transaction(held.engine) as connection:
        verdicts.write(connection, late, known)
    assert set(held.margins(root).values()) == {9.0}
    counted(held, root)


def test_of_two_rescans_the_verdict_written_last_is_the_answer(held: Archive) -> None:
    """Whichever was begun first, and although the slow one was scored by the champion before."""
    held.promote("one")
    root = held.scan(4, spread)
    held.promote("two")
    older = held.rescan(root, everything=True)
    slow = held.must_claim()
    known = held.outcome(slow, lambda name: 2.0)
    held.promote("three")
    newer = held.rescan(root, everything=True)
    held.work(lambda name: -0.5)
    assert set(held.margins(root).values()) == {-0.5}
    assert counted(held, root) == (0, 4)
    with transaction(held.engine) as connection:
        verdicts.write(connection, slow, known)
    assert set(held.margins(root).values()) == {2.0}
    assert counted(held, root) == (4, 0)
    stood = {flip.old.margin for flip in iter_flips(held.engine, older)}
    assert stood == {-0.5}  # what the late one replaced, and not what stood when it was begun
    assert {flip.new.margin for flip in iter_flips(held.engine, newer)} == {-0.5}


def test_rescans_that_write_at_the_same_moment_agree_on_what_stands(pg_url: str, tmp_path: Path) -> None:
    """Two at a time over the same answers, each in its own order: no deadlock, and no count is lost.

    Of PostgreSQL: SQLite has one writer at a time.
    """
    with archive(tmp_path, database_url=pg_url) as held:
        held.promote("one")
        root = held.scan(24, spread)  # in two batches
        racing = shuffled(sa.create_engine(pg_url, pool_size=2))
        for number in range(ROUNDS):
            held.promote(f"champion {number}")
            race_two_rescans(held, root, racing)
        racing.dispose()


def race_two_rescans(held: Archive, root: str, racing: sa.Engine) -> None:
    rows = list(held.images(root).values())
    sides = {2.0: rows, -0.5: rows[::-1]}
    claims = [(write_rescan(held, root, order), margin) for margin, order in sides.items()]
    outcomes = [(claim, held.outcome(claim, lambda _, margin=margin: margin)) for claim, margin in claims]
    race = run_together(racing, [partial(verdicts.write, held=claim, outcome=known) for claim, known in outcomes])
    assert race.errors == []
    stands = set(held.margins(root).values())
    assert stands in ({2.0}, {-0.5})
    assert counted(held, root) == ((24, 0) if stands == {2.0} else (0, 24))
    replaced = [{row.replaced for row in held.images(claim.scan_id).values()} for claim, _ in claims]
    assert set.isdisjoint(*replaced)  # each verdict was replaced once, by the one that came next


def write_rescan(held: Archive, root: str, order: list[Any]) -> Claim:
    """A rescan of one batch, its images in this order, claimed."""
    page = [NewImage(uri=row.uri, etag=row.etag, rescan_of=row.id, drawn="all") for row in order]
    with transaction(held.engine) as connection:
        found = scans.get_scan(connection, root)
        aim = rescans.Aim(adapter=None, change=None)
        identity = rescans.identity_of(found, aim, {}, fresh=True)
        added = rescans.add_rescan(connection, found, identity=identity, filters={}, cursor={})
        new_images.add_images(connection, scan_id=added.id, queue=found.queue, images=page, batch_images=len(page))
    return held.must_claim()


def test_an_image_that_fails_keeps_its_answer_until_a_retry_brings_one(held: Archive) -> None:
    held.promote("one")
    root = held.scan(4, spread)
    held.promote("two")
    rescan = held.rescan(root, everything=True)
    held.work(shifted, failing=[uri(1)])
    assert held.images(root)[uri(1)].state == "verdict"
    assert held.margins(root)[uri(1)] == spread(uri(1))
    with transaction(held.engine) as connection:
        assert retries.retry_failures(connection, rescan) == 1
    held.work(shifted)
    assert held.margins(root)[uri(1)] == shifted(uri(1))


def test_a_verdict_taken_over_from_another_scan_counts_as_well(held: Archive) -> None:
    held.promote("one")
    root = held.scan(4, spread)
    held.promote("two")
    other = held.scan(4, shifted)
    scorer = held.images(other)[uri(0)].scorer_id
    rescan = held.rescan(root, everything=True)
    claim = held.must_claim()
    with reading(held.engine) as connection:
        known = answers.answers_by_identity(connection, scorer, [image.identity for image in claim.images])
    assert len(known) == 4
    held.write(claim, shifted, reused_from=next(iter(known.values())).reused_from)
    assert held.margins(root) == {uri(number): shifted(uri(number)) for number in range(4)}
    assert held.progress(rescan).n_reused == 4
    assert held.progress(root).n_reused == 0


def test_paused_resumed_and_cancelled_like_any_scan(held: Archive) -> None:
    held.promote("one")
    root = held.scan(12, spread)
    held.promote("two")
    rescan = held.rescan(root, everything=True)
    held.write(held.must_claim(), shifted)
    with transaction(held.engine) as connection:
        scans.pause(connection, rescan)
    assert held.claim() is None
    with transaction(held.engine) as connection:
        scans.resume(connection, rescan)
    held.write(held.must_claim(), shifted)
    with transaction(held.engine) as connection:
        assert scans.cancel(connection, rescan) == 4
    renewed = [name for name, margin in held.margins(root).items() if margin == shifted(name)]
    assert len(renewed) == 8
    assert held.info(root).state == "done"
    counted(held, root)
    with pytest.raises(RequestError, match="--fresh"):
        held.rescan(root, everything=True)
    assert len(held.drawn(held.rescan(root, everything=True, fresh=True))) == 4


def test_a_scan_that_runs_is_finished_or_paused_first(held: Archive) -> None:
    held.promote("one")
    root = held.scan(8, spread, failing=[uri(7)])
    with transaction(held.engine) as connection:
        retries.retry_failures(connection, root)
    held.promote("two")
    with pytest.raises(RequestError, match=f"scan {root} is still running: .*pause {root}"):
        held.plan(root)
    with transaction(held.engine) as connection:
        scans.pause(connection, root)
    rescan = held.rescan(root, everything=True)
    assert len(held.drawn(rescan)) == 7
    held.work(shifted)
    with transaction(held.engine) as connection:
        scans.resume(connection, root)
    held.work(shifted)
    assert held.margins(root) == {uri(number): shifted(uri(number)) for number in range(8)}
    counted(held, root)


def test_the_audit_is_a_fair_sample_of_what_is_left_out(held: Archive) -> None:
    held.promote("one")
    root = held.scan(400, lambda name: 2.5 if int(name[-5:]) % 4 else -2.5)
    held.promote("two")
    chosen = [set(held.drawn(held.rescan(root, band=0.5, audit=40.0, seed=seed))) for seed in range(12)]
    assert {len(each) for each in chosen} == {40}
    assert len(set.union(*chosen)) > 250  # another seed, another sample
    # A quarter are odd ones: of 12 x 40 about 120; outside 80 to 160 in fewer than 1 of 10,000 such tests.
    n_odd = sum(int(name[-5:]) % 4 == 0 for each in chosen for name in each)
    assert 80 < n_odd < 160
    places = [int(name[-5:]) for each in chosen for name in each]
    assert 160 < statistics.mean(places) < 240  # neither the first nor the last of the listing
    again = held.plan(root, band=0.5, audit=40.0, seed=3)
    assert again.known is not None
    assert set(held.drawn(again.known.id)) == chosen[3]


def test_the_report_compares_with_what_stood_before_and_bounds_what_was_missed(held: Archive) -> None:
    held.promote("one")
    root = held.scan(100, lambda name: 0.0 if int(name[-5:]) < 20 else 5.0)
    held.promote("two")
    rescan = held.rescan(root, band=0.5, audit=40.0)
    audited = sorted(name for name, why in held.drawn(rescan).items() if why == "audit")
    flipping = set(audited[:3])
    held.work(lambda name: -5.0 if name in flipping else 0.0 if int(name[-5:]) < 10 else 5.0)
    report = find_report(held.engine, root)
    assert report.rescan.id == rescan
    assert report.table("decision") == {
        ("flag", "clear"): 3,
        ("flag", "flag"): 37,
        ("review", "flag"): 10,
        ("review", "review"): 10,
    }
    assert report.n_flipped("decision") == 13
    missed = report.missed("decision")
    assert (missed.flipped.k, missed.flipped.n, missed.n_others) == (3, 40, 40)
    assert missed.expected == 3
    assert missed.at_most == math.ceil(40 * 0.1986)  # Wilson's upper end of 3 of 40
    flips = list(iter_flips(held.engine, rescan))
    assert {flip.uri for flip in flips} == flipping | {uri(number) for number in range(10, 20)}
    for n in (0, 1, 2, 12, 13, 14):
        assert list(iter_flips(held.engine, rescan, limit=n)) == flips[:n]
    assert {(flip.old.margin, flip.new.margin, flip.drawn) for flip in flips if flip.uri in flipping} == {
        (5.0, -5.0, "audit")
    }
    assert [(each.side, each.n_images) for each in report.scorers] == [("old", 60), ("new", 60)]
    assert len({each.adapter_id for each in report.scorers}) == 2
    assert report.n_off_target == 0
    with reading(held.engine) as connection:
        stood = connection.execute(sa.select(Image.replaced).where(Image.scan_id == root)).scalars().all()
    assert set(stood) == {None}


def test_the_width_is_what_the_gate_measured(held: Archive) -> None:
    held.promote("one")
    root = held.scan(31, spread)
    second = held.promote("two", gate={"figures": {"margin_move_p90": 0.25, "largest_margin_move": 9.0}})
    measured = held.plan(root)
    assert (measured.filters["band"], measured.aim.adapter_id) == (0.25, second)
    assert "golden images" in measured.filters["band_from"]
    with transaction(held.engine) as connection:
        champions.roll_back(connection, held.check.name, "fake", why="worse", who=None)
    held.work(shifted)
    assert held.plan(root).filters["band"] == 0.25  # the same two, the other way round
    held.promote("three")
    assert held.plan(root).filters["band"] == 1.0
    assert "default" in held.plan(root).filters["band_from"]


def test_batches_keep_to_their_size(held: Archive) -> None:
    held.promote("one")
    root = held.scan(30, spread)
    held.promote("two")
    rescan = held.rescan(root, everything=True)
    with reading(held.engine) as connection:
        sizes = connection.execute(sa.select(Batch.n_images).where(Batch.scan_id == rescan)).scalars().all()
        notified = batches.has_ready(connection, "fake")
    assert max(sizes) == held.settings.batch_images
    assert notified
