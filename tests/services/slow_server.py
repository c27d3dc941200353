"""An HTTP server that sends every body one byte at a time: it is never silent, and no response ends for a long time."""

import socket
import threading
from types import TracebackType
from typing import Self

N_BYTES = 400  # sent one by one; then the connection closes, so that a test without a deadline fails instead of hanging
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\nContent-Type: image/png\r\nETag: x\r\n"
    b"Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\n\r\n"
)


class DrippingServer:
    """Sends the headers at once, then a byte every `every_seconds`."""

    def __init__(self, *, every_seconds: float) -> None:
        self._every = every_seconds
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self.n_requests = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._drip, args=(client,), daemon=True).start()

    def _drip(self, client: socket.socket) -> None:
        with client:
            if not client.recv(65536):
                return  # the client closed the connection without a request
            self.n_requests += 1
            try:
                client.sendall(HEAD)
                for _ in range(N_BYTES):
                    client.sendall(b"x")
                    if self._ended.wait(self._every):
                        return
            except OSError:
                return  # the reader closed the connection
