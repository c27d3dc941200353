"""TLS and passwords against real servers: the right certificate connects, every other one is refused in one line."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import trustme
from structlog.testing import capture_logs

from scanfleet.config.diagnosis import check_broker, warn_of_open_connections
from scanfleet.config.settings import Settings, load_settings
from scanfleet.db.engine import connect, reading
from scanfleet.db.schema import connect_at_start
from scanfleet.errors import BadSettings, BrokerUnavailable, DatabaseUnavailable
from scanfleet.producer.scans.session import open_session
from scanfleet.queue.app import make_app, notify
from tests.conftest import serve
from tests.helpers.cli_process import scanfleet
from tests.services import PostgresServer, RedisServer
from tests.services.certificates import Identity, identity

PASSWORD = "p@ss/w%rd:recognisable"
ENCODED = "p%40ss%2Fw%25rd%3Arecognisable"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def right(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return identity(tmp_path_factory.mktemp("right"), "127.0.0.1", authority=authority)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    """The same name, signed by an authority that nobody trusts."""
    return identity(tmp_path_factory.mktemp("stranger"), "127.0.0.1", authority=trustme.CA())


@pytest.fixture(scope="module")
def tls_redis(right: Identity) -> Iterator[RedisServer]:
    yield from serve(lambda: RedisServer(password=PASSWORD, tls=right))


@pytest.fixture(scope="module")
def tls_postgres(right: Identity) -> Iterator[PostgresServer]:
    yield from serve(lambda: PostgresServer(tls=right))


def broker(tmp_path: Path, url: str, ca: Identity | None = None, **more: Any) -> Settings:
    files = {} if ca is None else {"broker_ca_file": ca.authority}
    return load_settings(data_dir=tmp_path, broker_url=url, **files, **more)


def refusal(settings: Settings, *kinds: type[Exception]) -> str:
    with make_app(settings) as app, pytest.raises(kinds) as caught:
        check_broker(app)
    words = str(caught.value)
    assert "\n" not in words
    assert "recognisable" not in words
    return words


def test_a_notification_goes_over_tls_with_a_private_authority(
    tmp_path: Path, tls_redis: RedisServer, right: Identity
) -> None:
    assert ENCODED in tls_redis.url
    settings = broker(tmp_path, tls_redis.url, right)
    with make_app(settings, ("score.fake",)) as app:
        check_broker(app)
        notify(app, queue="score.fake", batch_id=7)
    with tls_redis.client() as client:
        assert client.llen("scanfleet:score.fake") == 1


def test_a_broker_whose_certificate_no_trusted_authority_signed_is_refused(
    tmp_path: Path, tls_redis: RedisServer, stranger: Identity
) -> None:
    for ca in (None, stranger):
        assert "broker_ca_file" in refusal(broker(tmp_path, tls_redis.url, ca), BadSettings)


def test_a_broker_with_another_name_in_its_certificate_is_refused(
    tmp_path: Path, tls_redis: RedisServer, right: Identity
) -> None:
    url = tls_redis.url.replace("127.0.0.1", "localhost")
    assert "its certificate is for another host" in refusal(broker(tmp_path, url, right), BadSettings)


@pytest.mark.parametrize("password", ["wrong-recognisable", None])
def test_a_broker_that_refuses_the_password_is_named(
    tmp_path: Path, tls_redis: RedisServer, right: Identity, password: str | None
) -> None:
    secret = "" if password is None else f":{password}@"
    url = f"rediss://{secret}127.0.0.1:{tls_redis.port}/0"
    assert "broker_url" in refusal(broker(tmp_path, url, right), BadSettings)


def test_a_command_that_would_ring_is_refused_at_its_start(
    tmp_path: Path, tls_redis: RedisServer, right: Identity
) -> None:
    settings = broker(tmp_path, f"rediss://:wrong@127.0.0.1:{tls_redis.port}/0", right)
    with pytest.raises(BadSettings, match="broker_url"), open_session(settings):
        pass
    away = broker(tmp_path, "redis://127.0.0.1:1/0")
    with open_session(away):  # one that is only away is no reason not to list
        pass


def test_a_plain_connection_to_a_tls_port_says_how_to_encrypt(tmp_path: Path, tls_redis: RedisServer) -> None:
    url = tls_redis.url.replace("rediss:", "redis:")
    assert "write rediss://" in refusal(broker(tmp_path, url), BrokerUnavailable)


def test_a_server_that_asks_for_our_certificate_gets_it(tmp_path: Path, right: Identity) -> None:
    ours = {"broker_cert_file": right.certificate, "broker_key_file": right.key}
    for server in serve(lambda: RedisServer(tls=right, ask_clients=True)):
        with make_app(broker(tmp_path, server.url, right, **ours)) as app:
            check_broker(app)
        # Whether the alert is read or the connection has ended by then is a race.
        without = broker(tmp_path, server.url, right)
        assert "broker_cert_file" in refusal(without, BadSettings, BrokerUnavailable)


def database(tmp_path: Path, server: PostgresServer, **more: Any) -> Settings:
    url = server.url("postgres")
    for old, new in more.pop("replaced", {}).items():
        url = url.replace(old, new)
    return load_settings(data_dir=tmp_path, database_url=url, **more)


def is_encrypted(settings: Settings) -> bool:
    with connect_at_start(settings) as engine, reading(engine) as connection:
        query = sa.text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        return bool(connection.execute(query).scalar_one())


def test_the_database_is_reached_over_tls(tmp_path: Path, tls_postgres: PostgresServer, right: Identity) -> None:
    assert is_encrypted(database(tmp_path, tls_postgres, database_ca_file=right.authority))
    in_the_url = {"/postgres": f"/postgres?sslmode=verify-full&sslrootcert={right.authority}"}
    assert is_encrypted(database(tmp_path, tls_postgres, replaced=in_the_url))


@pytest.mark.parametrize("fault", ["authority", "name", "password", "database"])
def test_a_database_that_cannot_be_trusted_or_refuses_us_is_a_wrong_setting(
    tmp_path: Path, tls_postgres: PostgresServer, right: Identity, stranger: Identity, fault: str
) -> None:
    ca = stranger if fault == "authority" else right
    replaced = {
        "name": {"127.0.0.1": "localhost"},
        "password": {tls_postgres.password: "wrong-recognisable"},
        "database": {"/postgres": "/no_such_database"},
    }
    settings = database(tmp_path, tls_postgres, database_ca_file=ca.authority, replaced=replaced.get(fault, {}))
    with pytest.raises(BadSettings, match=r"database_ca_file|database_url") as caught, connect_at_start(settings):
        pass
    assert "\n" not in str(caught.value)
    assert "recognisable" not in str(caught.value)
    # Once it runs, a process waits instead: passwords and certificates get corrected meanwhile.
    engine = connect(settings)
    with pytest.raises(DatabaseUnavailable), reading(engine):
        pass
    engine.dispose()


def test_a_database_without_tls_is_refused_where_tls_is_asked_for(
    tmp_path: Path, postgres_server: PostgresServer, right: Identity
) -> None:
    settings = database(tmp_path, postgres_server, database_ca_file=right.authority)
    with pytest.raises(BadSettings, match="switch TLS on"), connect_at_start(settings):
        pass


@pytest.mark.slow
def test_the_commands_say_it_in_one_line(tmp_path: Path, tls_postgres: PostgresServer, tls_redis: RedisServer) -> None:
    def lines(answer: subprocess.CompletedProcess[str], code: int) -> list[str]:
        assert answer.returncode == code, answer.stderr
        assert "recognisable" not in answer.stdout + answer.stderr
        return answer.stderr.splitlines()

    url = tls_postgres.url("postgres").replace(tls_postgres.password, "wrong-recognisable")
    (line,) = lines(scanfleet("db", "check", data_dir=tmp_path, database_url=url), 10)
    assert "set the right user and password" in line
    worker = scanfleet("worker", "score", data_dir=tmp_path, broker_url=tls_redis.url, model="fake")
    assert "broker_ca_file" in lines(worker, 10)[-1]


@pytest.mark.parametrize(
    ("urls", "words"),
    [
        ({"broker_url": "redis://queue/0"}, "rediss://"),
        ({"database_url": "postgresql://u:pw@db/x"}, "encryption is left to the server"),
        ({"database_url": "postgresql://u:pw@db/x?sslmode=require"}, "its certificate is not checked"),
        ({"broker_url": "rediss://queue/0", "database_url": "postgresql://db/x?sslmode=verify-full"}, None),
        ({"broker_url": "redis://127.0.0.1/0", "database_url": "postgresql://u@localhost/x"}, None),
        ({}, None),
    ],
)
def test_an_open_connection_to_another_machine_is_warned_of(
    tmp_path: Path, urls: dict[str, str], words: str | None
) -> None:
    with capture_logs() as logs:
        warn_of_open_connections(load_settings(data_dir=tmp_path, **urls))
    assert [entry["event"] for entry in logs] == ([] if words is None else ["connection_unencrypted"])
    if words is not None:
        assert words in logs[0]["reason"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"broker_url": "rediss://:recognisable@h/0?ssl_cert_reqs=none"}, "broker_ca_file"),
        ({"broker_url": "redis://:pa/ss#recognisable@h/0"}, "%2F"),
        ({"database_url": "postgresql://u:1/2recognisable@h/x"}, "%2F"),
        ({"broker_ca_file": "/nowhere/ca.pem"}, "cannot read"),
        ({"broker_cert_file": __file__}, "belong together"),
        ({"database_ca_file": __file__, "database_url": "postgresql://h/x?sslmode=require"}, "one place"),
        ({"database_ca_file": __file__, "database_url": "sqlite:///x.db"}, "only postgresql"),
    ],
)
def test_settings_that_would_weaken_or_confuse_are_refused(
    tmp_path: Path, settings: dict[str, str], words: str
) -> None:
    with pytest.raises(BadSettings, match=words) as caught:
        load_settings(data_dir=tmp_path, **settings)
    assert "recognisable" not in str(caught.value)
