"""A private Redis or Valkey with the durability that docker/compose.yaml asks of the production one."""

import shutil
from typing import Literal
from urllib.parse import quote

import redis

from .certificates import Identity
from .errors import ServiceMissingError
from .process import Service


class RedisServer(Service):
    """Append-only file on, nothing evicted, no snapshots.

    `appendfsync="always"` makes every acknowledged write survive `kill()`; "everysec" is the usual setting.
    `tls`: the port speaks TLS only; `ask_clients`: and only with those that show a certificate of the same authority.
    """

    def __init__(
        self,
        *,
        port: int | None = None,
        password: str | None = None,
        appendfsync: Literal["always", "everysec", "no"] = "everysec",
        tls: Identity | None = None,
        ask_clients: bool = False,
    ) -> None:
        self.program = _find_program()
        super().__init__(port=port)
        self.password = password
        self.appendfsync = appendfsync
        self.tls = tls
        self.ask_clients = ask_clients

    @property
    def url(self) -> str:
        """redis[s]://[:password@]127.0.0.1:port/0"""
        secret = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"{'rediss' if self.tls else 'redis'}://{secret}127.0.0.1:{self.port}/0"

    def prepare(self) -> None:
        """A file and not arguments, so that the password is not in the process list."""
        lines = [
            *self._listening(),
            "bind 127.0.0.1",
            f'dir "{self.directory}"',
            'save ""',
            "appendonly yes",
            f"appendfsync {self.appendfsync}",
            "maxmemory-policy noeviction",
        ]
        if self.password:
            lines.append(f'requirepass "{self.password}"')
        path = self.directory / "server.conf"
        path.write_text("\n".join(lines) + "\n")
        path.chmod(0o600)

    def _listening(self) -> list[str]:
        if self.tls is None:
            return [f"port {self.port}"]
        return [
            "port 0",
            f"tls-port {self.port}",
            f'tls-cert-file "{self.tls.certificate}"',
            f'tls-key-file "{self.tls.key}"',
            f'tls-ca-cert-file "{self.tls.authority}"',
            f"tls-auth-clients {'yes' if self.ask_clients else 'no'}",
        ]

    def command(self) -> list[str]:
        return [self.program, str(self.directory / "server.conf")]

    def answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):  # refused, or still loading its file
            return False

    def client(self) -> redis.Redis:
        """A new connection for the caller: `with server.client() as client:`."""
        if self.tls is None:
            return redis.Redis.from_url(self.url, socket_timeout=10, decode_responses=True)
        # The server's own certificate serves as the client's too; its name is not tested here.
        files = {"ssl_certfile": self.tls.certificate, "ssl_keyfile": self.tls.key, "ssl_ca_certs": self.tls.authority}
        return redis.Redis.from_url(
            self.url, socket_timeout=10, decode_responses=True, ssl_check_hostname=False, **files
        )

    def flush(self) -> None:
        """Empty all databases."""
        with self.client() as client:
            client.flushall()


def _find_program() -> str:
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        raise ServiceMissingError("redis-server is not installed (Debian: apt-get install redis-server)")
    return program
