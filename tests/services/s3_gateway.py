"""A gateway in front of an S3 server: it notes what is asked, and gives answers of its own where a test says so."""

import http.client
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

NOT_PASSED_ON = {"connection", "keep-alive", "transfer-encoding"}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request. path: as it came, with encoding and without query; headers: names in small letters."""

    operation: str
    path: str
    headers: Mapping[str, str]

    @property
    def client(self) -> str:
        return "obstore" if self.headers.get("user-agent", "").startswith("object_store") else "boto3"


@dataclass(kw_only=True)
class _Answer:
    status: int
    body: bytes
    headers: Mapping[str, str]
    client: str | None


@dataclass(eq=False)
class S3Gateway:
    """Passes requests on to `target` over HTTP, as they are: signatures hold, because the Host does not change."""

    target: str
    asked: list[Asked] = field(default_factory=list)
    left_out: set[str] = field(default_factory=set)  # headers that are not passed on
    _answers: dict[str, _Answer] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"serves": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def answer(
        self, status: int, body: bytes = b"", *, of: str = "GetObject", client: str | None = None, **headers: str
    ) -> None:
        """Give this answer from now on, to one of the clients or to both."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._answers[of] = _Answer(status=status, body=body, headers=named, client=client)

    def pass_on(self) -> None:
        """Give no answers of its own any more."""
        self._answers.clear()

    def clients(self, operation: str = "GetObject") -> list[str]:
        """Which client asked, request by request."""
        return [asked.client for asked in self.asked if asked.operation == operation]

    def respond(self, asked: Asked) -> _Answer | None:
        self.asked.append(asked)
        found = self._answers.get(asked.operation)
        return found if found is not None and found.client in (None, asked.client) else None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    serves: S3Gateway

    def log_message(self, format: str, *args: Any) -> None: ...

    def do_GET(self) -> None:
        self._serve("ListObjectsV2" if "list-type=2" in self.path else "GetObject")

    def do_PUT(self) -> None:
        self._serve("PutObject")

    def do_HEAD(self) -> None:
        self._serve("HeadBucket")

    def _serve(self, operation: str) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        own = self.serves.respond(Asked(operation=operation, path=self.path.partition("?")[0], headers=headers))
        if own is not None:
            self._send(own.status, own.headers, own.body)
        else:
            self._send(*self._passed_on(sent, headers))

    def _passed_on(self, sent: bytes, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        kept = {name: value for name, value in headers.items() if name not in NOT_PASSED_ON | self.serves.left_out}
        connection = http.client.HTTPConnection(urlsplit(self.serves.target).netloc, timeout=30)
        try:
            connection.request(self.command, self.path, body=sent or None, headers=kept)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def _send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in NOT_PASSED_ON | {"content-length"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
