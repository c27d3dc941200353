"""The four roles on a real PostgreSQL: each does its work, and nothing else."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from scanfleet.checks.check import load_check
from scanfleet.config.settings import load_settings
from scanfleet.db.deletion.selection import Selection
from scanfleet.db.engine import connect, reading, transaction
from scanfleet.db.results.scorers import Shift, record_shift
from scanfleet.db.roles import KEEPER, PRIVATE, PRODUCER, WORKER
from scanfleet.db.scans import retries, scans, workers
from scanfleet.db.scans.checks import save_check
from scanfleet.db.tables import Base, Failure, Image, Scan, Verdict
from scanfleet.db.training import refusals, trainings
from scanfleet.db.training.adapters import AdapterInfo, register_adapter
from scanfleet.db.training.champions import promote
from scanfleet.db.views import VIEWS
from scanfleet.errors import AccessDenied
from scanfleet.models.types import ModelIdentity
from scanfleet.producer.cli.main import cli
from scanfleet.producer.deletion.forgetting import forget
from scanfleet.producer.deletion.scans import delete_scan, plan_deletion
from scanfleet.queue.app import make_app
from scanfleet.reconcile import reconcile_once
from scanfleet.worker.scoring.adapters import register_shipped
from tests.helpers.migrated import upgraded
from tests.rigs.worker_rig import Rig, add_scan, png, rig
from tests.services import PostgresServer

KNOWN = {
    "checks",
    "scans",
    "batches",
    "images",
    "experiment_cells",
    "failures",
    "scorers",
    "verdicts",
    "labels",
    "adapters",
}
KNOWN |= {
    "champions",
    "workers",
    "labelled_images",
    "trainings",
    "promotions",
    "refusals",
    "calibrations",
    "forgotten",
    "webhooks",
    "review_leases",
    "api_tokens",
    "web_sessions",
    "access_audit",
}
SQL = CliRunner().invoke(cli, ["db", "roles"]).output


@dataclass(frozen=True, kw_only=True)
class Urls:
    owner: str
    producer: str
    worker: str
    reader: str
    keeper: str


@pytest.fixture
def urls(postgres_server: PostgresServer, pg_url: str, tmp_path: Path) -> Iterator[Urls]:
    upgraded(load_settings(data_dir=tmp_path, database_url=pg_url))
    name = pg_url.rpartition("/")[2]
    users = {role: f"{role}_{name}" for role in ("producer", "worker", "reader", "keeper")}
    with postgres_server.connect(name) as connection:
        for _ in range(2):  # again changes nothing
            connection.execute(SQL)  # type: ignore[call-overload]
        for role, user in users.items():
            connection.execute(f"CREATE ROLE {user} LOGIN PASSWORD 'pw' IN ROLE scanfleet_{role}")  # type: ignore[call-overload]
    host = pg_url.partition("@")[2]
    yield Urls(owner=pg_url, **{role: f"postgresql+psycopg://{user}:pw@{host}" for role, user in users.items()})
    with postgres_server.connect(name) as connection:
        for user in users.values():
            connection.execute(f"DROP ROLE {user}")  # type: ignore[call-overload]


@contextmanager
def engine(url: str, tmp_path: Path) -> Iterator[sa.Engine]:
    made = connect(load_settings(data_dir=tmp_path, database_url=url))
    try:
        yield made
    finally:
        made.dispose()


def refused(who: sa.Engine, statement: sa.Executable) -> None:
    with pytest.raises(AccessDenied, match="scanfleet db roles"), transaction(who) as connection:
        connection.execute(statement)


def test_every_table_has_been_thought_of() -> None:
    assert set(Base.metadata.tables) == KNOWN, "enter the new table in scanfleet/db/roles.py, and here"
    assert set(PRODUCER) | set(WORKER) | set(KEEPER) == KNOWN


def test_a_worker_scores_a_batch_with_its_role_alone(urls: Urls, tmp_path: Path) -> None:
    with engine(urls.producer, tmp_path) as producer, rig(tmp_path, database_url=urls.worker) as worker:
        contents = {f"mem://a/{number}.png": png(number) for number in range(3)} | {"mem://a/bad.png": b"no image"}
        scan = add_scan(producer, worker.put(contents))
        with transaction(worker.engine) as connection:
            workers.start_worker(connection, worker="w", host="h", pid=1, queue="score.fake", device="none")
            workers.beat(connection, worker="w", n_images=1, seconds={}, progressed=True)
        worker.drain()
        progress = worker.progress(scan)
        assert (progress.n_verdicts, progress.n_failures, progress.n_pending) == (3, 1, 0)
        identity = ModelIdentity(base_model="pocket", revision="x", precision="fp32", adapter_sha256=None)
        register_shipped(worker.engine, identity)
        with transaction(worker.engine) as connection:
            record_shift(connection, 1, Shift(max=0.1, mean=0.01, n=16, against="fp32"))
        with make_app(worker.settings) as app:
            reconcile_once(worker.engine, app, worker.settings)
        _a_worker_trains(worker)
        _a_worker_can_do_no_more(worker)


def _a_worker_trains(worker: Rig) -> None:
    """From a check that nobody has scanned with to an adapter in use and one that is refused."""
    with transaction(worker.engine) as connection:
        check = load_check("baggage")
        adapter = register_adapter(
            connection,
            AdapterInfo(
                check_name=check.name, check_hash=check.hash, base_model="pocket", base_revision="x", uri="mem://a",
                weights_sha256="0" * 64, gate_verdict="promote",
            ),
        )  # fmt: skip
        trainings.request(
            connection, check_id=save_check(connection, check), check_name=check.name, base_model="pocket",
            recipe="auto", reason="a test", newest_label=1,
        )  # fmt: skip
        held = trainings.claim(connection, worker="w", base_model="pocket", lease_seconds=60)
        assert held is not None
        promote(connection, adapter, kind="gate", why="better")
        refusals.record_refusal(connection, adapter, worker="w", why="its canary speaks against it")


def _a_worker_can_do_no_more(worker: Rig) -> None:
    for statement in (
        sa.insert(Scan).values(id="x", identity="x", check_id=1, model="m", queue="q", sources=[], filters={}),
        sa.delete(Verdict),
        sa.delete(Failure),
        sa.delete(Image),
        sa.text("UPDATE scorers SET precision = 'nf4'"),
        sa.text("DROP TABLE verdicts"),
        sa.text("CREATE TABLE mine (n int)"),
        sa.text("TRUNCATE images"),
        sa.text("UPDATE alembic_version SET version_num = 'x'"),
    ):
        refused(worker.engine, statement)


def test_a_producer_enqueues_manages_and_reconciles_but_gives_no_verdict(urls: Urls, tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path, database_url=urls.producer)
    with engine(urls.producer, tmp_path) as producer, rig(tmp_path, database_url=urls.worker) as worker:
        scan = add_scan(producer, worker.put({"mem://a/bad.png": b"no image"}), check=load_check("flowers"))
        worker.drain()
        with transaction(producer) as connection:
            assert retries.retry_failures(connection, scan) == 1
            scans.pause(connection, scan)
            scans.resume(connection, scan)
        with make_app(settings, ("score.fake",)) as app:
            reconcile_once(producer, app, settings)
        with transaction(producer) as connection:
            assert scans.cancel(connection, scan) == 1
        refused(producer, sa.delete(Scan))
        refused(producer, sa.text("UPDATE verdicts SET margin = 9"))
        refused(producer, sa.text("UPDATE labels SET label = 'x'"))


def test_a_keeper_deletes_and_adds_nothing(urls: Urls, tmp_path: Path) -> None:
    with (
        engine(urls.producer, tmp_path) as producer,
        engine(urls.keeper, tmp_path) as keeper,
        rig(tmp_path, database_url=urls.worker) as worker,
    ):
        contents = {f"mem://a/{number}.png": png(number) for number in range(3)} | {"mem://a/bad.png": b"no image"}
        images = worker.put(contents)
        scan, kept = add_scan(producer, images), add_scan(producer, images, check=load_check("flowers"))
        chosen = Selection(uris=("mem://a/1.png",))
        assert sum(page.n_images for page in forget(keeper, chosen, with_labels=True)) == 2  # one is pending in each
        worker.drain()
        (doomed,) = plan_deletion(keeper, [scan], older_than=None)
        assert sum(page.n_images for page in delete_scan(keeper, doomed.scan.id)) == 3
        assert worker.progress(kept).n_images == 3
        for statement in (
            sa.insert(Scan).values(id="x", identity="x", check_id=1, model="m", queue="q", sources=[], filters={}),
            sa.update(Verdict).values(margin=9.0),
            sa.update(Image).values(uri="x"),
            sa.text("UPDATE labels SET label = 'x'"),
            sa.text("DELETE FROM adapters"),
        ):
            refused(keeper, statement)
        for who in (producer, worker.engine):
            refused(who, sa.delete(Image))


def test_a_reader_only_reads(urls: Urls, tmp_path: Path) -> None:
    with engine(urls.reader, tmp_path) as reader:
        with reading(reader) as connection:
            for table in Base.metadata.sorted_tables:
                seen = [column for column in table.c if column.name not in PRIVATE.get(table.name, ())]
                connection.execute(sa.select(*seen).limit(1))
            for view in VIEWS:
                connection.execute(sa.text(f"SELECT * FROM {view.name} LIMIT 1"))
        for table in Base.metadata.sorted_tables:
            refused(reader, sa.delete(table))
        refused(reader, sa.text("SELECT url FROM webhooks"))
        refused(reader, sa.text("UPDATE scans SET state = 'done'"))


def test_names_are_quoted_as_names() -> None:
    from scanfleet.db.roles import RoleNames, role_statements

    odd = 'x"; DROP TABLE scans; --'
    lines = role_statements(RoleNames(reader=odd))
    assert all('"x""; DROP TABLE scans; --"' in line for line in lines if "DROP" in line)
    assert sum("DROP" in line for line in lines) == 4
