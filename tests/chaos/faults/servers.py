"""Servers that are killed, restarted, emptied, out of memory, or out of space on their disk."""

from __future__ import annotations

from collections.abc import Callable

from tests.chaos.faults.base import Begun, Fault, Ground, NotNow
from tests.chaos.fleet.database import bring_up
from tests.services.process import Service

DOWN_SECONDS = (0.2, 3.0)
FULL_SECONDS = (1.0, 4.0)
BEHIND = {"pooler": ("database",)}  # what a server needs to answer again: it stays up meanwhile
NO_MEMORY = "1"  # byte: Redis refuses whatever needs memory. "0" is no limit


def _server(ground: Ground, name: str) -> Service:
    services = ground.services
    servers = {"broker": services.redis, "database": services.postgres, "s3": services.s3, "pooler": services.pooler}
    server = servers[name]
    if server is None:
        raise NotNow
    return server


def kill(name: str) -> Fault:
    """SIGKILL, and a start some seconds later."""

    def begin(ground: Ground) -> Begun:
        server = _server(ground, name)
        ground.take(name, *BEHIND.get(name, ()))
        server.kill()
        return Begun(seconds=ground.rng.uniform(*DOWN_SECONDS), end=_up(ground, name))

    return begin


def restart(name: str) -> Fault:
    def begin(ground: Ground) -> Begun:
        server = _server(ground, name)
        ground.need(name)
        server.stop()
        server.start()
        return Begun()

    return begin


def full(name: str) -> Fault:
    """No byte is left on the disk of a server, for some seconds. It may end itself over that."""

    def begin(ground: Ground) -> Begun:
        server, disk = _server(ground, name), ground.services.disks[name]
        ground.take(name, f"{name} files")
        disk.fill()

        def end() -> None:
            disk.free()
            bring_up(server)
            ground.give_back(name, f"{name} files")

        return Begun(seconds=ground.rng.uniform(*FULL_SECONDS), end=end)

    return begin


def broker_flush(ground: Ground) -> Begun:
    ground.need("broker")
    ground.services.redis.flush()
    return Begun()


def broker_oom(ground: Ground) -> Begun:
    """Redis has reached its `maxmemory`, and evicts nothing."""
    ground.take("broker")
    _set_memory(ground, NO_MEMORY)

    def end() -> None:
        _set_memory(ground, "0")
        ground.give_back("broker")

    return Begun(seconds=ground.rng.uniform(*FULL_SECONDS), end=end)


def _set_memory(ground: Ground, limit: str) -> None:
    with ground.services.redis.client() as client:
        client.config_set("maxmemory", limit)


def _up(ground: Ground, name: str) -> Callable[[], None]:
    def end() -> None:
        bring_up(_server(ground, name))  # a restored database runs already
        ground.give_back(name, *BEHIND.get(name, ()))

    return end


FAULTS: dict[str, Fault] = {
    **{f"{name}_kill": kill(name) for name in ("broker", "database", "pooler", "s3")},
    **{f"{name}_restart": restart(name) for name in ("broker", "database")},
    **{f"{name}_full": full(name) for name in ("broker", "database")},
    "broker_flush": broker_flush,
    "broker_oom": broker_oom,
}
