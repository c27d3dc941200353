"""TCP proxies between workers and servers that misbehave on request. They never change a byte they pass.

All proxies of a run share one thread. A connection that was silenced stays silent, as after a firewall forgot it: the
client's packets vanish, and the server gives the connection up after SERVER_GIVES_UP_SECONDS.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, cast

Mode = Literal["pass", "refuse", "slow", "truncate", "swallow"]
T = TypeVar("T")

SLOW_SECONDS = 0.4  # that every piece of data is held back in the mode "slow"
SERVER_GIVES_UP_SECONDS = 20.0
REFUSAL = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
HEAD_END = b"\r\n\r\n"
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER of zero seconds: RST instead of FIN


class Proxies:
    """The thread and its loop: `with Proxies() as proxies: proxy = proxies.add(target_port)`."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._all: list[Proxy] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for proxy in self._all:
            proxy.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def add(self, target: int) -> Proxy:
        """A proxy on a port of its own, to 127.0.0.1:target."""
        proxy = Proxy(self._loop, target)
        self._all.append(proxy)
        return proxy


class Proxy:
    """127.0.0.1:port -> 127.0.0.1:target. Any thread may make it misbehave.

    mode: pass; refuse (HTTP 503 to every request); slow; truncate (half of the body of every HTTP answer, then the
    end); swallow (nothing passes, new connections included).
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, target: int) -> None:
        self.loop = loop
        self.target = target
        self.mode: Mode = "pass"
        self.links: set[Link] = set()
        self._server = self._wait(loop.create_server(lambda: Link(self).client, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def cut(self) -> int:
        """Reset every open connection, both ways. Returns how many there were."""
        return self._on_heard(Link.reset)

    def silence(self) -> int:
        """Nothing passes any more on the connections that are open. Returns how many there were."""
        return self._on_heard(Link.silence)

    def close(self) -> None:
        async def run() -> None:
            self._server.close()
            for link in list(self.links):
                link.reset()
            while self.links:
                await asyncio.sleep(0)

        self._wait(run())

    def _on_heard(self, call: Callable[[Link], None]) -> int:
        async def run() -> int:
            links = [link for link in self.links if not link.silent]
            for link in links:
                call(link)
            return len(links)

        return self._wait(run())

    def _wait(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self.loop).result(10)


class Link:
    """One connection through a proxy: an end towards the client and one towards the server."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self.client = End(self._upward, self._opened, self._ended)
        self.server = End(self._downward, lambda: None, self._ended)
        self.silent = False
        self._in_body = False  # of an HTTP answer; only kept in the mode "truncate"
        self._opening: asyncio.Task[None] | None = None

    def reset(self) -> None:
        for end in (self.client, self.server):
            end.reset()

    def silence(self) -> None:
        self.silent = True
        self._proxy.loop.call_later(SERVER_GIVES_UP_SECONDS, self.server.reset)

    def _opened(self) -> None:
        self._proxy.links.add(self)
        self.client.pause()
        self._opening = self._proxy.loop.create_task(self._open())

    async def _open(self) -> None:
        try:
            await self._proxy.loop.create_connection(lambda: self.server, "127.0.0.1", self._proxy.target)
        except OSError:  # the server is down
            self.server.ended = True
            self.client.reset()
            self._ended()
            return
        self.client.other, self.server.other = self.server, self.client
        if self._proxy.mode == "swallow":
            self.silence()
        if self.client.ended:
            self.server.close()
        self.client.resume()

    def _upward(self, data: bytes) -> None:
        if self._proxy.mode == "swallow" and not self.silent:
            self.silence()
        if self.silent:
            return
        if self._proxy.mode == "refuse":
            self.client.write(REFUSAL)
            self.client.close()
            return
        self._pass(self.server, data)

    def _downward(self, data: bytes) -> None:
        if self.silent or self._proxy.mode == "swallow":
            return
        if self._proxy.mode == "truncate":
            self._shorten(data)
            return
        self._in_body = False
        self._pass(self.client, data)

    def _pass(self, to: End, data: bytes) -> None:
        if self._proxy.mode == "slow":
            self._proxy.loop.call_later(SLOW_SECONDS, to.write, data)
        else:
            to.write(data)

    def _shorten(self, data: bytes) -> None:
        start = 0 if self._in_body else data.find(HEAD_END) + len(HEAD_END)
        self._in_body = True
        body = data[start:]
        self.client.write(data[:start] + body[: len(body) // 2])
        if body:
            self.client.close()

    def _ended(self) -> None:
        if not self.silent:
            delay = SLOW_SECONDS if self._proxy.mode == "slow" else 0.0  # not before the data that is held back
            for end in (self.client, self.server):
                self._proxy.loop.call_later(delay, end.close)
        if self.client.ended and self.server.ended:
            self._proxy.links.discard(self)


class End(asyncio.Protocol):
    """One socket of a link. Reads no faster than the other end writes."""

    def __init__(
        self, received: Callable[[bytes], None], opened: Callable[[], None], ended: Callable[[], None]
    ) -> None:
        self._received = received
        self._opened = opened
        self._ended = ended
        self._transport: asyncio.Transport | None = None
        self.ended = False
        self.other: End | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._opened()

    def data_received(self, data: bytes) -> None:
        self._received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        self._ended()

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.pause()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.resume()

    def pause(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        raw = self._transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._transport.abort()
