"""Webhooks, on SQLite and PostgreSQL: sent once the scan has ended, signed, repeated, and to listed hosts alone."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from scanfleet.config.settings import Settings, load_settings
from scanfleet.config.webhook_address import webhook_address
from scanfleet.db.engine import connect, reading, transaction
from scanfleet.db.scans import scans, webhooks
from scanfleet.db.scans.webhooks import MAX_ATTEMPTS, WebhookInfo
from scanfleet.db.tables import Webhook
from scanfleet.errors import BadSettings, RequestError
from scanfleet.producer.deletion.scans import delete_scan
from scanfleet.producer.scans.webhooks import telling
from scanfleet.webhooks.delivery import deliver_due
from scanfleet.webhooks.sending import send
from tests.helpers.cli_call import scanfleet
from tests.helpers.migrated import upgrade
from tests.ledger_machine.small import Small
from tests.ledger_machine.workers import Answer
from tests.services.web_server import WebServer

SECRET = "a-secret-of-the-test"


class Receiver:
    """A plain HTTP server that keeps what it gets. status: of its answers."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.status = 204
        self.on_post: Callable[[], None] = lambda: None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.on_post()
                outer.got.append((self.path, dict(self.headers), body))
                self.send_response(outer.status)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def url(self, path: str = "/hook?token=sesame") -> str:
        return f"http://{self.host}{path}"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def settings(database_url: str, tmp_path: Path, receiver: Receiver) -> Settings:
    hosts = {"webhook_hosts": receiver.host, "webhook_private_hosts": receiver.host}
    return load_settings(database_url=database_url, data_dir=tmp_path, webhook_secret=SECRET, **hosts)


@pytest.fixture
def small(settings: Settings) -> Iterator[Small]:
    engine = connect(settings)
    upgrade(engine)
    yield Small(engine, n_images=3, batch_images=3)
    engine.dispose()


def ask(small: Small, url: str) -> None:
    with transaction(small.engine) as connection:
        webhooks.ask(connection, small.scan_id, url)


def hooks(small: Small) -> list[WebhookInfo]:
    with reading(small.engine) as connection:
        return webhooks.webhooks_of(connection, small.scan_id)


def end(small: Small) -> None:
    small.write(small.must_claim(), [Answer.CLEAR, Answer.BROKEN, Answer.CLEAR])


def later(small: Small, **by: float) -> None:
    with transaction(small.engine) as connection:
        moved = sa.update(Webhook).values(not_before=datetime.now(UTC) - timedelta(**(by or {"seconds": 1})))
        connection.execute(moved)


def is_ours() -> Callable[[str, bytes, str], bool]:
    """The recipe of the documentation."""
    text = Path(__file__).parents[3].joinpath("docs/webhooks.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    found: Callable[[str, bytes, str], bool] = names["is_ours"]
    return found


def test_it_is_sent_once_the_scan_has_ended_and_is_signed(small: Small, settings: Settings, receiver: Receiver) -> None:
    ask(small, receiver.url())
    ask(small, receiver.url())  # the same command again
    assert deliver_due(small.engine, settings) == 0
    end(small)
    assert deliver_due(small.engine, settings) == 1
    assert deliver_due(small.engine, settings) == 0
    ((path, headers, body),) = receiver.got
    assert path == "/hook?token=sesame"
    told = json.loads(body)
    assert (told["scan"], told["check"], told["state"]) == (small.scan_id, "overlay", "done")
    counts = {name: told[name] for name in ("images", "scored", "flag", "review", "clear", "failed", "cancelled")}
    assert counts == {"images": 3, "scored": 2, "flag": 0, "review": 0, "clear": 2, "failed": 1, "cancelled": 0}
    assert told["failures"][0]["images"] == 1
    assert told["finished_at"] >= told["created_at"]
    assert headers["X-Scanfleet-Event"] == told["event"]
    check = is_ours()
    assert check(headers["X-Scanfleet-Signature"], body, SECRET)
    assert not check(headers["X-Scanfleet-Signature"], body + b" ", SECRET)
    assert not check(headers["X-Scanfleet-Signature"], body, SECRET + "x")
    old = re.sub(r"t=\d+", "t=1764494424", headers["X-Scanfleet-Signature"])
    assert not check(old, body, SECRET)
    (hook,) = hooks(small)
    assert (hook.state, hook.attempts, hook.last_error) == ("sent", 1, None)
    assert hook.sent_at is not None


def test_a_cancelled_scan_is_told(small: Small, settings: Settings, receiver: Receiver) -> None:
    ask(small, receiver.url())
    with transaction(small.engine) as connection:
        scans.cancel(connection, small.scan_id)
    assert deliver_due(small.engine, settings) == 1
    assert json.loads(receiver.got[0][2])["state"] == "cancelled"


@pytest.mark.parametrize("status", [500, 404, 301])
def test_it_is_tried_again_after_pauses_as_the_same_event_and_given_up_in_the_end(
    small: Small, settings: Settings, receiver: Receiver, status: int
) -> None:
    receiver.status = status
    ask(small, receiver.url())
    end(small)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        assert deliver_due(small.engine, settings) == 0
        assert len(receiver.got) == attempt  # the pause is not over
        (hook,) = hooks(small)
        assert (hook.attempts, hook.state) == (attempt, "given_up" if attempt == MAX_ATTEMPTS else "waiting")
        assert str(status) in (hook.last_error or "")
        later(small)
    assert deliver_due(small.engine, settings) == 0
    assert len(receiver.got) == MAX_ATTEMPTS
    assert len({headers["X-Scanfleet-Event"] for _, headers, _ in receiver.got}) == 1
    receiver.status = 200
    ask(small, receiver.url())  # told anew, as another event
    assert deliver_due(small.engine, settings) == 1
    assert len({headers["X-Scanfleet-Event"] for _, headers, _ in receiver.got}) == 2


def test_two_processes_do_not_send_at_once_and_one_that_died_is_replaced(
    small: Small, settings: Settings, receiver: Receiver
) -> None:
    ask(small, receiver.url())
    end(small)
    others: list[int] = []
    receiver.on_post = lambda: others.append(deliver_due(small.engine, settings))
    assert deliver_due(small.engine, settings) == 1
    assert others == [0]
    receiver.on_post = lambda: None
    with transaction(small.engine) as connection:
        connection.execute(sa.update(Webhook).values(state="waiting", not_before=None))
        dead = webhooks.take_due(connection)
    assert dead is not None
    assert deliver_due(small.engine, settings) == 0
    later(small)
    assert deliver_due(small.engine, settings) == 1
    with transaction(small.engine) as connection:
        webhooks.settle(connection, dead, error="late")
    assert hooks(small)[0].state == "sent"


def test_a_process_without_the_settings_leaves_it_to_others(
    small: Small, settings: Settings, receiver: Receiver
) -> None:
    ask(small, receiver.url())
    end(small)
    for lacking in ({"webhook_secret": None}, {"webhook_hosts": "", "webhook_private_hosts": ""}):
        assert deliver_due(small.engine, settings.model_copy(update=lacking)) == 0
        assert hooks(small)[0].attempts == 0
    assert deliver_due(small.engine, settings) == 1


def test_a_receiver_that_is_away_is_told_of_without_the_token(
    small: Small, settings: Settings, receiver: Receiver
) -> None:
    ask(small, receiver.url())
    end(small)
    receiver.server.shutdown()
    receiver.server.server_close()
    assert deliver_due(small.engine, settings) == 0
    (hook,) = hooks(small)
    assert hook.last_error
    assert "sesame" not in f"{hook.last_error}{hook.shown}"
    assert hook.shown == receiver.url("/hook")


def test_it_goes_with_its_scan(small: Small, receiver: Receiver) -> None:
    ask(small, receiver.url())
    end(small)
    for _ in delete_scan(small.engine, small.scan_id):
        pass
    assert small.rows(Webhook) == []


def test_scans_show_tells_what_became_of_it(small: Small, settings: Settings, receiver: Receiver) -> None:
    receiver.status = 500
    ask(small, receiver.url())
    end(small)
    deliver_due(small.engine, settings)

    def show(*words: str) -> str:
        answer = scanfleet(
            "scans", "show", small.scan_id, *words, data_dir=settings.data_dir, database_url=settings.database
        )
        assert answer.returncode == 0, answer.stderr
        assert "sesame" not in answer.stdout + answer.stderr
        return answer.stdout

    assert re.search(r"webhook +http://\S+/hook: waiting after 1 attempt: .*500", show())
    (hook,) = json.loads(show("--format", "json"))["webhooks"]
    assert (hook["state"], hook["attempts"]) == ("waiting", 1)


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("https://other.example/x", BadSettings), ("https://user:pw@hooks.example/x", RequestError),
        ("ftp://hooks.example/x", RequestError), ("hooks.example", RequestError), ("https://", RequestError),
        ("https://hooks.example/x#y", RequestError), ("http://hooks.example/x", BadSettings),
        ("https://hooks.example:8443/x", BadSettings), ("https://a.b@hooks.example.evil/", RequestError),
    ],
)  # fmt: skip
def test_an_address_that_may_not_be_told_is_refused_before_anything_is_written(
    tmp_path: Path, url: str, error: type[Exception]
) -> None:
    settings = load_settings(data_dir=tmp_path, webhook_secret=SECRET, webhook_hosts="hooks.example")
    with pytest.raises(error) as caught:
        webhook_address(url, settings)
    assert "pw" not in str(caught.value)

    def pages() -> Iterator[Any]:
        raise AssertionError("enqueued")
        yield

    with pytest.raises(error):
        next(telling(None, settings, pages(), url=url))  # type: ignore[arg-type]
    assert webhook_address("https://hooks.example/x?y=z", settings).path == "/x"
    with pytest.raises(BadSettings, match="webhook_secret"):
        webhook_address("https://hooks.example/x", load_settings(data_dir=tmp_path, webhook_hosts="hooks.example"))


def test_private_addresses_are_refused_unless_listed_and_certificates_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with WebServer(tmp_path / "web") as server:
        how: dict[str, Any] = {"data_dir": tmp_path, "webhook_secret": SECRET, "webhook_hosts": server.host}
        url = server.uri("/hook")
        said = send(url, b"{}", event="e", settings=load_settings(**how))
        assert "not public" in (said or "")
        assert "webhook_private_hosts" in (said or "")
        allowed = load_settings(**how, webhook_private_hosts=server.host)
        assert "certificate" in (send(url, b"{}", event="e", settings=allowed) or "").lower()
        assert server.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(server.ca_file))
        assert send(url, b"{}", event="e", settings=allowed) == "the receiver answers 501"  # it knows no POST


@pytest.mark.slow
def test_a_command_that_waits_tells_it(tmp_path: Path, receiver: Receiver) -> None:
    """`run` scores, ends, and sends, with no worker left."""
    from tests.rigs.worker_rig import png

    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(png(1))
    hosts = {"webhook_hosts": receiver.host, "webhook_private_hosts": receiver.host}
    words = ("run", folder, "--check", "overlay", "--model", "fake", "--notify", receiver.url())
    answer = scanfleet(*words, data_dir=tmp_path, webhook_secret=SECRET, **hosts)
    assert answer.returncode == 0, answer.stderr
    (scan,) = re.findall(r"^scan (\w+):", answer.stdout, flags=re.MULTILINE)
    assert [json.loads(body)["scan"] for _, _, body in receiver.got] == [scan]
    refused = scanfleet(*words, data_dir=tmp_path, webhook_secret=SECRET)
    assert refused.returncode == 10
    assert refused.stderr.count("\n") == 1
