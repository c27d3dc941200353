"""Fixtures: a clean environment for every test, and the real services on request.

A service that is not installed skips its tests on a laptop and fails them where CI is set.
"""

import os
import uuid
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest
from hypothesis import settings

from scanfleet import redaction
from tests.helpers.migrated import postgres_database
from tests.services import (
    Browser,
    Bucket,
    PgBouncer,
    PostgresServer,
    RedisServer,
    S3Gateway,
    S3Server,
    SeaweedServer,
    ServiceMissingError,
)
from tests.services.process import Service

# No deadline: a loaded two-core machine stalls any single example for longer than hypothesis allows.
settings.register_profile("scanfleet", deadline=None, print_blob=True)
settings.load_profile("scanfleet")

# Read once at import by the hub client: no test may download anything.
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the person's own settings nor AWS credentials reach a test, nor what another one hid from texts."""
    monkeypatch.setattr(redaction, "_hidden", set())
    for name in list(os.environ):
        if name.startswith(("SCANFLEET_", "AWS_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


ServiceT = TypeVar("ServiceT", bound=Service | Browser)


def serve(make: Callable[[], ServiceT]) -> Iterator[ServiceT]:
    """A service while the caller needs it."""
    try:
        service = make()
    except ServiceMissingError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    with service:
        yield service


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One Redis for the whole run. Tests that kill or pause take `own_redis`."""
    yield from serve(RedisServer)


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """An empty Redis."""
    redis_server.flush()
    return redis_server.url


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A Redis for this test alone, to be killed and paused; acknowledged writes survive."""
    yield from serve(lambda: RedisServer(appendfsync="always"))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL for the whole run. Tests that kill or pause take `own_postgres`."""
    yield from serve(PostgresServer)


@pytest.fixture
def pg_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A database with the tables of the newest schema and no rows, as a SQLAlchemy address."""
    url = postgres_database(postgres_server)
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
def pg_empty_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A database without a table, as a SQLAlchemy address."""
    url = postgres_server.fresh_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL for this test alone, to be killed and paused."""
    yield from serve(PostgresServer)


@pytest.fixture
def pooler(postgres_server: PostgresServer) -> Iterator[PgBouncer]:
    """pgbouncer in transaction mode before `postgres_server`; its `pooled` turns addresses into its own."""
    yield from serve(lambda: PgBouncer(postgres_server))


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One S3 server for the whole run. Tests that kill or pause take `own_s3`."""
    yield from serve(S3Server)


def bucket_of(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """An empty bucket, with credentials for it in the environment; pass its `endpoint_url` on."""
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    bucket = server.make_bucket(f"test-{uuid.uuid4().hex[:12]}")
    yield bucket
    server.remove_bucket(bucket)


@pytest.fixture
def s3_bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """An empty bucket of moto's."""
    yield from bucket_of(s3_server, monkeypatch)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium without a window, for the tests of one module."""
    yield from serve(Browser)


@pytest.fixture(scope="session")
def seaweed_server() -> Iterator[SeaweedServer]:
    """One SeaweedFS for the whole run: an S3 server of another make, which checks keys and permissions."""
    yield from serve(SeaweedServer)


@pytest.fixture
def seaweed_bucket(seaweed_server: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """An empty bucket of SeaweedFS."""
    yield from bucket_of(seaweed_server, monkeypatch)


@pytest.fixture(params=["moto", "seaweed"])
def any_bucket(request: pytest.FixtureRequest) -> Bucket:
    """An empty bucket on each of the two servers."""
    bucket: Bucket = request.getfixturevalue("s3_bucket" if request.param == "moto" else "seaweed_bucket")
    return bucket


@pytest.fixture
def s3_gateway(s3_bucket: Bucket) -> Iterator[S3Gateway]:
    """A gateway in front of `s3_bucket`."""
    with S3Gateway(target=s3_bucket.endpoint_url) as gateway:
        yield gateway


@pytest.fixture(params=["obstore", "boto3"])
def s3_client(request: pytest.FixtureRequest) -> str:
    """Each value of the setting."""
    return str(request.param)


@pytest.fixture
def own_s3() -> Iterator[S3Server]:
    """An S3 server for this test alone, to be killed and paused; a kill empties it."""
    yield from serve(S3Server)
