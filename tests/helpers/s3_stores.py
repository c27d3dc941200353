"""Stores of S3 that have read from a bucket before, as those of a worker have after its first image."""

from scanfleet.config.settings import Settings
from scanfleet.storage.s3.store import S3Store
from tests.services import Bucket


def knowing(bucket: Bucket, settings: Settings) -> S3Store:
    """Return a store that reads the bucket through the client that the settings name. It leaves no object behind."""
    store = S3Store.connect(settings)
    uri = bucket.put("read-before", b"data")
    (listed,) = store.list(uri)
    store.fetch(uri, etag=listed.etag, max_bytes=100)
    bucket.client.delete_object(Bucket=bucket.name, Key="read-before")
    return store
