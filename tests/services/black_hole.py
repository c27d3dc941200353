"""A TCP proxy whose connections can go silent: open, never answered, as behind a dead firewall or switch."""

import selectors
import socket
import threading
from types import TracebackType
from typing import Self


class Proxy:
    """127.0.0.1:port -> 127.0.0.1:target. `swallow` silences the connections of this moment; new ones work."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._peers: dict[socket.socket, socket.socket] = {}
        self._silent: list[socket.socket] = []
        self._wake_read, self._wake_write = socket.socketpair()
        self._open = True
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        self._wake_write.send(b".")
        self._thread.join()
        sockets = [self._listener, self._wake_read, self._wake_write, *self._peers, *self._silent]
        for each in sockets:
            each.close()
        self._selector.close()

    def swallow(self) -> int:
        """Silence the open connections from now on. Returns their number."""
        with self._lock:
            for each in self._peers:
                self._selector.unregister(each)
            n = len(self._peers) // 2
            self._silent.extend(self._peers)
            self._peers.clear()
            return n

    def _loop(self) -> None:
        while self._open:
            ready = self._selector.select()
            with self._lock:
                for key, _ in ready:
                    self._serve(key.fileobj)  # type: ignore[arg-type]

    def _serve(self, ready: socket.socket) -> None:
        if ready is self._listener:
            client, _ = self._listener.accept()
            try:
                server = socket.create_connection(("127.0.0.1", self._target), timeout=5)
            except OSError:
                client.close()
                return
            for one, other in ((client, server), (server, client)):
                self._peers[one] = other
                self._selector.register(one, selectors.EVENT_READ)
        elif ready in self._peers:
            self._forward(ready)

    def _forward(self, source: socket.socket) -> None:
        try:
            data = source.recv(65536)
            if data:
                self._peers[source].sendall(data)
        except OSError:
            data = b""
        if not data:
            for each in (source, self._peers[source]):
                self._selector.unregister(each)
                del self._peers[each]
                each.close()
