"""A private Redis or Valkey with the durability that docker/compose.yaml asks of the production one."""

import shutil
from typing import Literal

import redis

from .errors import ServiceMissingError
from .process import Service


class RedisServer(Service):
    """Append-only file on, nothing evicted, no snapshots.

    `appendfsync="always"` makes every acknowledged write survive `kill()`; "everysec" is the usual setting.
    """

    def __init__(
        self,
        *,
        port: int | None = None,
        password: str | None = None,
        appendfsync: Literal["always", "everysec", "no"] = "everysec",
    ) -> None:
        self.program = _find_program()
        super().__init__(port=port)
        self.password = password
        self.appendfsync = appendfsync

    @property
    def url(self) -> str:
        """redis://[:password@]127.0.0.1:port/0"""
        secret = f":{self.password}@" if self.password else ""
        return f"redis://{secret}127.0.0.1:{self.port}/0"

    def prepare(self) -> None:
        """A file and not arguments, so that the password is not in the process list."""
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f'dir "{self.directory}"',
            'save ""',
            "appendonly yes",
            f"appendfsync {self.appendfsync}",
            "maxmemory-policy noeviction",
        ]
        if self.password:
            lines.append(f"requirepass {self.password}")
        path = self.directory / "server.conf"
        path.write_text("\n".join(lines) + "\n")
        path.chmod(0o600)

    def command(self) -> list[str]:
        return [self.program, str(self.directory / "server.conf")]

    def answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):  # refused, or still loading its file
            return False

    def client(self) -> redis.Redis:
        """A connection of the caller's own: `with server.client() as client:`."""
        return redis.Redis.from_url(self.url, socket_timeout=10, decode_responses=True)

    def flush(self) -> None:
        """Empty all databases."""
        with self.client() as client:
            client.flushall()


def _find_program() -> str:
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        raise ServiceMissingError("redis-server is not installed (Debian: apt-get install redis-server)")
    return program
