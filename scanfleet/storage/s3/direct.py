"""Reading objects through obstore (object_store, in Rust): far less processor time than boto3, outside the interpreter.

It gives nothing but the bytes of the version that is asked for. Of everything else it says nothing, and boto3 is asked,
whose answer counts: what an error means is known in one place. It goes where boto3 was answered before, so that
endpoint, region and addressing are boto3's, and it signs with the credentials of the same session.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import structlog
from botocore.utils import get_environ_proxies

from scanfleet.config.settings import Settings
from scanfleet.errors import StoreUnavailable
from scanfleet.storage.base import FetchedObject, Span, fetch_error

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import ClientConfig, S3Credential
    from obstore.store import S3Store as Client

# What object_store drops from a key, or refuses in it: empty parts, "." and "..", control characters.
_INEXACT = re.compile(r"(?:^|/)\.{0,2}(?:/|\Z)|[\x00-\x1f\x7f]")
_SIGNED = re.compile(r"AWS4-HMAC-SHA256 Credential=.+?/\d{8}/(?P<region>[^/]+)/s3/aws4_request")
CREDENTIALS_KEPT = timedelta(minutes=10)  # obstore renews after half of it; botocore's are good for as long at least
MOST_FAILURES = 3  # in a row, before boto3 alone reads a bucket for a while
REST_SECONDS = 30.0
MOST_BUCKETS = 64  # that have a connection pool here; boto3 reads the others

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a bucket lies. root: what precedes "/key" in the address of an object."""

    root: str
    region: str

    @property
    def is_amazon(self) -> bool:
        parts = urlsplit(self.root)
        return parts.scheme == "https" and (parts.hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn"))


def place_of(url: str, authorization: str, key: str) -> Place | None:
    """Return where a signed request for an object went; None where obstore cannot go or sign the same way."""
    root, ending = url.partition("?")[0], f"/{quote(key, safe='/~')}"
    signed = _SIGNED.match(authorization)
    if signed is None or not root.endswith(ending) or get_environ_proxies(url).keys() - {"no"}:
        return None
    return Place(root=root.removesuffix(ending), region=signed["region"])


class DirectReads:
    """Reads of the buckets that boto3 has read from. Threads may share it.

    credentials: gives botocore's, renewed where they end. ca_file: who may sign servers' certificates, too.
    """

    def __init__(self, settings: Settings, *, credentials: Callable[[], Any], ca_file: str | None = None) -> None:
        self._settings = settings
        self._credentials, self._ca_file = credentials, ca_file
        self._sent = threading.local()
        self._lock = threading.Lock()
        self._places: dict[str, Place] = {}
        self._clients: dict[str, Client] = {}
        self._failures: dict[str, int] = {}  # in a row
        self._rests_until: dict[str, float] = {}

    def watch(self, client: Any) -> None:
        """Take note of the requests that a client of boto3's sends."""
        client.meta.events.register("before-send.s3.GetObject", self._note)

    def _note(self, request: Any, **_: object) -> None:
        self._sent.request = request

    def learn(self, bucket: str, key: str) -> None:
        """Learn where a bucket lies from the request for this object that boto3 just sent, and that was answered."""
        request = getattr(self._sent, "request", None)
        if request is None or bucket in self._places or len(self._places) >= MOST_BUCKETS:
            return
        if time.monotonic() < self._rests_until.get(bucket, 0.0):
            return
        signature = request.headers.get("Authorization") or b""
        text = signature.decode() if isinstance(signature, bytes) else signature
        if (place := place_of(request.url, text, key)) is not None:
            self._places[bucket] = place

    def fetch(
        self, bucket: str, key: str, *, etag: str | None, max_bytes: int, span: Span | None
    ) -> FetchedObject | None:
        """Return the object, or the part; None: ask boto3. Raises ImageError (too_large), StoreUnavailable (too slow).

        Without a version only Amazon is read: obstore follows redirects, and a gateway may lead to a page of its own.
        """
        place = self._places.get(bucket)
        if place is None or _INEXACT.search(key) or (etag is None and not place.is_amazon):
            return None
        from obstore.exceptions import BaseError, NotFoundError, PreconditionError

        began = time.monotonic()
        try:
            found = _read(self._client(bucket, place), key, etag=etag, max_bytes=max_bytes, span=span)
        except (FileNotFoundError, NotFoundError, PreconditionError):
            return None  # gone or changed, it says
        except (BaseError, OSError, ValueError) as error:
            self._count_failure(bucket, error)
            self._refuse_if_slow(f"s3://{bucket}", time.monotonic() - began)
            return None
        self._failures.pop(bucket, None)
        return found

    def _client(self, bucket: str, place: Place) -> Client:
        if (known := self._clients.get(bucket)) is not None:
            return known
        with self._lock:
            if (known := self._clients.get(bucket)) is None:
                known = self._clients[bucket] = self._connect(bucket, place)
        return known

    def _connect(self, bucket: str, place: Place) -> Client:
        from obstore.store import S3Store

        settings = self._settings
        options: ClientConfig = {
            "allow_http": place.root.startswith("http://"),
            "allow_invalid_certificates": False,
            "connect_timeout": timedelta(seconds=5),
            "read_timeout": timedelta(seconds=settings.fetch_timeout_seconds),
            "timeout": timedelta(seconds=settings.fetch_deadline_seconds),
        }
        if self._ca_file is not None:
            options["root_certificate"] = Path(self._ca_file).read_bytes()
        return S3Store(
            bucket,
            endpoint=place.root,
            aws_endpoint_url_s3=place.root,  # what is not given here is taken from AWS_… in the environment
            virtual_hosted_style_request=True,  # the root names the bucket, wherever it stands in there
            region=place.region,
            request_payer=settings.s3_requester_pays,
            skip_signature=False,
            s3_express=False,
            client_options=options,
            retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=settings.fetch_deadline_seconds)},
            credential_provider=self._credential,
        )

    def _credential(self) -> S3Credential:
        found = self._credentials().get_frozen_credentials()
        return {
            "access_key_id": found.access_key,
            "secret_access_key": found.secret_key,
            "token": found.token,
            "expires_at": datetime.now(UTC) + CREDENTIALS_KEPT,
        }

    def _count_failure(self, bucket: str, error: Exception) -> None:
        with self._lock:
            n = self._failures[bucket] = self._failures.get(bucket, 0) + 1
            if n < MOST_FAILURES:
                return
            self._rests_until[bucket] = time.monotonic() + REST_SECONDS
            for kept in (self._failures, self._places, self._clients):
                kept.pop(bucket, None)
        log.warning("s3_read_by_boto3", bucket=bucket, seconds=REST_SECONDS, why=str(error).partition("\n")[0][:200])

    def _refuse_if_slow(self, store: str, spent: float) -> None:
        """Raises StoreUnavailable where asking once more may take as long again."""
        settings = self._settings
        if spent >= min(settings.fetch_timeout_seconds, settings.fetch_deadline_seconds):
            limits = "fetch_timeout_seconds, fetch_deadline_seconds"
            raise StoreUnavailable(f"{store} is too slow: no whole object in {spent:.0f} s ({limits})")


def _read(client: Client, key: str, *, etag: str | None, max_bytes: int, span: Span | None) -> FetchedObject:
    """Raises ImageError (too_large), ValueError for an answer that is not the one asked for, and obstore's errors."""
    import obstore

    options: GetOptions = {}
    if etag is not None:
        options["if_match"] = etag
    if span is not None:
        options["range"] = (span.offset, span.offset + span.length)
    answer = obstore.get(client, key, options=options)
    (start, end), meta = answer.range, answer.meta
    found = meta["e_tag"]
    if not found or (etag is not None and bare(found) != bare(etag)):
        raise ValueError("the answer has no ETag, or another one")
    if end - start > max_bytes:
        raise fetch_error("too_large", f"{end - start} bytes is over the limit of {max_bytes}")
    data = bytes(answer.bytes())
    if len(data) != end - start:
        raise ValueError(f"{len(data)} of {end - start} bytes")
    return FetchedObject(data, found, meta["size"])


def bare(etag: str) -> str:
    """Return an etag without quotes and mark of weakness: servers write it differently in lists and answers."""
    return etag.removeprefix("W/").strip('"')
