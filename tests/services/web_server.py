"""An HTTPS server whose answers a test writes itself."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

import trustme

from tests.services.certificates import identity

Headers = dict[str, str]


@dataclass(kw_only=True)
class Answer:
    """length: what Content-Length says; None: of the body; -1: no such header. drip: writes the body itself."""

    status: int = 200
    body: bytes = b""
    headers: Headers = field(default_factory=dict)
    length: int | None = None
    drip: Callable[[BaseHTTPRequestHandler], None] | None = None


class WebServer:
    """Serves `answers` by path; others are 404. `requests`: method and path of each.

    ca_file: who signed the certificate, which is that of `localhost`.
    """

    def __init__(self, folder: Path, *, name: str = "localhost") -> None:
        files = identity(folder, name, authority=trustme.CA())
        self.ca_file = files.authority
        self.answers: dict[str, Answer] = {}
        self.requests: list[tuple[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.requests.append((self.command, self.path))
                answer = outer.answers.get(self.path, Answer(status=404))
                self.send_response(answer.status)
                for header, value in answer.headers.items():
                    self.send_header(header, value)
                length = len(answer.body) if answer.length is None else answer.length
                if length >= 0:
                    self.send_header("Content-Length", str(length))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(answer.body)
                    if answer.drip is not None:
                        answer.drip(self)
                self.close_connection = self.close_connection or length != len(answer.body)

            def do_HEAD(self) -> None:
                self.do_GET()

            def log_message(self, *_: object) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                """The reader closed the connection, as tests of limits have it."""

        self._server = Server(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.certificate, files.key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def host(self) -> str:
        return f"localhost:{self._server.server_address[1]}"

    def uri(self, path: str) -> str:
        return f"https://{self.host}{path}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
