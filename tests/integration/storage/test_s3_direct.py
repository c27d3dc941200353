"""Reads through obstore: which objects they are, and that boto3 has the last word."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from scanfleet.config.settings import load_settings
from scanfleet.errors import ImageError, StoreUnavailable
from scanfleet.storage.base import Span
from scanfleet.storage.s3 import direct
from scanfleet.storage.s3.direct import Place, place_of
from scanfleet.storage.s3.store import S3Store
from tests.helpers.patience import patient
from tests.helpers.s3_stores import knowing
from tests.services import Bucket, S3Gateway
from tests.services.slow_server import DrippingServer

ETAG = '"0"'
PAGE = b"<html><body>Please log in</body></html>"
SIGNED = "AWS4-HMAC-SHA256 Credential=AK/20261201/eu-west-1/{service}/aws4_request, SignedHeaders=host, Signature=0"


@pytest.fixture
def store(s3_bucket: Bucket, s3_gateway: S3Gateway) -> S3Store:
    found = knowing(s3_bucket, load_settings(s3_endpoint_url=s3_gateway.url))
    s3_gateway.asked.clear()
    return found


def etag_of(store: S3Store, uri: str) -> str | None:
    (listed,) = store.list(uri)
    return listed.etag


def test_a_version_is_read_by_obstore_and_whichever_there_is_by_boto3(
    s3_bucket: Bucket, s3_gateway: S3Gateway, store: S3Store
) -> None:
    uri = s3_bucket.put("a.jpg", b"0123456789")
    etag = etag_of(store, uri)
    part = Span(2, 3)
    for pinned in (etag, None):
        assert store.fetch(uri, etag=pinned, max_bytes=10) == (b"0123456789", etag, 10)
        assert store.fetch(uri, etag=pinned, max_bytes=3, span=part) == (b"234", etag, 10)
        assert store.fetch(uri, etag=pinned, max_bytes=5, span=Span(8, 5)) == (b"89", etag, 10)
    assert s3_gateway.clients() == ["obstore"] * 3 + ["boto3"] * 3
    asked = [asked.headers.get("if-match") for asked in s3_gateway.asked if asked.operation == "GetObject"]
    assert asked == [etag] * 3 + [None] * 3


def test_the_first_read_of_a_bucket_is_boto3s(s3_bucket: Bucket, s3_gateway: S3Gateway) -> None:
    store = S3Store.connect(load_settings(s3_endpoint_url=s3_gateway.url))
    uri = s3_bucket.put("a.jpg", b"data")
    for _ in range(3):
        store.fetch(uri, etag=etag_of(store, uri), max_bytes=10)
    assert s3_gateway.clients() == ["boto3", "obstore", "obstore"]


def test_of_too_large_an_object_no_body_is_read(s3_bucket: Bucket, s3_gateway: S3Gateway, store: S3Store) -> None:
    uri = s3_bucket.put("a.jpg", b"x" * 1000)
    with pytest.raises(ImageError) as caught:
        store.fetch(uri, etag=etag_of(store, uri), max_bytes=999)
    assert caught.value.reason == "too_large"
    assert s3_gateway.clients() == ["obstore"]


@pytest.mark.slow
@examples(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=20))
@example(key="a//b.jpg")
@example(key="/a.jpg")
@example(key="a.jpg/")
@example(key="a/./b/../c.jpg")
@example(key="..")
@example(key="a%2Fb%c3+ b?x#y.jpg")
@example(key="漢字/u\u0308/\u202e\x85.jpg")
def test_every_key_is_asked_for_by_its_name(s3_bucket: Bucket, s3_gateway: S3Gateway, store: S3Store, key: str) -> None:
    s3_gateway.asked.clear()
    s3_gateway.answer(200, b"data", ETag=ETAG, Last_Modified="Mon, 01 Jan 2024 00:00:00 GMT")
    assert store.fetch(s3_bucket.uri(key), etag=ETAG, max_bytes=10).data == b"data"
    assert [unquote(asked.path) for asked in s3_gateway.asked] == [f"/{s3_bucket.name}/{key}"]


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (503, {}, b""),
        (403, {}, b"<Error><Code>AccessDenied</Code></Error>"),
        (200, {}, PAGE),
        (200, {"ETag": '"other"'}, PAGE),
        (200, {"ETag": ETAG, "Last_Modified": "never"}, PAGE),
        (206, {"ETag": ETAG, "Content_Range": "bytes 1-2/9"}, PAGE),
    ],
)
def test_what_obstore_cannot_give_boto3_gives(
    s3_bucket: Bucket, s3_gateway: S3Gateway, store: S3Store, status: int, headers: dict[str, str], body: bytes
) -> None:
    uri = s3_bucket.put("a.jpg", b"data")
    etag = etag_of(store, uri)
    s3_gateway.answer(status, body, client="obstore", **headers)
    assert store.fetch(uri, etag=etag, max_bytes=100).data == b"data"
    assert s3_gateway.clients() == ["obstore", "boto3"]


def test_after_three_failures_boto3_alone_reads_for_a_while(
    s3_bucket: Bucket, s3_gateway: S3Gateway, store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = s3_bucket.put("a.jpg", b"data")
    etag = etag_of(store, uri)
    s3_gateway.answer(503, client="obstore")
    for _ in range(5):
        assert store.fetch(uri, etag=etag, max_bytes=100).data == b"data"
    assert s3_gateway.clients() == ["obstore", "boto3"] * 3 + ["boto3"] * 2
    s3_gateway.pass_on()
    s3_gateway.asked.clear()
    now = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + direct.REST_SECONDS)
    for _ in range(2):
        store.fetch(uri, etag=etag, max_bytes=100)
    assert s3_gateway.clients() == ["boto3", "obstore"]


def test_no_redirect_leads_to_the_bytes_of_something_else(
    s3_bucket: Bucket, s3_gateway: S3Gateway, store: S3Store
) -> None:
    """A gateway that sends everybody to a page of its own, which has an ETag, too."""
    uri, page = s3_bucket.put("a.jpg", b"data"), s3_bucket.put("login.html", PAGE)
    etag = etag_of(store, uri)
    s3_gateway.answer(302, Location=page.replace("s3://", f"{s3_bucket.endpoint_url}/"))
    for pinned in (etag, None):
        with pytest.raises(StoreUnavailable):
            store.fetch(uri, etag=pinned, max_bytes=100)


def test_credentials_of_a_program_are_used_and_renewed(
    s3_bucket: Bucket, s3_gateway: S3Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = tmp_path / "answer.json"
    config = tmp_path / "config"
    config.write_text(f"[profile ours]\nregion = us-east-1\ncredential_process = cat {answer}\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "ours")
    monkeypatch.setattr(direct, "CREDENTIALS_KEPT", timedelta(0))  # asked for before each request

    def give(key: str) -> None:
        ends = datetime.now(UTC) + timedelta(minutes=5)  # so soon that botocore asks again each time
        pair = {"AccessKeyId": key, "SecretAccessKey": "secret", "SessionToken": f"token-{key}"}
        answer.write_text(json.dumps({"Version": 1, **pair, "Expiration": ends.isoformat()}))

    give("FIRST")
    store = knowing(s3_bucket, load_settings(s3_endpoint_url=s3_gateway.url))
    uri = s3_bucket.put("a.jpg", b"data")
    etag = etag_of(store, uri)
    for key in ("FIRST", "SECOND"):
        give(key)
        s3_gateway.asked.clear()
        store.fetch(uri, etag=etag, max_bytes=10)
        (asked,) = s3_gateway.asked
        assert asked.client == "obstore"
        assert f"Credential={key}/" in asked.headers["authorization"]
        assert asked.headers["x-amz-security-token"] == f"token-{key}"


def test_the_environment_leads_obstore_to_no_other_place(
    s3_bucket: Bucket, s3_gateway: S3Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    monkeypatch.setenv("AWS_REGION", "mars-north-1")
    store = knowing(s3_bucket, load_settings(s3_endpoint_url=s3_gateway.url))
    s3_gateway.asked.clear()
    uri = s3_bucket.put("a.jpg", b"data")
    assert store.fetch(uri, etag=etag_of(store, uri), max_bytes=10).data == b"data"
    (asked,) = [asked for asked in s3_gateway.asked if asked.operation == "GetObject"]
    assert asked.client == "obstore"
    assert "/us-east-1/s3/" in asked.headers["authorization"]


@pytest.fixture
def led(s3_bucket: Bucket) -> Iterator[S3Store]:
    """A store that takes a dripping server for the place of a bucket."""
    with DrippingServer(every_seconds=0.05) as server:
        settings = load_settings(s3_endpoint_url=server.url, fetch_timeout_seconds=30, fetch_deadline_seconds=1)
        store = S3Store.connect(settings)
        assert store._direct is not None
        store._direct._places["b"] = Place(root=f"{server.url}/b", region="us-east-1")
        yield store
        assert server.n_requests == 1


def test_a_body_that_drips_is_given_up_at_the_deadline_and_not_asked_for_again(led: S3Store) -> None:
    start = time.monotonic()
    with pytest.raises(StoreUnavailable, match=r"s3://b is too slow: no whole object in \d s"):
        led.fetch("s3://b/x.png", etag="x", max_bytes=10_000_000)
    assert 0.9 < time.monotonic() - start < patient(12)


def test_where_a_bucket_lies_is_what_boto3_asked() -> None:
    def place(url: str, key: str = "a b.jpg", service: str = "s3") -> Place | None:
        return place_of(url, SIGNED.format(service=service), key)

    assert place("http://h:1/b/a%20b.jpg") == Place(root="http://h:1/b", region="eu-west-1")
    amazon = place("https://b.s3.eu-west-1.amazonaws.com/a%20b.jpg?x-id=GetObject")
    assert amazon == Place(root="https://b.s3.eu-west-1.amazonaws.com", region="eu-west-1")
    assert amazon.is_amazon
    assert not Place(root="https://amazonaws.com.example/b", region="r").is_amazon
    assert not Place(root="http://b.s3.amazonaws.com", region="r").is_amazon
    assert place("http://h:1/b/other.jpg") is None
    assert place("http://h:1/b/a%20b.jpg", service="s3-outposts") is None
    assert place_of("http://h:1/b/a", "", "a") is None


@pytest.mark.parametrize("signature", [SIGNED.format(service="s3"), SIGNED.format(service="s3").encode()])
def test_a_request_tells_its_place_whether_its_headers_are_text_or_bytes(signature: str | bytes) -> None:
    reads = direct.DirectReads(load_settings(), credentials=lambda: None)
    reads._note(SimpleNamespace(url="http://h:1/b/a", headers={"Authorization": signature}))
    reads.learn("b", "a")
    assert reads._places == {"b": Place(root="http://h:1/b", region="eu-west-1")}


def test_behind_a_proxy_boto3_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "inside")
    for host, known in (("outside", False), ("inside", True)):
        assert (place_of(f"https://{host}/b/a", SIGNED.format(service="s3"), "a") is not None) == known
