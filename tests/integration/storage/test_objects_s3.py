"""S3 against a real server: paging, pinned reads, and the kind of each error."""

import socket

import pytest

from scanfleet.config.settings import Settings, load_settings
from scanfleet.errors import AccessDenied, BadSource, ImageError, SourceNotFound, StoreUnavailable
from scanfleet.storage.s3.store import S3Store
from tests.helpers.s3_stores import knowing
from tests.services import Bucket, S3Gateway


@pytest.fixture
def settings(any_bucket: Bucket, s3_client: str) -> Settings:
    return load_settings(s3_endpoint_url=any_bucket.endpoint_url, s3_client=s3_client)


def test_lists_in_order_from_any_key_and_reads_back(any_bucket: Bucket, settings: Settings) -> None:
    for key in ("ads/a b.jpg", "ads/c.jpg", "ads/ü.jpg", "other/x.jpg"):
        any_bucket.put(key, key.encode())
    any_bucket.put("ads/folder/", b"")
    store = knowing(any_bucket, settings)
    listed = list(store.list(any_bucket.uri("ads/")))
    assert [info.uri for info in listed] == [any_bucket.uri(f"ads/{name}") for name in ("a b.jpg", "c.jpg", "ü.jpg")]
    rest = store.list(any_bucket.uri("ads/"), after=listed[0].uri)
    assert [info.uri for info in rest] == [info.uri for info in listed[1:]]
    for info in listed:
        assert store.fetch(info.uri, etag=info.etag, max_bytes=100).data == info.uri.split("/", 3)[3].encode()
        assert info.size == len(info.uri.split("/", 3)[3].encode())


def test_errors_of_the_image(any_bucket: Bucket, settings: Settings) -> None:
    store = knowing(any_bucket, settings)
    uri = any_bucket.put("a.jpg", b"first")
    etag = next(iter(store.list(uri))).etag
    any_bucket.put("a.jpg", b"second")

    def reason(uri: str, **options: object) -> str:
        with pytest.raises(ImageError) as caught:
            store.fetch(uri, **{"etag": None, "max_bytes": 100, **options})  # type: ignore[arg-type]
        return caught.value.reason

    assert reason(uri, etag=etag) == "changed"
    assert reason(any_bucket.uri("nothing.jpg")) == "gone"
    assert reason(uri, max_bytes=3) == "too_large"


def test_a_missing_bucket_is_a_request_error_when_listing_and_transient_when_reading(settings: Settings) -> None:
    store = S3Store.connect(settings)
    with pytest.raises(SourceNotFound, match="no-such-bucket-here"):
        list(store.list("s3://no-such-bucket-here/x"))
    with pytest.raises(StoreUnavailable):
        store.fetch("s3://no-such-bucket-here/x.jpg", etag=None, max_bytes=10)


def test_a_server_that_is_away_is_a_transient_error(any_bucket: Bucket) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    store = S3Store.connect(load_settings(s3_endpoint_url=f"http://127.0.0.1:{port}"))
    with pytest.raises(StoreUnavailable):
        store.fetch("s3://b/x.jpg", etag=None, max_bytes=10)


def test_missing_credentials_are_named(any_bucket: Bucket, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(AccessDenied, match="credentials"):
        list(S3Store.connect(settings).list(any_bucket.uri()))


def test_what_is_written_is_read_back(any_bucket: Bucket, settings: Settings) -> None:
    store = S3Store.connect(settings)
    for data in (b"first", b"second"):
        store.put(any_bucket.uri("a b/ü.bin"), data)
        assert store.fetch(any_bucket.uri("a b/ü.bin"), etag=None, max_bytes=100).data == data
    with pytest.raises(SourceNotFound, match="no-such-bucket-here"):
        store.put("s3://no-such-bucket-here/x", b"data")
    with pytest.raises(BadSource, match="needs a key"):
        store.put(any_bucket.uri(), b"data")


def test_a_server_that_is_away_when_writing_is_a_transient_error(any_bucket: Bucket) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    store = S3Store.connect(load_settings(s3_endpoint_url=f"http://127.0.0.1:{port}"))
    with pytest.raises(StoreUnavailable):
        store.put("s3://b/x.bin", b"data")


def headers_sent(bucket: Bucket, **options: object) -> list[dict[str, str]]:
    """The headers of the requests for writing, listing, and reading twice: one version, and whichever there is."""
    with S3Gateway(target=bucket.endpoint_url) as gateway:
        store = knowing(bucket, load_settings(s3_endpoint_url=gateway.url, **options))
        gateway.asked.clear()
        store.put(bucket.uri("a.bin"), b"data")
        (info,) = store.list(bucket.uri("a.bin"))
        for etag in (info.etag, None):
            assert store.fetch(info.uri, etag=etag, max_bytes=100) == (b"data", info.etag, 4)
        assert [asked.operation for asked in gateway.asked] == ["PutObject", "ListObjectsV2", "GetObject", "GetObject"]
        assert gateway.clients() == [options["s3_client"], "boto3"]
        return [dict(asked.headers) for asked in gateway.asked]


def test_no_checksums_that_only_aws_knows_are_sent(any_bucket: Bucket, s3_client: str) -> None:
    for headers in headers_sent(any_bucket, s3_client=s3_client):
        assert [name for name in headers if "checksum" in name or name == "x-amz-trailer"] == []
        assert "aws-chunked" not in headers.get("content-encoding", "")


@pytest.mark.parametrize("pays", [True, False])
def test_the_requester_pays_where_the_setting_says_so(any_bucket: Bucket, s3_client: str, pays: bool) -> None:
    sent = headers_sent(any_bucket, s3_client=s3_client, s3_requester_pays=pays)
    assert {headers.get("x-amz-request-payer") for headers in sent} == {"requester" if pays else None}


def test_a_server_that_ignores_if_match_serves_no_other_version(
    s3_bucket: Bucket, s3_gateway: S3Gateway, s3_client: str
) -> None:
    s3_gateway.left_out.add("if-match")
    store = knowing(s3_bucket, load_settings(s3_endpoint_url=s3_gateway.url, s3_client=s3_client))
    uri = s3_bucket.put("a.jpg", b"first")
    (listed,) = store.list(uri)
    assert store.fetch(uri, etag=listed.etag, max_bytes=100).data == b"first"
    s3_bucket.put("a.jpg", b"other")
    with pytest.raises(ImageError) as caught:
        store.fetch(uri, etag=listed.etag, max_bytes=100)
    assert caught.value.reason == "changed"
