"""A database that lost its last seconds under live workers: ids and tokens repeat, and name other rows now."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from scanfleet.checks.check import Check, load_check
from scanfleet.config.settings import load_settings
from scanfleet.db.base import Base
from scanfleet.db.engine import connect, reading, transaction
from scanfleet.db.results import verdicts
from scanfleet.db.results.scorers import scorer_id
from scanfleet.db.scans import batches, crash_isolation, new_images, scans
from scanfleet.db.scans.batches import Claim
from scanfleet.db.scans.checks import save_check
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.tables import Batch, CheckRow, Image, Scan, ScorerRow, Training, Verdict
from scanfleet.db.training import trainings
from scanfleet.errors import LeaseLost
from tests.helpers.migrated import upgrade
from tests.ledger_machine.workers import Answer, outcome
from tests.rigs.ledger_rig import QUEUE, scorer_spec
from tests.rigs.worker_rig import Rig, add_scan, png, rig

ONE = load_check("overlay")
OTHER = ONE.model_copy(update={"name": "other", "prompt": "Is there anything else in this picture?"})


def lose(engine: sa.Engine, *, but: Sequence[type[Base]] = ()) -> None:
    """Empty the tables as a restored backup would: ids begin again behind the rows that are left."""
    kept = {table.__tablename__ for table in but}
    with transaction(engine) as connection:
        for table in reversed(Base.metadata.sorted_tables):
            if table.name not in kept:
                connection.execute(sa.delete(table))
                if connection.dialect.name == "postgresql" and table.name in (*_counted(), "scorers"):
                    connection.execute(sa.text(f"ALTER SEQUENCE {table.name}_id_seq RESTART"))


def _counted() -> tuple[str, ...]:
    return ("checks", "batches", "images", "verdicts", "trainings")


# a live worker


@pytest.fixture
def worker(tmp_path: Path, database_url: str) -> Iterator[Rig]:
    with rig(tmp_path, database_url=database_url, fetch_threads=2) as here:
        yield here


def archive(here: Rig) -> list[NewImage]:
    return here.put({f"mem://{number}": png(number) for number in range(3)})


def finish(here: Rig, scan: str) -> None:
    for _ in range(5):
        here.drain()
        here.forget_backoff()
    assert here.progress(scan).n_verdicts == here.progress(scan).n_images > 0


def answered(here: Rig, scan: str) -> tuple[set[str], dict[str, float]]:
    """The checks whose scorers the verdicts name, and the margins."""
    query = sa.select(CheckRow.name).join(ScorerRow, ScorerRow.check_id == CheckRow.id)
    query = query.join(Verdict, Verdict.scorer_id == ScorerRow.id).where(Verdict.scan_id == scan)
    with reading(here.engine) as connection:
        return set(connection.execute(query).scalars()), here.margins(scan)


def expected(here: Rig, folder: Path, check: Check) -> dict[str, float]:
    """The margins of a worker that has just started."""
    with rig(folder) as fresh:
        scan = fresh.scan_listed(archive(fresh), check=check)
        finish(fresh, scan)
        return fresh.margins(scan)


def test_a_worker_alone_goes_on_when_the_row_of_its_scorer_is_gone(worker: Rig) -> None:
    images = archive(worker)
    finish(worker, worker.scan_listed(images))
    lose(worker.engine)
    again = worker.scan_listed(images)
    finish(worker, again)
    assert answered(worker, again)[0] == {"overlay"}


def test_a_check_with_the_id_of_a_lost_one_is_asked_its_own_question(worker: Rig, tmp_path: Path) -> None:
    images = archive(worker)
    finish(worker, worker.scan_listed(images))
    lose(worker.engine)
    other = worker.scan_listed(images, check=OTHER)
    finish(worker, other)
    assert answered(worker, other) == ({"other"}, expected(worker, tmp_path / "fresh", OTHER))


def test_no_verdict_names_or_takes_over_from_a_scorer_with_the_id_of_a_lost_one(worker: Rig, tmp_path: Path) -> None:
    images = archive(worker)
    finish(worker, worker.scan_listed(images))
    finish(worker, worker.scan_listed(images, check=OTHER))
    lose(worker.engine, but=[CheckRow])
    _score_elsewhere(worker, images, OTHER)  # its scorer has the id that the one of `overlay` had
    again = worker.scan_listed(images)
    finish(worker, again)
    assert answered(worker, again) == ({"overlay"}, expected(worker, tmp_path / "fresh", ONE))


def _score_elsewhere(here: Rig, images: list[NewImage], check: Check) -> None:
    """Another worker, which has never met these checks, scores them."""
    scan = add_scan(here.engine, images, check=check)
    with rig(here.settings.data_dir / "elsewhere", database_url=here.settings.database_url) as other:
        other.put({f"mem://{number}": png(number) for number in range(3)})
        other.drain()
        assert other.progress(scan).n_verdicts == len(images)


# late writers


@pytest.fixture
def engine(tmp_path: Path, database_url: str) -> Iterator[sa.Engine]:
    engine = connect(load_settings(data_dir=tmp_path, database_url=database_url))
    upgrade(engine)
    yield engine
    engine.dispose()


def listed(engine: sa.Engine, scan_id: str, folder: str) -> None:
    page = [NewImage(uri=f"/{folder}/{number}") for number in range(2)]
    with transaction(engine) as connection:
        new_images.add_images(connection, scan_id=scan_id, queue=QUEUE, images=page, batch_images=2)


def opened(engine: sa.Engine) -> tuple[str, int]:
    with transaction(engine) as connection:
        scan, _ = scans.open_scan(connection, check=ONE, model="fake", sources=["/a"], filters={}, fresh=True)
        return scan.id, scorer_id(connection, scorer_spec(scan.check_id))


def claim(engine: sa.Engine, worker: str) -> Claim:
    with transaction(engine) as connection:
        held = batches.claim(connection, model="fake", worker=worker, lease_seconds=600)
    assert held is not None
    return held


def writes(scorer: int, late: Claim) -> list[Any]:
    known = outcome(scorer, late.images, [Answer.FLAG], store=False)
    broken = outcome(scorer, late.images, [Answer.BROKEN], store=False)
    first = late.images[0]
    return [
        lambda connection: verdicts.write(connection, late, known),
        lambda connection: verdicts.write(connection, late, broken),
        lambda connection: verdicts.hand_back(connection, late, known),
        lambda connection: verdicts.write_part(connection, late, known, in_hand=first.id),
        lambda connection: crash_isolation.record_content(connection, late, first.id, "sha"),
        lambda connection: batches.extend(connection, late, lease_seconds=60),
    ]


def untouched(engine: sa.Engine) -> bool:
    with reading(engine) as connection:
        pending = sa.select(sa.func.count()).where(Image.state == "pending", Image.content_sha256.is_(None))
        leased = sa.select(sa.func.count()).where(Batch.state == "leased")
        return (connection.execute(pending).scalar_one(), connection.execute(leased).scalar_one()) == (2, 1)


@pytest.mark.parametrize("owner", ["another", "late"])
@pytest.mark.parametrize("same_scan", [True, False])
def test_a_late_writer_changes_nothing_of_other_images_with_the_ids_of_lost_ones(
    engine: sa.Engine, owner: str, same_scan: bool
) -> None:
    scan_id, scorer = opened(engine)
    listed(engine, scan_id, "B")
    late = claim(engine, "late")
    lose(engine, but=[CheckRow, Scan, ScorerRow])
    if not same_scan:
        scan_id, _ = opened(engine)
    listed(engine, scan_id, "C")
    new = claim(engine, owner)
    assert (new.batch_id, new.token, [image.id for image in new.images]) == (
        late.batch_id, late.token, [image.id for image in late.images]
    )  # fmt: skip
    for write in writes(scorer, late):
        with pytest.raises(LeaseLost), transaction(engine) as connection:
            write(connection)
        assert untouched(engine)
    with transaction(engine) as connection:
        verdicts.write(connection, new, outcome(scorer, new.images, [Answer.FLAG], store=False))


def test_a_late_trainer_changes_nothing_of_another_training_with_the_id_of_a_lost_one(engine: sa.Engine) -> None:
    def held(seed: int) -> trainings.TrainingInfo:
        with transaction(engine) as connection:
            check = save_check(connection, ONE)
            trainings.request(
                connection, check_id=check, check_name=ONE.name, base_model="fake", recipe="head",
                reason="test", newest_label=0, seed=seed,
            )  # fmt: skip
            found = trainings.claim(connection, worker="w", base_model="fake", lease_seconds=600)
        assert found is not None
        return found

    late = held(1)
    lose(engine, but=[CheckRow])
    new = held(2)
    assert (new.id, new.lease_token) == (late.id, late.lease_token)
    with pytest.raises(LeaseLost), transaction(engine) as connection:
        trainings.settle(connection, late, verdict="promote")
    with reading(engine) as connection:
        assert connection.execute(sa.select(Training.state)).scalar_one() == "leased"
