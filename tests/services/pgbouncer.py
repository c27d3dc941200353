"""pgbouncer in transaction mode before a PostgreSQL: each transaction may run in another session."""

import os
import shutil

import psycopg
from sqlalchemy.engine import make_url

from .errors import ServiceMissingError
from .postgres import SUPERUSER, PostgresServer, owner_of_postgres
from .process import Service

SESSIONS = 3  # to each database: fewer than its clients have connections, so that they share them


class PgBouncer(Service):
    """A pooler of `server`. It keeps its default list of startup parameters, and refuses all others."""

    def __init__(self, server: PostgresServer) -> None:
        self.program = find_program()
        super().__init__()
        self.server = server

    def owner(self) -> tuple[int, int] | None:
        """As PostgreSQL, pgbouncer refuses to run as root."""
        return owner_of_postgres()

    def prepare(self) -> None:
        users = self.directory / "users.txt"
        users.write_text(f'"{SUPERUSER}" "{self.server.password}"\n')
        lines = [
            "[databases]",
            f"* = host=127.0.0.1 port={self.server.port}",
            "[pgbouncer]",
            "listen_addr = 127.0.0.1",
            f"listen_port = {self.port}",
            "unix_socket_dir =",
            "auth_type = scram-sha-256",
            f"auth_file = {users}",
            "pool_mode = transaction",
            f"default_pool_size = {SESSIONS}",
        ]
        config = self.directory / "pgbouncer.ini"
        config.write_text("\n".join(lines) + "\n")
        if ids := self.owner():
            for path in (self.directory, users, config):
                os.chown(path, *ids)

    def command(self) -> list[str]:
        return [self.program, str(self.directory / "pgbouncer.ini")]

    def answers(self) -> bool:
        try:
            with psycopg.connect(self._plain("postgres"), connect_timeout=10):
                return True
        except psycopg.OperationalError:
            return False

    def connect(self, database_url: str) -> psycopg.Connection:
        """Connect as another client of the pooler, in autocommit, to the database of a SQLAlchemy address."""
        name = make_url(database_url).database or ""
        return psycopg.connect(self._plain(name), autocommit=True, prepare_threshold=None)

    def pooled(self, database_url: str) -> str:
        """The SQLAlchemy address of a database of the server, by way of the pooler."""
        return make_url(database_url).set(port=self.port).render_as_string(hide_password=False)

    def _plain(self, database: str) -> str:
        return f"postgresql://{SUPERUSER}:{self.server.password}@127.0.0.1:{self.port}/{database}"


def find_program() -> str:
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise ServiceMissingError("pgbouncer is not installed (Debian: apt-get install pgbouncer)")
    return program
