"""The tools of the chaos runs: a proxy that misbehaves as told, and a reckoning that names every kind of error."""

import http.client
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from tests.chaos.archive import Answer, make_archive
from tests.chaos.audit import Found, faults_of
from tests.chaos.faults import FAULTS
from tests.chaos.fleet.proxy import SLOW_SECONDS, Proxies, Proxy
from tests.chaos.fleet.sabotage import PARTS
from tests.chaos.options import CONTROLS, KINDS, Options

BODY = b"x" * 1000
GOOD = Answer(label="none", decision="clear", margin=-1.0, sha256="a" * 64)
CUT = Answer(stage="decode", reason="truncated")
LETHAL = Answer(stage="process", reason="kills_the_worker")


class Pages(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server, Proxies() as proxies:
        Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True).start()
        yield proxies.add(server.server_port)
        server.shutdown()


@pytest.fixture
def client(proxy: Proxy) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=2 * SLOW_SECONDS + 1)
    yield connection
    connection.close()


def get(client: http.client.HTTPConnection) -> tuple[int, bytes]:
    client.request("GET", "/")
    answer = client.getresponse()
    return answer.status, answer.read()


def first_byte(port: int) -> bytes:
    with socket.socket() as client:
        client.connect(("127.0.0.1", port))
        return client.recv(1)


def test_a_proxy_passes_what_it_is_given(client: http.client.HTTPConnection) -> None:
    assert get(client) == (200, BODY)


def test_refused_requests_are_told_so_and_later_ones_pass(proxy: Proxy, client: http.client.HTTPConnection) -> None:
    proxy.mode = "refuse"
    assert get(client) == (503, b"")
    proxy.mode = "pass"
    assert get(client) == (200, BODY)


def test_a_truncated_answer_ends_in_mid_body(proxy: Proxy, client: http.client.HTTPConnection) -> None:
    proxy.mode = "truncate"
    with pytest.raises(http.client.IncompleteRead) as raised:
        get(client)
    assert 0 < len(raised.value.partial) < len(BODY)


def test_a_cut_connection_is_reset(proxy: Proxy, client: http.client.HTTPConnection) -> None:
    assert get(client) == (200, BODY)
    assert proxy.cut() == 1
    assert client.sock is not None
    with pytest.raises(ConnectionResetError):
        client.sock.recv(1)


def test_a_silent_connection_stays_silent_and_a_new_one_works(proxy: Proxy, client: http.client.HTTPConnection) -> None:
    assert get(client) == (200, BODY)
    assert proxy.silence() == 1
    with pytest.raises(TimeoutError):
        get(client)
    client.close()
    assert get(client) == (200, BODY)


def test_a_server_that_is_down_is_a_reset(proxy: Proxy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        proxy.target = nobody.getsockname()[1]
    with pytest.raises(ConnectionResetError):
        first_byte(proxy.port)


@pytest.mark.parametrize(
    ("expected", "answer", "fault"),
    [
        (GOOD, None, "lost"),
        (GOOD, CUT, "transient_errors_as_failures"),
        (GOOD, LETHAL, "quarantined_wrongly"),
        (GOOD, Answer(label="none", decision="clear", margin=-1.1, sha256="a" * 64), "wrong_margin"),
        (GOOD, Answer(label="none", decision="clear", margin=-1.0, sha256="b" * 64), "transient_errors_as_verdicts"),
        (CUT, GOOD, "transient_errors_as_verdicts"),
        (CUT, LETHAL, "quarantined_wrongly"),
        (CUT, Answer(stage="decode", reason="empty"), "wrong_failure"),
        (LETHAL, GOOD, "poison_missed"),
        (LETHAL, CUT, "poison_missed"),
    ],
)
def test_every_wrong_answer_has_a_name(expected: Answer, answer: Answer | None, fault: str) -> None:
    assert fault in faults_of(expected, Found(image_id=1, state="any", own_scorer=True, answer=answer))


def test_the_right_answer_by_the_wrong_scorer_is_wrong() -> None:
    assert faults_of(GOOD, Found(image_id=1, state="verdict", own_scorer=False, answer=GOOD)) == ["wrong_scorer"]
    assert faults_of(GOOD, Found(image_id=1, state="verdict", own_scorer=True, answer=GOOD)) == []
    assert faults_of(CUT, Found(image_id=1, state="failed", own_scorer=False, answer=CUT)) == []


def test_a_seed_makes_one_archive_and_one_order_of_faults() -> None:
    made = [list(make_archive(images=200, seed=3, poison=2)) for _ in range(2)]
    assert made[0] == made[1]
    assert sum(item.kind == "poison" for item in made[0]) == 2
    assert made[0] != list(make_archive(images=200, seed=4, poison=2))
    plan = Options(faults=len(KINDS), seed=3).plan()
    assert sorted(plan) == sorted(KINDS)
    assert plan == Options(faults=len(plan), seed=3).plan() != Options(faults=len(plan), seed=4).plan()


def test_every_kind_and_every_control_is_there() -> None:
    assert set(FAULTS) == set(KINDS)
    assert set(PARTS) == set(CONTROLS)
