"""The servers that integration tests trust: data outlive kill -9, pauses are felt, nothing is left over."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
from botocore.exceptions import ClientError
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.services import Bucket, PostgresServer, RedisServer, S3Server, SeaweedServer, ServiceFailedError


def test_redis_keeps_acknowledged_writes_over_kill_9(own_redis: RedisServer) -> None:
    port = own_redis.port
    with own_redis.client() as client:
        for number in range(500):
            client.rpush("list", number)
    own_redis.kill()
    assert not own_redis.running
    own_redis.start()
    assert own_redis.port == port
    with own_redis.client() as client:
        assert client.llen("list") == 500


def test_redis_evicts_nothing_and_asks_for_its_password() -> None:
    with RedisServer(password="secret") as server:
        with server.client() as client:
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert client.config_get("appendonly") == {"appendonly": "yes"}
        with (
            redis.Redis(host="127.0.0.1", port=server.port) as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.ping()


def test_paused_redis_holds_connections_and_answers_after_resume(own_redis: RedisServer) -> None:
    own_redis.pause()
    no_retry = Retry(NoBackoff(), 0)
    with (
        redis.Redis(host="127.0.0.1", port=own_redis.port, socket_timeout=0.2, retry=no_retry) as client,
        pytest.raises(redis.TimeoutError),
    ):
        client.ping()
    own_redis.resume()
    with own_redis.client() as client:
        assert client.ping()


def test_postgres_keeps_committed_rows_over_kill_9(own_postgres: PostgresServer) -> None:
    name = own_postgres.fresh_database().rpartition("/")[2]
    with own_postgres.connect(name) as connection:
        connection.execute("CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
        own_postgres.kill()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    own_postgres.start()
    with own_postgres.connect(name) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (1000,)


def test_stop_closes_open_connections_and_start_goes_on(own_postgres: PostgresServer) -> None:
    with own_postgres.connect() as connection:
        own_postgres.stop()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    assert own_postgres.start().running


def test_databases_of_two_tests_are_apart(postgres_server: PostgresServer, pg_url: str) -> None:
    other = postgres_server.fresh_database()
    with postgres_server.connect(other.rpartition("/")[2]) as connection:
        connection.execute("CREATE TABLE here (n int)")
    with postgres_server.connect(pg_url.rpartition("/")[2]) as connection:
        assert connection.execute("SELECT to_regclass('here')").fetchone() == (None,)
    postgres_server.drop_database(other)


def test_bucket_takes_objects_with_odd_names(s3_bucket: Bucket) -> None:
    uri = s3_bucket.put("a folder/naïve 画像.png", b"bytes")
    assert uri == f"s3://{s3_bucket.name}/a folder/naïve 画像.png"
    body = s3_bucket.client.get_object(Bucket=s3_bucket.name, Key="a folder/naïve 画像.png")["Body"]
    with body:
        assert body.read() == b"bytes"


def test_killed_s3_server_comes_back_empty_on_the_same_port(own_s3: S3Server) -> None:
    bucket = own_s3.make_bucket("gone")
    url = own_s3.url
    own_s3.kill()
    own_s3.start()
    assert own_s3.url == url
    with pytest.raises(ClientError, match="NoSuchBucket"):
        bucket.client.list_objects_v2(Bucket="gone")
    bucket.client.close()


def test_seaweed_listens_on_this_machine_only_and_keeps_nothing(seaweed_server: SeaweedServer) -> None:
    own = psutil.Process(seaweed_server.pid).net_connections(kind="tcp")
    listening = [found.laddr for found in own if found.status == psutil.CONN_LISTEN]
    assert {address.ip for address in listening} == {"127.0.0.1"}
    with SeaweedServer() as other:  # beside the first: no port is a fixed one
        assert other.port != seaweed_server.port
        ports = [found.laddr.port for found in psutil.Process(other.pid).net_connections(kind="tcp")]
    assert not other.directory.exists()
    assert not [path for port in ports for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock")]


def test_a_service_that_cannot_start_says_why(own_redis: RedisServer) -> None:
    with (
        pytest.raises(ServiceFailedError, match=r"(?i)address already in use"),
        RedisServer(port=own_redis.port),
    ):
        pass


def test_closing_removes_process_and_directory() -> None:
    with RedisServer() as server:
        pid, directory = server.pid, server.directory
    assert not psutil.pid_exists(pid)
    assert not directory.exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
@pytest.mark.parametrize("kind", ["RedisServer", "PostgresServer", "S3Server", "SeaweedServer"])
def test_a_killed_test_run_leaves_no_server_behind(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    name = kind.removesuffix("Server").lower()
    request.getfixturevalue(f"{name}_server")
    program = f"""
        import sys
        from tests.services import {kind}
        with {kind}() as server:
            print(server.pid, server.directory, flush=True)
            sys.stdin.read()
    """
    run = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": "/tmp"},
    )
    with run:
        assert run.stdout is not None
        pid, directory = run.stdout.readline().split()
        server = psutil.Process(int(pid))
        run.send_signal(signal.SIGKILL)
        run.wait(20)
    assert _ended(server)
    subprocess.run(["rm", "-rf", directory], check=True)


def _ended(process: psutil.Process) -> bool:
    """Wait at most 20 s; a zombie has ended too, where process 1 reaps no orphans."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False
