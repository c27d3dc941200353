"""An HTTP server that answers every request a byte at a time: nothing is silent, and nothing ends for a long while."""

import socket
import threading
from types import TracebackType
from typing import Self

N_BYTES = 400  # that drip; then the connection breaks, so that a test without a deadline fails instead of hanging
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\nContent-Type: image/png\r\nETag: x\r\n"
    b"Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\n\r\n"
)


class DrippingServer:
    """from_head: the headers drip as well; otherwise they come at once and the body drips."""

    def __init__(self, *, every_seconds: float, from_head: bool) -> None:
        self._every = every_seconds
        self._from_head = from_head
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
                return  # connected, and gone without a request
            self.n_requests += 1
            try:
                if not self._from_head:
                    client.sendall(HEAD)
                for byte in HEAD if self._from_head else b"x" * N_BYTES:
                    client.sendall(bytes([byte]))
                    if self._ended.wait(self._every):
                        return
            except OSError:
                return  # the reader has enough
