"""What a listing, a pinned read and a refusal are on an S3 server that checks keys, pages and parts for itself."""

import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image as PillowImage

from scanfleet.config.settings import load_settings
from scanfleet.db.scans.new_images import NewImage
from scanfleet.errors import AccessDenied, ImageError, StoreUnavailable
from scanfleet.storage.base import ObjectInfo
from scanfleet.storage.s3.store import S3Store
from tests.helpers.s3_stores import knowing
from tests.rigs.worker_rig import rig
from tests.services import Bucket
from tests.services.seaweed import STRANGER

PART_BYTES = 5 << 20  # the least that S3 takes for a part that is not the last
ODD_KEYS = (
    " lead and trail ",
    ".hidden/..name/...",
    "a+b%20c%2Fd 100%.jpg",
    "q?versionId=1&x#f.jpg",
    "<&>\"'.jpg",
    "line\nand\ttab.jpg",
    "漢字/😀/u\u0308.jpg",
    "~*!@$:;,=()[]{}|^`.jpg",
    "/".join(["seg" * 60] * 5) + ".jpg",  # 908 bytes
    "/".join(["é" * 127, "x" * 255, "y" * 255, "z" * 255, "w"]),  # 1,024 bytes: the most that S3 takes
)
FOLDED_KEYS = ("/lead.jpg", "a//b.jpg", "back\\slash.jpg")  # SeaweedFS keeps a tree of folders, which has no such names


@pytest.fixture
def store(seaweed_bucket: Bucket, s3_client: str) -> S3Store:
    return knowing(seaweed_bucket, load_settings(s3_endpoint_url=seaweed_bucket.endpoint_url, s3_client=s3_client))


def connected(bucket: Bucket) -> S3Store:
    return S3Store.connect(load_settings(s3_endpoint_url=bucket.endpoint_url))


def put_all(bucket: Bucket, keys: list[str]) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: bucket.put(key, key.encode()), keys))


def put_in_parts(bucket: Bucket, key: str, *parts: bytes) -> ObjectInfo:
    """Upload as command-line tools upload what is large, and return what is listed then."""
    names = {"Bucket": bucket.name, "Key": key}
    upload = bucket.client.create_multipart_upload(**names)["UploadId"]
    done = []
    for number, part in enumerate(parts, start=1):
        answer = bucket.client.upload_part(**names, UploadId=upload, PartNumber=number, Body=part)
        done.append({"PartNumber": number, "ETag": answer["ETag"]})
    bucket.client.complete_multipart_upload(**names, UploadId=upload, MultipartUpload={"Parts": done})
    return next(connected(bucket).list(bucket.uri(key)))


@pytest.mark.slow
def test_pages_come_in_order_from_any_key_and_prefix(seaweed_bucket: Bucket, store: S3Store) -> None:
    keys = [f"p/{number:05}.jpg" for number in range(1200)]
    put_all(seaweed_bucket, [*keys, "p.jpg", "p0/x.jpg", "q/x.jpg"])
    listed = [info.uri for info in store.list(seaweed_bucket.uri("p/"))]
    assert listed == [seaweed_bucket.uri(key) for key in keys]
    for start in (0, 998, 999, 1000, 1199):
        rest = store.list(seaweed_bucket.uri("p/"), after=listed[start])
        assert [info.uri for info in rest] == listed[start + 1 :]
    gone = store.list(seaweed_bucket.uri("p/"), after=f"{listed[1100]}x")  # a cursor whose object was deleted
    assert next(gone).uri == listed[1101]


def test_odd_keys_are_listed_and_read_as_they_are(seaweed_bucket: Bucket, store: S3Store) -> None:
    _check_round_trip(seaweed_bucket, store, ODD_KEYS)


def test_keys_that_no_folder_could_have_are_read_as_they_are(s3_bucket: Bucket, s3_client: str) -> None:
    settings = load_settings(s3_endpoint_url=s3_bucket.endpoint_url, s3_client=s3_client)
    _check_round_trip(s3_bucket, knowing(s3_bucket, settings), FOLDED_KEYS)


def _check_round_trip(bucket: Bucket, store: S3Store, keys: tuple[str, ...]) -> None:
    put_all(bucket, list(keys))
    listed = list(store.list(bucket.uri()))
    assert [info.uri for info in listed] == [bucket.uri(key) for key in sorted(keys, key=str.encode)]
    for info in listed:
        key = info.uri.removeprefix(bucket.uri())
        assert store.fetch(info.uri, etag=info.etag, max_bytes=2000).data == key.encode()
        assert [found.uri for found in store.list(info.uri)] == [info.uri]


def test_an_object_in_parts_is_pinned_by_its_composite_etag(seaweed_bucket: Bucket, store: S3Store) -> None:
    parts = (os.urandom(PART_BYTES), b"rest")
    info = put_in_parts(seaweed_bucket, "big.bin", *parts)
    assert (info.etag or "").rstrip('"').endswith("-2")
    assert info.size == PART_BYTES + 4
    assert store.fetch(info.uri, etag=info.etag, max_bytes=PART_BYTES * 2).data == b"".join(parts)
    put_in_parts(seaweed_bucket, "big.bin", parts[0], b"tail")
    with pytest.raises(ImageError) as caught:
        store.fetch(info.uri, etag=info.etag, max_bytes=PART_BYTES * 2)
    assert caught.value.reason == "changed"


def test_an_object_in_the_same_parts_is_not_read_again(seaweed_bucket: Bucket, tmp_path: Path) -> None:
    picture = io.BytesIO()
    PillowImage.frombytes("RGB", (1400, 1400), os.urandom(3 * 1400 * 1400)).save(picture, "PNG")
    data = picture.getvalue()
    where = {"s3_endpoint_url": seaweed_bucket.endpoint_url, "real_stores": True}
    with rig(tmp_path, **where) as worker:

        def n_reused(*parts: bytes, read: bool) -> int:
            info = put_in_parts(seaweed_bucket, "big.png", *parts)
            if not read:  # whoever fetches it now fails
                seaweed_bucket.client.delete_object(Bucket=seaweed_bucket.name, Key="big.png")
            scan = worker.scan_listed([NewImage(uri=info.uri, etag=info.etag, size=info.size)])
            worker.drain()
            assert worker.failures() == {}
            return worker.progress(scan).n_reused

        assert n_reused(data[:PART_BYTES], data[PART_BYTES:], read=True) == 0
        assert n_reused(data[:PART_BYTES], data[PART_BYTES:], read=False) == 1
        assert n_reused(data, read=True) == 1  # cut otherwise it has another ETag: its content decides, once it is read


@pytest.fixture(
    params=[
        STRANGER,
        {**STRANGER, "AWS_SECRET_ACCESS_KEY": "mistyped"},
        {**STRANGER, "AWS_ACCESS_KEY_ID": "unknown-key"},
    ],
    ids=["no-right", "wrong-secret", "unknown-key"],
)
def refused(request: pytest.FixtureRequest, seaweed_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    """A store whose key pair the server refuses."""
    seaweed_bucket.put("a.jpg", b"data")
    for name, value in request.param.items():
        monkeypatch.setenv(name, value)
    return connected(seaweed_bucket)


def test_a_refused_key_is_a_request_error_when_listing_or_writing_and_transient_when_reading(
    seaweed_bucket: Bucket, refused: S3Store
) -> None:
    with pytest.raises(AccessDenied, match=seaweed_bucket.name):
        list(refused.list(seaweed_bucket.uri()))
    with pytest.raises(AccessDenied, match=seaweed_bucket.name):
        refused.put(seaweed_bucket.uri("b.jpg"), b"data")
    with pytest.raises(StoreUnavailable, match=seaweed_bucket.name):
        refused.fetch(seaweed_bucket.uri("a.jpg"), etag=None, max_bytes=10)
