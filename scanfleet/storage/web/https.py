"""Images at `https://` addresses of listed hosts. No credentials, cookies or proxies are used."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urljoin

import urllib3
import urllib3.exceptions

from scanfleet.config.settings import Settings
from scanfleet.config.web_hosts import PORT, hosts_of, web_address
from scanfleet.errors import BadSource, ImageError, ObjectRefused, StoreUnavailable
from scanfleet.storage.base import FetchedObject, ObjectInfo, Span, fetch_error, refused
from scanfleet.storage.deadline import Deadline, read_capped
from scanfleet.storage.web.connections import pool_class

MOST_REDIRECTS = 3
CONNECT_SECONDS = 5.0
HEADERS = {"Accept": "image/*, */*;q=0.5", "Accept-Encoding": "identity", "User-Agent": "scanfleet"}
_OK, _REDIRECTS = 200, (301, 302, 303, 307, 308)
_GONE, _DENIED = (404, 410), (403, 451)
_BUSY = (401, 407, 408, 409, 425, 429)  # as of S3: they say nothing of the image
_CLIENT_ERRORS = range(400, 500)


class HttpsStore:
    """Threads may share it. It connects at the first call."""

    def __init__(self, settings: Settings) -> None:
        self._hosts = hosts_of(settings.https_hosts)
        self._deadline_seconds = settings.fetch_deadline_seconds
        self._pools = urllib3.PoolManager(
            num_pools=64,
            maxsize=settings.fetch_threads,
            ssl_context=ssl.create_default_context(),
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=settings.fetch_timeout_seconds),
            retries=False,
        )
        pool = pool_class(hosts_of(settings.https_private_hosts))
        self._pools.pool_classes_by_scheme = {"https": pool}

    def list(self, location: str, *, after: str | None = None) -> Iterator[ObjectInfo]:
        raise BadSource(f"{location} cannot be listed: name its images in a manifest")

    def put(self, uri: str, data: bytes) -> None:
        raise BadSource(f"{uri} cannot be written")

    def fetch(self, uri: str, *, etag: str | None, max_bytes: int, span: Span | None = None) -> FetchedObject:
        """etag: the ETag, else the Last-Modified of an answer. Raises also ImageError or ObjectRefused (no_host, …)."""
        if span is not None:
            raise fetch_error("unsupported", "parts of a file are read from folders and S3 alone")
        deadline = Deadline(self._deadline_seconds, store=uri)
        with self._answer("GET", uri) as answer:
            _raise_for_status(answer.status, uri)
            found = _version(answer)
            if etag is not None and found != etag:
                raise fetch_error("changed", "the address answers with another version than before")
            length = _length(answer, uri)
            return FetchedObject(read_capped(answer, deadline, length=length, max_bytes=max_bytes), found)

    def confirm_missing(self, uri: str, *, etag: str | None, root_id: str | None) -> None:
        """The server is asked for the headers alone."""
        try:
            with self._answer("HEAD", uri) as answer:
                if answer.status == _OK and etag in (None, _version(answer)):
                    raise StoreUnavailable(f"{uri} is there, and not when it is fetched")
        except (ImageError, ObjectRefused):
            return

    @contextmanager
    def _answer(self, method: str, uri: str) -> Iterator[urllib3.BaseHTTPResponse]:
        """Yield the answer behind redirects. Raises ObjectRefused, StoreUnavailable."""
        answer = self._ask(method, uri, again=0)
        try:
            yield answer
        except (urllib3.exceptions.HTTPError, OSError) as error:  # while it was read
            raise StoreUnavailable(f"{uri}: {error}") from error
        finally:
            answer.close()

    def _ask(self, method: str, uri: str, *, again: int) -> urllib3.BaseHTTPResponse:
        try:
            url = web_address(uri, self._hosts)
        except ValueError as error:
            if again == 0:  # a worker that is set up otherwise than the command that listed it
                raise StoreUnavailable(f"{uri}: {error}") from None
            raise refused("refused", f"it redirects to {uri}, which is not read: {error}") from None
        assert url.host is not None  # checked
        pool = self._pools.connection_from_host(url.host, url.port or PORT, "https")
        try:
            answer = pool.urlopen(
                method, url.request_uri, headers=HEADERS, redirect=False, preload_content=False, decode_content=False
            )
        except urllib3.exceptions.SSLError as error:
            raise refused("refused", f"{uri}: no trusted connection: {error}") from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise StoreUnavailable(f"{uri}: {error}") from error
        target = answer.headers.get("Location")
        if answer.status not in _REDIRECTS or not target:
            return answer
        answer.close()
        if again == MOST_REDIRECTS:
            raise refused("refused", f"more than {MOST_REDIRECTS} redirects")
        try:
            following = urljoin(uri, target)
        except ValueError:
            raise refused("refused", "it redirects to what cannot be read as an address") from None
        return self._ask(method, following, again=again + 1)


def _raise_for_status(status: int, uri: str) -> None:
    """Raises ImageError, ObjectRefused, StoreUnavailable."""
    if status == _OK:
        return
    line = f"{uri}: the server answers {status}"
    if status in _GONE:
        raise fetch_error("gone", f"the server answers {status}")
    if status in _DENIED:
        raise refused("denied", line)
    if status in _CLIENT_ERRORS and status not in _BUSY:
        raise refused("refused", line)
    raise StoreUnavailable(line)


def _version(answer: urllib3.BaseHTTPResponse) -> str | None:
    return answer.headers.get("ETag") or answer.headers.get("Last-Modified")


def _length(answer: urllib3.BaseHTTPResponse, uri: str) -> int | None:
    """Return the announced length; None: in chunks. Raises ObjectRefused for an answer that is not the file."""
    if answer.headers.get("Content-Type", "").lower().startswith("text/html"):  # of a login, or a proxy
        raise refused("refused", f"{uri}: a web page in the place of an image")
    if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise refused("refused", f"{uri}: the answer is packed, though that was not asked for")
    if answer.headers.get("Transfer-Encoding", "").lower() == "chunked":
        return None
    length = answer.headers.get("Content-Length", "")
    if not length.isdecimal():  # what is cut could not be told from what is whole
        raise refused("refused", f"{uri}: an answer that does not tell its length")
    return int(length)
