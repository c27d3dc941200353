"""What S3 says of one object, of the credentials and of itself; the answers are those of AWS, MinIO and proxies."""

from pathlib import Path

import pytest

from scanfleet.config.settings import Settings, load_settings
from scanfleet.db.scans.new_images import NewImage
from scanfleet.errors import ImageError, ObjectRefused, StoreUnavailable
from scanfleet.storage.s3.store import S3Store
from tests.helpers.s3_stores import knowing
from tests.rigs.worker_rig import Rig, png, rig
from tests.services import Bucket, S3Gateway

SSE = "The object was stored using a form of Server Side Encryption. The correct parameters must be provided"
ETAG = '"0"'
LOGIN = b"<html><body>Please log in</body></html>"


@pytest.fixture
def settings(s3_gateway: S3Gateway, s3_client: str) -> Settings:
    return load_settings(s3_endpoint_url=s3_gateway.url, s3_client=s3_client)


@pytest.fixture
def store(s3_bucket: Bucket, settings: Settings) -> S3Store:
    return knowing(s3_bucket, settings)


def error(code: str, message: str = "No.") -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()


@pytest.mark.parametrize(
    ("status", "code", "message", "reason"),
    [
        (403, "AccessDenied", "Access Denied", "denied"),
        (403, "AllAccessDisabled", "All access to this object has been disabled", "denied"),
        (400, "InvalidRequest", SSE, "encrypted"),
        (400, "KMS.DisabledException", "The key is disabled", "encrypted"),
        (403, "AccessDenied", "User is not authorized to perform: kms:Decrypt", "encrypted"),
        (404, "NoSuchBucket", "The specified bucket does not exist", "no_bucket"),
        (301, "PermanentRedirect", "The bucket must be addressed using another endpoint", "refused"),
        (400, "InvalidArgument", "Something about this object", "refused"),
    ],
)
def test_a_refusal_of_the_object(
    s3_bucket: Bucket, s3_gateway: S3Gateway, store: S3Store, status: int, code: str, message: str, reason: str
) -> None:
    s3_gateway.answer(status, error(code, message))
    with pytest.raises(ObjectRefused, match=code) as caught:
        store.fetch(s3_bucket.uri("x.png"), etag=ETAG, max_bytes=10)
    assert (caught.value.failure.stage, caught.value.failure.reason) == ("fetch", reason)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "code"),
    [
        (403, "InvalidAccessKeyId"),
        (403, "SignatureDoesNotMatch"),
        (400, "ExpiredToken"),
        (403, "RequestTimeTooSkewed"),
        (400, "KMS.ThrottlingException"),
        (429, "Whatever"),
        (503, "SlowDown"),
        (500, "InternalError"),
    ],
)
def test_what_says_nothing_of_the_object_is_a_wait(
    s3_bucket: Bucket, s3_gateway: S3Gateway, store: S3Store, status: int, code: str
) -> None:
    s3_gateway.answer(status, error(code))
    with pytest.raises(StoreUnavailable, match=code) as caught:
        store.fetch(s3_bucket.uri("x.png"), etag=ETAG, max_bytes=10)
    assert not isinstance(caught.value, ObjectRefused)


@pytest.mark.parametrize("uri", ["s3://no bucket!/x.png", "s3://b/", f"s3://b/{'x' * 1100}"])
def test_a_name_that_cannot_exist_is_an_error_of_the_image(s3_gateway: S3Gateway, store: S3Store, uri: str) -> None:
    if len(uri) > 1000:
        s3_gateway.answer(400, error("KeyTooLongError"))
    with pytest.raises(ImageError) as caught:
        store.fetch(uri, etag=None, max_bytes=10)
    assert caught.value.reason == "bad_name"


def test_a_page_of_a_proxy_is_no_object(s3_bucket: Bucket, s3_gateway: S3Gateway, store: S3Store) -> None:
    uri = s3_bucket.put("a.png", png(1))
    (listed,) = store.list(uri)
    s3_gateway.answer(200, LOGIN, Content_Type="text/html")
    for etag in (None, listed.etag):
        with pytest.raises(StoreUnavailable, match="without ETag"):
            store.fetch(uri, etag=etag, max_bytes=1000)
    s3_gateway.answer(200, LOGIN, of="ListObjectsV2", Content_Type="text/html")
    with pytest.raises(StoreUnavailable, match="no listing"):
        store.confirm_missing(uri, etag=listed.etag, root_id=None)
    with pytest.raises(StoreUnavailable, match="no listing"):
        list(store.list(s3_bucket.uri()))


def test_the_listing_is_asked_about_a_missing_object(s3_bucket: Bucket, s3_gateway: S3Gateway, store: S3Store) -> None:
    uri = s3_bucket.put("a.png", b"first")
    (listed,) = store.list(uri)
    with pytest.raises(StoreUnavailable, match="is listed"):
        store.confirm_missing(uri, etag=listed.etag, root_id=None)
    s3_bucket.put("a.png", b"second")
    store.confirm_missing(uri, etag=listed.etag, root_id=None)  # changed indeed
    s3_bucket.client.delete_object(Bucket=s3_bucket.name, Key="a.png")
    for etag in (listed.etag, None):
        with pytest.raises(StoreUnavailable, match="is empty"):
            store.confirm_missing(uri, etag=etag, root_id=None)
    s3_bucket.put("a.png.txt", b"another")
    store.confirm_missing(uri, etag=listed.etag, root_id=None)
    s3_gateway.answer(403, error("AccessDenied"), of="ListObjectsV2")
    store.confirm_missing(uri, etag=listed.etag, root_id=None)  # cannot be asked


def listed(worker: Rig, bucket: Bucket) -> list[NewImage]:
    found = S3Store.connect(worker.settings).list(bucket.uri())
    return [NewImage(uri=info.uri, etag=info.etag, size=info.size) for info in found]


def again(worker: Rig, times: int = 3) -> None:
    for _ in range(times):
        worker.forget_backoff()
        worker.drain()


@pytest.mark.slow
def test_a_gateway_that_finds_nothing_any_more_is_waited_for(
    tmp_path: Path, s3_bucket: Bucket, s3_gateway: S3Gateway, s3_client: str
) -> None:
    for number in range(12):
        s3_bucket.put(f"{number}.png", png(number))
    with rig(tmp_path, s3_endpoint_url=s3_gateway.url, s3_client=s3_client, real_stores=True) as worker:
        scan = worker.scan_listed(listed(worker, s3_bucket), batch_images=4)
        worker.pipeline.run(None)
        assert worker.progress(scan).n_verdicts == 4
        s3_gateway.answer(404, error("NoSuchKey"))
        again(worker)
        assert worker.failures() == {}
        assert worker.progress(scan).n_pending == 8


def test_lines_of_a_manifest_that_name_no_bucket_end_as_failures(tmp_path: Path, s3_bucket: Bucket) -> None:
    uris = [s3_bucket.put(f"{number}.png", png(number)) for number in range(6)]
    odd = ["s3://no-such-bucket-here/x.png", "s3://Ill Named/x.png", s3_bucket.uri("nothing.png")]
    with rig(tmp_path, s3_endpoint_url=s3_bucket.endpoint_url, real_stores=True) as worker:
        scan = worker.scan_listed([NewImage(uri=uri) for uri in (*odd, *uris)], batch_images=2)
        again(worker, 5)
        reasons = dict(zip(odd, ("no_bucket", "bad_name", "gone"), strict=True))
        assert worker.failures() == {uri: ("fetch", reason) for uri, reason in reasons.items()}
        assert worker.progress(scan).n_verdicts == 6
