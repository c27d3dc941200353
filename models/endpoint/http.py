"""HTTP requests to one server, each with a deadline for the whole request and a bounded answer.

The requests run in an event loop of a thread of their own. Only there can a name lookup, a TLS handshake or a header
that arrives byte by byte be cancelled in time. Redirects are not followed, so that the key reaches no other host.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path

import httpx2

from scanfleet.models.endpoint.errors import EndpointBusy, EndpointMisused, in_one_line

_CLOSED = "the connection to the server was closed by this worker"
MAX_BODY_BYTES = 1 << 20  # an answer of one token takes a few kilobytes


@dataclass(frozen=True, kw_only=True)
class HttpAnswer:
    """An answer of the server; `retry_after` is that header, unparsed."""

    status: int
    retry_after: str | None
    body: bytes


class HttpChannel:
    """Sends requests to one server. `post` is thread-safe; at most `connections` requests run at once, the others wait.

    Args:
        url: the address that paths are appended to.
        key: sent as a bearer token; None: no key.
        timeout_seconds: of one whole request.
        connections: at most this many requests at once.
        ca_file: certificates of the authority that signed the server's certificate; None: the system's list.

    Raises:
        EndpointMisused: `ca_file` cannot be read.
    """

    def __init__(
        self, *, url: str, key: str | None, timeout_seconds: float, connections: int, ca_file: Path | None = None
    ) -> None:
        self._url = url
        self._timeout = timeout_seconds
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "Content-Type": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        self._client = httpx2.AsyncClient(
            headers=headers,
            verify=_trusted(ca_file),
            timeout=timeout_seconds,
            limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections),
            follow_redirects=False,
        )
        self._lock = threading.Lock()
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="endpoint", daemon=True)
        self._thread.start()

    def post(self, path: str, body: bytes) -> HttpAnswer:
        """Send one request and return the answer, whatever its status.

        Raises:
            EndpointBusy: the server did not answer in time, or the channel is closed.
            EndpointMisused: the server's certificate is not trusted.
        """
        with self._lock:
            if self._closed:
                raise EndpointBusy(_CLOSED)
            answer = asyncio.run_coroutine_threadsafe(self._post(path, body), self._loop)
        try:
            return answer.result()
        except CancelledError:
            raise EndpointBusy(_CLOSED) from None

    def close(self) -> None:
        """Close the channel; running and later requests raise EndpointBusy."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            ended = asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        ended.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        requests = asyncio.all_tasks() - {asyncio.current_task()}
        for request in requests:
            request.cancel()
        await asyncio.gather(*requests, return_exceptions=True)
        await self._client.aclose()

    async def _post(self, path: str, body: bytes) -> HttpAnswer:
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._client.stream("POST", self._url + path, content=body) as response,
            ):
                return HttpAnswer(
                    status=response.status_code,
                    retry_after=response.headers.get("retry-after"),
                    body=await _read(response),
                )
        except (TimeoutError, httpx2.TimeoutException):
            raise EndpointBusy(f"{self._url} gave no complete answer within {self._timeout:g} s") from None
        except httpx2.HTTPError as error:
            detail = in_one_line(str(error)) or type(error).__name__
            if "CERTIFICATE_VERIFY_FAILED" in detail:
                raise EndpointMisused(
                    f"{self._url}: no trusted authority signed its certificate: set endpoint_ca_file to its file"
                ) from None
            raise EndpointBusy(f"{self._url} cannot be reached: {detail}") from None


async def _read(response: httpx2.Response) -> bytes:
    body = bytearray()
    async for part in response.aiter_raw():  # not decompressed: a compressed bomb stays small, and is not JSON
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise EndpointBusy(
                f"the server's answer is over {MAX_BODY_BYTES} bytes, too large for an answer of one token"
            )
    return bytes(body)


def _trusted(ca_file: Path | None) -> ssl.SSLContext | bool:
    if ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (ssl.SSLError, OSError) as error:
        raise EndpointMisused(f"{ca_file} holds no readable certificates: {error.strerror}") from None
