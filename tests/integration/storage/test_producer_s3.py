"""Buckets on a real S3 server, and the answers a server gives to people without rights."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import sqlalchemy as sa
from botocore.stub import Stubber

from scanfleet.checks.check import load_check
from scanfleet.config.settings import Settings, load_settings
from scanfleet.db import schema
from scanfleet.db.engine import reading
from scanfleet.db.tables import Image, Scan
from scanfleet.errors import AccessDenied, EmptySource, SourceNotFound, StoreUnavailable
from scanfleet.messages import score_queue
from scanfleet.producer.scans.enqueue import Enqueued, enqueue
from scanfleet.producer.sources.filters import Filters
from scanfleet.producer.sources.listed import BucketSource
from scanfleet.producer.sources.listing import Listing
from scanfleet.producer.sources.open import open_source
from scanfleet.queue.app import make_app
from scanfleet.storage.s3.store import S3Store
from tests.services import Bucket, S3Server


@pytest.fixture
def settings(s3_bucket: Bucket, tmp_path: Path) -> Settings:
    return load_settings(data_dir=tmp_path, s3_endpoint_url=s3_bucket.endpoint_url, model="fake", batch_images=8)


@pytest.fixture
def engine(settings: Settings) -> Iterator[sa.Engine]:
    with schema.ledger(settings) as engine:
        yield engine


def run(
    engine: sa.Engine, settings: Settings, *sources: str, n_pages: int | None = None, **filters: object
) -> Enqueued:
    """List to the end, or stop dead after some pages."""
    listing = Listing([open_source(source, settings) for source in sources], Filters(**filters))  # type: ignore[arg-type]
    with make_app(settings, (score_queue("fake"),)) as app:
        pages = enqueue(engine, app, settings, listing=listing, checks=[load_check("overlay")])
        return list(pages if n_pages is None else islice(pages, n_pages))[-1]


def keys(engine: sa.Engine, bucket: Bucket) -> list[str]:
    with reading(engine) as connection:
        uris = connection.execute(sa.select(Image.uri).order_by(Image.id)).scalars()
        return [uri.removeprefix(bucket.uri()) for uri in uris]


def test_a_prefix_is_listed_with_versions_and_sizes(s3_bucket: Bucket, engine: sa.Engine, settings: Settings) -> None:
    names = ["2026/ü mit leer+100%.jpg", "2026/sub/漢字.png", "2026/a&b=c?.webp"]
    for name in [*names, "2026/notes.md", "2026/folder/", "2025/old.jpg"]:
        s3_bucket.put(name, b"12345")
    last = run(engine, settings, s3_bucket.uri("2026/"))
    assert sorted(keys(engine, s3_bucket)) == sorted(names)
    assert (last.n_new, last.n_skipped) == (3, 1)
    with reading(engine) as connection:
        rows = connection.execute(sa.select(Image.size, Image.etag, Image.root)).all()
    assert {(row.size, row.root) for row in rows} == {(5, None)}
    assert all(row.etag for row in rows)


def test_stopped_in_the_midst_it_goes_on_at_the_cursor(
    s3_bucket: Bucket, engine: sa.Engine, settings: Settings
) -> None:
    for number in range(60):
        s3_bucket.put(f"{number:03}.jpg", b"x")
    run(engine, settings, s3_bucket.uri(), n_pages=3)
    with reading(engine) as connection:
        assert connection.execute(sa.select(Scan.cursor)).scalar_one() == {"after": s3_bucket.uri("023.jpg")}
    assert len(keys(engine, s3_bucket)) == 24
    last = run(engine, settings, s3_bucket.uri())
    assert (last.n_listed, last.n_new) == (36, 36)
    assert keys(engine, s3_bucket) == [f"{number:03}.jpg" for number in range(60)]
    assert run(engine, settings, s3_bucket.uri()).n_new == 0


def test_an_object_that_changed_is_new(s3_bucket: Bucket, engine: sa.Engine, settings: Settings) -> None:
    s3_bucket.put("a.jpg", b"x")
    run(engine, settings, s3_bucket.uri())
    s3_bucket.put("a.jpg", b"other bytes")
    assert run(engine, settings, s3_bucket.uri()).n_new == 1


def test_problems_of_the_request(s3_bucket: Bucket, engine: sa.Engine, settings: Settings) -> None:
    with pytest.raises(SourceNotFound, match="no such bucket: not-there-at-all"):
        run(engine, settings, "s3://not-there-at-all/x")
    with pytest.raises(EmptySource, match="no images found in"):
        run(engine, settings, s3_bucket.uri("nothing/here/"))
    with reading(engine) as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(Scan)).scalar_one() == 0


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("AccessDenied", 403, AccessDenied),
        ("InvalidAccessKeyId", 403, AccessDenied),
        ("ExpiredToken", 400, AccessDenied),
        ("SlowDown", 503, StoreUnavailable),
    ],
)
def test_a_refusal_differs_from_a_failing_server(
    s3_bucket: Bucket, code: str, status: int, error: type[Exception]
) -> None:
    stub = Stubber(s3_bucket.client)
    stub.add_client_error("list_objects_v2", service_error_code=code, http_status_code=status)
    with stub, pytest.raises(error, match=s3_bucket.name):
        next(Listing([BucketSource(s3_bucket.uri(), S3Store(s3_bucket.client))], Filters()).images())


def test_missing_credentials_are_named(s3_bucket: Bucket, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(AccessDenied, match="credentials"):
        next(Listing([open_source(s3_bucket.uri(), settings)], Filters()).images())


def test_a_server_that_is_away_is_a_transient_error(
    own_s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in own_s3.env.items():
        monkeypatch.setenv(name, value)
    settings = load_settings(data_dir=tmp_path, s3_endpoint_url=own_s3.url)
    own_s3.kill()
    with pytest.raises(StoreUnavailable):
        next(Listing([open_source("s3://bucket/x", settings)], Filters()).images())
