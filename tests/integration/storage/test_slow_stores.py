"""Stores that are slow but never silent: the fetch ends at its deadline and is not counted against the image."""

import time
from pathlib import Path
from typing import Any

import pytest

from scanfleet.config.settings import load_settings
from scanfleet.db.scans.new_images import NewImage
from scanfleet.errors import StoreUnavailable
from scanfleet.storage.folder import FolderStore
from scanfleet.storage.open import open_store
from scanfleet.storage.s3.store import S3Store
from tests.helpers.patience import patient
from tests.rigs.worker_rig import png, rig
from tests.services import Bucket
from tests.services.s3 import CREDENTIALS
from tests.services.slow_server import DrippingServer


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


def test_a_body_that_drips_is_given_up_at_the_deadline(credentials: None) -> None:
    with DrippingServer(every_seconds=0.05) as server:
        settings = load_settings(s3_endpoint_url=server.url, fetch_timeout_seconds=30, fetch_deadline_seconds=1)
        start = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"s3://b .*\d+ bytes in \d s"):
            S3Store.connect(settings).fetch("s3://b/x.png", etag=None, max_bytes=10_000_000)
        assert 0.9 < time.monotonic() - start < patient(12)
        assert server.n_requests == 1


def test_a_dripping_store_makes_a_batch_wait_and_fails_no_image(tmp_path: Path, credentials: None) -> None:
    options: dict[str, Any] = {"fetch_deadline_seconds": 1, "fetch_threads": 2, "real_stores": True}
    with (
        DrippingServer(every_seconds=0.05) as server,
        rig(tmp_path, s3_endpoint_url=server.url, **options) as worker,
    ):
        scan = worker.scan_listed([NewImage(uri="s3://b/x.png")])
        worker.pipeline.run(None)
        progress = worker.progress(scan)
        assert (progress.n_pending, progress.n_failures) == (1, 0)
        assert progress.waiting_for is not None
        assert "too slow" in progress.waiting_for


@pytest.mark.slow
def test_the_deadline_of_a_fetch_is_over_with_the_fetch(s3_bucket: Bucket, s3_client: str) -> None:
    """A listing, and the next fetch on the same connection, have their own time."""
    where = {"s3_endpoint_url": s3_bucket.endpoint_url, "s3_client": s3_client}
    settings = load_settings(**where, fetch_deadline_seconds=3.0)
    store = S3Store.connect(settings)
    for number in range(3):
        s3_bucket.put(f"{number}.png", png(number))
    for info in store.list(s3_bucket.uri()):
        assert store.fetch(info.uri, etag=info.etag, max_bytes=100_000)
        time.sleep(1.1)  # the deadline of the first fetch passes meanwhile
    assert len(list(store.list(s3_bucket.uri()))) == 3


def test_a_slow_folder_is_given_up_between_two_reads(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(b"x" * 3_000_000)
    store = FolderStore(tmp_path, deadline_seconds=1e-9)
    with pytest.raises(StoreUnavailable, match="1048576 bytes"):
        store.fetch(str(path), etag=None, max_bytes=10_000_000)
    patient = open_store(str(path), load_settings(), root=str(tmp_path))
    assert patient.fetch(str(path), etag=None, max_bytes=10_000_000).data == path.read_bytes()
