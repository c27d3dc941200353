"""S3 Inventory where S3 delivers it: the listed versions are those of the bucket."""

from pathlib import Path
from typing import Any

import pytest

from scanfleet.config.settings import load_settings
from scanfleet.errors import AccessDenied, BadManifest, SourceNotFound
from scanfleet.producer.sources import inventory_files
from scanfleet.producer.sources.filters import Filters
from scanfleet.producer.sources.listing import Listing
from scanfleet.producer.sources.open import open_source
from scanfleet.storage.s3.store import S3Store
from tests.helpers.inventories import FOLDER, Row, csv_part, inventory, parquet_part
from tests.rigs.worker_rig import png, rig
from tests.services import Bucket

KEYS = ("a b+c/ü&=%41.png", "sub/b.png")


def rows_of(bucket: Bucket) -> list[Row]:
    """Put two images, and return what an inventory says of them."""
    for number, key in enumerate(KEYS):
        bucket.put(key, png(number))
    store = S3Store.connect(load_settings(s3_endpoint_url=bucket.endpoint_url))
    return [
        (bucket.name, info.uri.removeprefix(bucket.uri()), "", True, False, info.size, (info.etag or "").strip('"'))
        for info in store.list(bucket.uri())
    ]


def deliver(bucket: Bucket, form: str, part: bytes) -> str:
    files = inventory(form, [part], bucket=bucket.name, destination=bucket.name)
    for key, data in files.items():
        bucket.put(key, data)
    return bucket.uri(next(iter(files)))


def images_of(bucket: Bucket, source: str, **filters: Any) -> list[Any]:
    settings = load_settings(s3_endpoint_url=bucket.endpoint_url)
    return list(Listing([open_source(source, settings)], Filters(**filters)).images())


@pytest.mark.parametrize("form", ["CSV", "Parquet"])
def test_an_inventory_lists_what_the_bucket_lists_and_it_is_scored(
    seaweed_bucket: Bucket, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventory_files, "CHUNK_BYTES", 50)  # a part is fetched in several requests
    rows = rows_of(seaweed_bucket)
    source = deliver(seaweed_bucket, form, (csv_part if form == "CSV" else parquet_part)(rows))
    images = images_of(seaweed_bucket, source)
    assert images == [image for image in images_of(seaweed_bucket, seaweed_bucket.uri()) if "inv/" not in image.uri]
    assert len(images) == 2
    with rig(tmp_path, s3_endpoint_url=seaweed_bucket.endpoint_url, real_stores=True) as worker:
        scan = worker.scan_listed(images)
        worker.drain()
        assert worker.progress(scan).n_verdicts == 2


def test_what_is_missing_denied_or_altered_is_named(seaweed_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    source = deliver(seaweed_bucket, "CSV", csv_part(rows_of(seaweed_bucket)))
    seaweed_bucket.put(f"{FOLDER}/data/0.csv.gz", csv_part([]))
    with pytest.raises(BadManifest, match="fetch it again"):
        images_of(seaweed_bucket, source)
    seaweed_bucket.client.delete_object(Bucket=seaweed_bucket.name, Key=f"{FOLDER}/data/0.csv.gz")
    with pytest.raises(SourceNotFound, match=r"0\.csv\.gz: gone"):
        images_of(seaweed_bucket, source)
    with pytest.raises(SourceNotFound, match=r"manifest\.json: gone"):
        images_of(seaweed_bucket, seaweed_bucket.uri("none/manifest.json"))
    with pytest.raises(AccessDenied, match="no-such-bucket-here"):
        images_of(seaweed_bucket, "s3://no-such-bucket-here/manifest.json")
