"""A scan of images that its adapter was not calibrated on: its decisions, its counts and its alarm."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import sqlalchemy as sa

from scanfleet.checks.check import Check, load_check
from scanfleet.config.settings import load_settings
from scanfleet.db.base import Base
from scanfleet.db.drift.reference import alarms, alarms_of_scan, slices
from scanfleet.db.engine import connect, reading, transaction
from scanfleet.db.results import verdicts
from scanfleet.db.results.answers import answers_by_content
from scanfleet.db.results.results import ResultFilter, iter_results
from scanfleet.db.results.scorers import ScorerRef, scorer_id
from scanfleet.db.results.verdicts import Outcome
from scanfleet.db.scans import batches, new_images, scans
from scanfleet.db.scans.checks import save_check
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.tables import Batch, Image, Scan, Verdict
from scanfleet.db.training.adapters import AdapterInfo, register_adapter
from scanfleet.producer.reports.summary import summarise
from scanfleet.stats.unlike import FAR
from tests.rigs.ledger_rig import QUEUE, flagged, scorer_spec

N, BATCH = 240, 40
CHECK = load_check("overlay")


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    engine = connect(load_settings(database_url=database_url))
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


def scan(engine: sa.Engine, name: str, unlike: Callable[[int], float], check: Check = CHECK) -> str:
    """A scan whose images all flag, the unlike ones by larger margins, by an adapter calibrated on 200 images."""
    images = [NewImage(uri=f"/{name}/{number:03}.jpg", root="/", etag="1") for number in range(N)]
    with transaction(engine) as connection:
        made, _ = scans.open_scan(connection, check=check, model="fake", sources=[f"/{name}"], filters={})
        new_images.add_images(connection, scan_id=made.id, queue=QUEUE, images=images, batch_images=BATCH)
        connection.execute(sa.update(Scan).where(Scan.id == made.id).values(n_listed=N))
        spec = spec_of(connection, check)
        ref = ScorerRef(id=scorer_id(connection, spec), key=spec.key, check=check, adapter_sha256="a" * 64)
    for start in range(0, N, BATCH):
        with transaction(engine) as connection:
            held = batches.claim(connection, model="fake", worker="w", lease_seconds=60)
            assert held is not None
            answers = [(flagged(each), unlike(start + at)) for at, each in enumerate(held.images)]
            given = [replace(answer, unlike=far, margin=2.0 if far >= FAR else 1.5) for answer, far in answers]
            verdicts.write(connection, held, Outcome(scorer_id=ref.id, scorer=ref, verdicts=given, failures={}))
    return made.id


def spec_of(connection: sa.Connection, check: Check):  # type: ignore[no-untyped-def]
    info = {"check_hash": check.hash, "base_model": "fake", "base_revision": "1", "uri": "/x"}
    metrics = {"likeness": {"n": 200, "sha256": "b" * 64}}
    adapter = register_adapter(
        connection, AdapterInfo(check_name=check.name, weights_sha256="a" * 64, metrics=metrics, **info)
    )
    return scorer_spec(save_check(connection, check), adapter_id=adapter, likeness="b" * 64)


def decisions(engine: sa.Engine, scan_id: str) -> set[tuple[str | None, str | None]]:
    return {(each.decision, each.doubted) for each in iter_results(engine, ResultFilter(scan=scan_id))}


def evenly(number: int) -> float:
    """As images of the calibration's kind."""
    return (number * 37 % N) / N


def mostly_far(number: int) -> float:
    return 0.95 if number % 2 else evenly(number)


def test_a_first_scan_of_unlike_images_alarms_and_is_left_to_people(engine: sa.Engine) -> None:
    lost = scan(engine, "lost", mostly_far)
    assert decisions(engine, lost) == {("review", "flag")}
    with reading(engine) as connection:
        done = scans.progress(connection, lost)
        (alarm,) = alarms_of_scan(connection, CHECK.name, lost)
        assert alarms(connection, CHECK.name) == [alarm]
    assert (done.n_flagged, done.n_review, done.n_verdicts) == (0, N, N)
    assert "unlike what the adapter was calibrated on" in alarm
    with reading(engine) as connection:
        sums = sa.select(sa.func.sum(Batch.n_unlike), sa.func.sum(Batch.n_compared)).where(Batch.scan_id == lost)
        far = sum(mostly_far(number) >= FAR for number in range(N))
        assert connection.execute(sums).one() == (far, N)
    assert any("so a person decides about 240 images" in words for words in summarise(engine, lost).warnings)
    with reading(engine) as connection:  # this schema has no trigger, so it is the doubt that set them
        changed = sa.select(Verdict.doubted.is_not(None), sa.func.count()).select_from(Image)
        changed = changed.join(Verdict, Verdict.id == Image.verdict_id).where(Image.changed_at.is_not(None))
        ((doubted, n),) = connection.execute(changed.group_by(Verdict.doubted.is_not(None))).all()
    assert doubted
    assert n >= BATCH


def test_images_of_the_same_kind_are_decided_and_do_not_alarm(engine: sa.Engine) -> None:
    same = scan(engine, "same", evenly)
    assert decisions(engine, same) == {("flag", None)}
    with reading(engine) as connection:
        assert alarms_of_scan(connection, CHECK.name, same) == []
    assert not any("unlike" in words for words in summarise(engine, same).warnings)


def test_a_check_that_only_says_so_keeps_its_decisions(engine: sa.Engine) -> None:
    check = CHECK.model_copy(update={"unlike": "say"})
    lost = scan(engine, "said", mostly_far, check)
    assert decisions(engine, lost) == {("flag", None)}
    with reading(engine) as connection:
        assert "no certificate holds here" in alarms_of_scan(connection, check.name, lost)[0]


def test_a_small_part_of_unlike_images_leaves_the_others_decided(engine: sa.Engine) -> None:
    mixed = scan(engine, "mixed", lambda number: 0.99 if number < BATCH else evenly(number) * 0.9)
    assert decisions(engine, mixed) == {("flag", None)}


def test_a_doubted_answer_is_not_reused(engine: sa.Engine) -> None:
    lost = scan(engine, "lost", mostly_far)
    contents = [each.content_sha256 or "" for each in iter_results(engine, ResultFilter(scan=lost))]
    with transaction(engine) as connection:
        scorer = scorer_id(connection, spec_of(connection, CHECK))
        assert answers_by_content(connection, scorer, contents) == {}


def test_new_material_beside_the_old_alarms_in_the_second_scan(engine: sa.Engine) -> None:
    """A part too small to stand out from the calibration images stands out from the scan before."""
    scan(engine, "first", lambda number: evenly(number) * 0.95)
    later = scan(engine, "second", lambda number: 0.999 if number % 9 == 0 else evenly(number) * 0.95)
    with reading(engine) as connection:
        (alarm,) = alarms_of_scan(connection, CHECK.name, later)
    assert "images of a new kind" in alarm


def test_far_images_are_counted_in_the_range_of_their_margins(engine: sa.Engine) -> None:
    scan(engine, "same", evenly)
    with reading(engine) as connection:
        (found,) = slices(connection, CHECK.name)
    assert found.tally.n_far == N // 10
    assert found.tally.bins == (N - N // 10, N // 10)
    assert found.tally.far_bins == (0, N // 10)
