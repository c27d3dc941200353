"""A private PostgreSQL cluster; one fresh database per test costs about 50 ms."""

import os
import pwd
import shutil
import signal
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import psycopg
from psycopg import sql

from .certificates import Identity
from .errors import ServiceFailedError, ServiceMissingError
from .process import Service

SUPERUSER = "scanfleet"


class PostgresServer(Service):
    """The newest PostgreSQL installed here, with password authentication over 127.0.0.1.

    `durable=False` leaves fsync out: data still survive `kill()`, because the operating system lives on.
    `tls`: connections may be encrypted; the server leaves it to the client.
    `settings`: of the server, beside or instead of those here.
    """

    stop_signal = signal.SIGINT  # "fast": close the connections of clients instead of waiting for them

    def __init__(
        self,
        *,
        port: int | None = None,
        durable: bool = False,
        tls: Identity | None = None,
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.binaries = _find_binaries()
        super().__init__(port=port)
        self.durable = durable
        self.settings = settings
        self.tls = tls
        self.password = uuid.uuid4().hex
        self.data = self.directory / "data"

    def owner(self) -> tuple[int, int] | None:
        """PostgreSQL refuses to run as root."""
        return owner_of_postgres()

    def prepare(self) -> None:
        if self.data.exists():
            return
        secret = self.directory / "password"
        secret.write_text(self.password)
        owner = self.owner()
        if owner:
            os.chown(self.directory, *owner)
            os.chown(secret, *owner)
        command = [str(self.binaries / "initdb"), "-D", str(self.data), "-U", SUPERUSER, "--no-sync"]
        command += ["-A", "scram-sha-256", f"--pwfile={secret}", "-E", "UTF8", "--locale=C"]
        done = subprocess.run(
            self.launched(command),
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode:
            raise ServiceFailedError(f"initdb failed: {done.stdout}{done.stderr}")
        if self.tls:  # copies: the server must own them
            for name, source in (("server.crt", self.tls.certificate), ("server.key", self.tls.key)):
                shutil.copy(source, self.data / name)
                os.chmod(self.data / name, 0o600)
                if owner:
                    os.chown(self.data / name, *owner)

    def _encryption(self) -> dict[str, str]:
        return {"ssl": "on", "ssl_cert_file": "server.crt", "ssl_key_file": "server.key"} if self.tls else {}

    def command(self) -> list[str]:
        fsync = "on" if self.durable else "off"
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": 100,
            "shared_buffers": "32MB",
            "fsync": fsync,
            "full_page_writes": fsync,
            **self._encryption(),
            **self.settings,
        }
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        return [str(self.binaries / "postgres"), "-D", str(self.data), *options]

    def answers(self) -> bool:
        try:
            with self.connect():
                return True
        except psycopg.OperationalError:  # refused, or "the database system is starting up"
            return False

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """A superuser's connection in autocommit: `with server.connect() as connection:` closes it."""
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user=SUPERUSER,
            password=self.password,
            dbname=database,
            autocommit=True,
            connect_timeout=10,
        )

    def url(self, database: str) -> str:
        """The SQLAlchemy address of a database of this server."""
        return f"postgresql+psycopg://{SUPERUSER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def fresh_database(self, name: str = "", *, template: str = "template1") -> str:
        """Create a database, empty unless another one is copied, and return its SQLAlchemy address."""
        name = name or f"test_{uuid.uuid4().hex[:12]}"
        command = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        with self.connect() as connection:
            connection.execute(command.format(sql.Identifier(name), sql.Identifier(template)))
        return self.url(name)

    def has_database(self, name: str) -> bool:
        with self.connect() as connection:
            return connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone() is not None

    def drop_database(self, url: str) -> None:
        """Remove a database made by `fresh_database`, closing connections that are still open."""
        name = url.rpartition("/")[2]
        with self.connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def owner_of_postgres() -> tuple[int, int] | None:
    """(uid, gid) of a user that PostgreSQL agrees to run as; None: this one."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    for name in ("postgres", "nobody"):
        if name in names:
            return names[name].pw_uid, names[name].pw_gid
    raise ServiceMissingError("PostgreSQL does not run as root and there is no user postgres or nobody")


def _find_binaries() -> Path:
    """The directory that has both initdb and postgres: the newest of Debian's, pg_config's, or on PATH."""
    debian = Path("/usr/lib/postgresql")
    versions = [path for path in debian.glob("*/bin") if path.parent.name.isdigit()]
    candidates = sorted(versions, key=lambda path: int(path.parent.name), reverse=True)
    if config := shutil.which("pg_config"):
        answer = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False)
        candidates.append(Path(answer.stdout.strip()))
    if initdb := shutil.which("initdb"):
        candidates.append(Path(initdb).resolve().parent)
    for path in candidates:
        if (path / "initdb").exists() and (path / "postgres").exists():
            return path
    raise ServiceMissingError("PostgreSQL is not installed (Debian: apt-get install postgresql)")
