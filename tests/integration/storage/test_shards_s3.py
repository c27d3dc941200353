"""Members of archives on an S3 server: listed, pinned and read by ranges."""

from pathlib import Path
from typing import Any

import pytest

from scanfleet.config.settings import load_settings
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.tables import Image
from scanfleet.errors import ImageError, StoreUnavailable
from scanfleet.producer.sources.filters import Filters
from scanfleet.producer.sources.listing import Listing
from scanfleet.producer.sources.open import open_source
from scanfleet.storage.base import Span
from scanfleet.storage.s3.store import S3Store
from scanfleet.storage.shards.store import ShardStore
from tests.helpers.shards import tar_of, zip_of
from tests.rigs.worker_rig import png, rig
from tests.services import Bucket

MAKERS = {"ü 1.tar": tar_of, "2.zip": zip_of}


def put_shards(bucket: Bucket) -> dict[str, bytes]:
    """Put two shards, and return their members by uri."""
    found = {}
    for number, (name, make) in enumerate(MAKERS.items()):
        files = [(f"sub/{each} #.png", png(10 * number + each)) for each in range(5)]
        bucket.put(f"shards/{name}", make([*files, ("0.json", b"{}")]))
        found |= {f"{bucket.uri('shards/')}{name}#{member}": data for member, data in files}
    return found


def listed(bucket: Bucket, source: str, **filters: Any) -> list[NewImage]:
    settings = load_settings(s3_endpoint_url=bucket.endpoint_url)
    chosen = Filters(**filters)
    return list(Listing([open_source(source, settings, members=chosen.members)], chosen).images())


def test_ranges_of_an_object(any_bucket: Bucket) -> None:
    any_bucket.put("a.bin", bytes(range(100)))
    store = S3Store.connect(load_settings(s3_endpoint_url=any_bucket.endpoint_url))
    uri = any_bucket.uri("a.bin")
    found = store.fetch(uri, etag=None, max_bytes=10, span=Span(90, 10))
    assert (found.data, found.size) == (bytes(range(90, 100)), 100)
    assert store.fetch(uri, etag=found.etag, max_bytes=50, span=Span(95, 50)).data == bytes(range(95, 100))
    with pytest.raises(ImageError, match="ends before"):
        store.fetch(uri, etag=None, max_bytes=10, span=Span(100, 10))
    with pytest.raises(ImageError, match="changed"):
        store.fetch(uri, etag='"0123456789abcdef0123456789abcdef"', max_bytes=10, span=Span(0, 10))


def test_members_are_listed_and_scored(seaweed_bucket: Bucket, tmp_path: Path) -> None:
    members = put_shards(seaweed_bucket)
    top = seaweed_bucket.uri("shards/")
    images = listed(seaweed_bucket, top, members=True)
    assert {image.uri for image in images} == set(members)
    assert listed(seaweed_bucket, f"{top}2.zip") == [image for image in images if "2.zip" in image.uri]
    unpinned = [NewImage(uri=uri) for uri in list(members)[:3]]
    with rig(tmp_path, s3_endpoint_url=seaweed_bucket.endpoint_url, real_stores=True) as worker:
        worker.scan_listed(images)
        worker.drain()
        assert worker.failures() == {}
        n_scored = {row.uri: row.state for row in worker.rows(Image)}
        assert n_scored == dict.fromkeys(members, "verdict")
        worker.scan_listed([*unpinned, NewImage(uri=f"{top}2.zip#none.png"), NewImage(uri=f"{top}none.tar#a.png")])
        worker.drain()
        assert worker.failures() == {
            f"{top}2.zip#none.png": ("fetch", "no_member"),
            f"{top}none.tar#a.png": ("fetch", "gone"),
        }
        seen = {row.uri: row.seen_etag for row in worker.rows(Image) if row.seen_etag}
        assert seen == {image.uri: image.etag for image in images if image.uri in list(members)[:3]}


def test_an_overwritten_or_removed_shard_is_a_failure_of_its_members(seaweed_bucket: Bucket, tmp_path: Path) -> None:
    put_shards(seaweed_bucket)
    seaweed_bucket.put("other.png", png(99))
    images = listed(seaweed_bucket, seaweed_bucket.uri("shards/"), members=True)
    seaweed_bucket.put("shards/ü 1.tar", tar_of([("sub/0 #.png", png(50))]))
    seaweed_bucket.client.delete_object(Bucket=seaweed_bucket.name, Key="shards/2.zip")
    with rig(tmp_path, s3_endpoint_url=seaweed_bucket.endpoint_url, real_stores=True) as worker:
        worker.scan_listed(images)
        worker.drain()
        reasons = {uri: reason for uri, (_, reason) in worker.failures().items()}
    assert reasons == {image.uri: "gone" if "2.zip" in image.uri else "changed" for image in images}


class WholeAnswers:
    """A client of a server that does not know ranges, or answers another one."""

    def __init__(self, content_range: str | None) -> None:
        self._more = {} if content_range is None else {"ContentRange": content_range}

    def get_object(self, **asked: Any) -> dict[str, Any]:
        class Body:
            def __enter__(self) -> "Body":
                return self

            def __exit__(self, *_: object) -> None: ...

            def read1(self, _: int) -> bytes:
                return b""

        return {"Body": Body(), "ETag": '"e"', "ContentLength": 0, **self._more}


@pytest.mark.parametrize("content_range", [None, "bytes 0-9/100", "bytes 512-521/*"])
def test_an_answer_that_is_another_part_is_no_member(content_range: str | None) -> None:
    store = ShardStore(S3Store(WholeAnswers(content_range)))
    with pytest.raises(StoreUnavailable, match="not the range"):
        store.fetch("s3://b/x.tar#a.jpg", etag='"e"@512+10', max_bytes=100)
