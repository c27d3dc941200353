"""Images on the web: listed hosts, public addresses, and nothing without a bound."""

import ipaddress
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import urllib3.util.connection

from scanfleet.config.settings import Settings, load_settings
from scanfleet.config.web_hosts import hosts_of, web_address
from scanfleet.db.scans.new_images import NewImage
from scanfleet.errors import BadSettings, BadSource, ImageError, ObjectRefused, StoreUnavailable
from scanfleet.producer.sources.base import Candidate
from scanfleet.producer.sources.manifest_source import ManifestSource
from scanfleet.producer.sources.named import NamedImages
from scanfleet.storage.base import any_delivered
from scanfleet.storage.open import open_store
from scanfleet.storage.web.connections import addresses_of, is_public
from scanfleet.storage.web.https import HttpsStore
from tests.rigs.worker_rig import png, rig
from tests.services.web_server import Answer, WebServer

ETAG = {"ETag": '"1"'}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    with WebServer(tmp_path / "web") as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(server.ca_file))
        yield server


def settings_for(server: WebServer, **more: Any) -> Settings:
    how = {"https_hosts": server.host, "https_private_hosts": server.host} | more
    return load_settings(**how)


def store_for(server: WebServer, **more: Any) -> HttpsStore:
    return HttpsStore(settings_for(server, **more))


def test_a_file_is_read_with_its_version(server: WebServer) -> None:
    server.answers = {
        "/a%20b.jpg?size=1": Answer(body=b"data", headers=ETAG),
        "/dated.jpg": Answer(body=b"data", headers={"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}),
        "/plain.jpg": Answer(body=b""),
    }
    store = open_store(server.uri("/"), settings_for(server))
    uri = server.uri("/a b.jpg?size=1")
    assert store.fetch(uri, etag=None, max_bytes=4)[:2] == (b"data", '"1"')
    assert store.fetch(uri, etag='"1"', max_bytes=4).data == b"data"
    assert store.fetch(server.uri("/dated.jpg"), etag=None, max_bytes=4).etag == "Mon, 01 Jan 2024 00:00:00 GMT"
    assert store.fetch(server.uri("/plain.jpg"), etag=None, max_bytes=4)[:2] == (b"", None)
    with pytest.raises(ImageError, match="changed"):
        store.fetch(uri, etag='"0"', max_bytes=4)
    with pytest.raises(BadSource, match="cannot be listed"):
        store.list(server.uri("/"))
    with pytest.raises(BadSource, match="cannot be written"):
        store.put(uri, b"x")


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        *((status, ImageError, "gone") for status in (404, 410)),
        *((status, ObjectRefused, "denied") for status in (403, 451)),
        *((status, ObjectRefused, "refused") for status in (400, 405, 406, 418)),
        *((status, StoreUnavailable, None) for status in (204, 206, 301, 401, 407, 408, 425, 429, 500, 502, 503, 599)),
    ],
)
def test_what_each_answer_means(server: WebServer, status: int, kind: type[Exception], reason: str | None) -> None:
    server.answers["/a.jpg"] = Answer(status=status, headers=ETAG)
    with pytest.raises((ImageError, StoreUnavailable)) as caught:
        store_for(server).fetch(server.uri("/a.jpg"), etag=None, max_bytes=4)
    assert type(caught.value) is kind
    if isinstance(caught.value, ImageError):
        assert caught.value.reason == reason
    if isinstance(caught.value, ObjectRefused):
        assert caught.value.failure.reason == reason


def refusal(server: WebServer, path: str = "/a.jpg", **more: Any) -> ImageError:
    with pytest.raises(ObjectRefused) as caught:
        store_for(server, **more).fetch(server.uri(path), etag=None, max_bytes=100)
    return caught.value.failure


def test_redirects_are_bounded(server: WebServer) -> None:
    for number in range(5):
        target = server.uri("/1") if number == 0 else f"/{number + 1}"
        server.answers[f"/{number}"] = Answer(status=302, headers={"Location": target})
    server.answers["/5"] = Answer(body=b"data", headers=ETAG)
    assert store_for(server).fetch(server.uri("/2"), etag=None, max_bytes=4).data == b"data"
    server.requests.clear()
    assert "more than 3 redirects" in refusal(server, "/0").detail
    assert [path for _, path in server.requests] == ["/0", "/1", "/2", "/3"]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("https://169.254.169.254/latest/meta-data/", "not among the hosts"),
        ("https://example.com/x.jpg", "not among the hosts"),
        ("http://{host}/x.jpg", "write https://"),
        ("//example.com/x.jpg", "not among the hosts"),
        ("https://{host}@example.com/x.jpg", "user or password"),
        ("https://user:pw@{host}/x.jpg", "user or password"),
        ("https://{host}\\@example.com/x.jpg", None),
        ("file:///etc/passwd", "write https://"),
        ("https://[::1", "cannot be read as an address"),
    ],
)
def test_a_redirect_leads_nowhere_else(
    server: WebServer, monkeypatch: pytest.MonkeyPatch, target: str, words: str | None
) -> None:
    asked: list[str] = []
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *more, **how: asked.append(host) or resolve(host, *more, **how)
    )
    server.answers["/a.jpg"] = Answer(status=302, headers={"Location": target.format(host=server.host)})
    if words is None:  # some parsers read another host there: ours asks the one that it has checked
        with pytest.raises(ImageError, match="gone"):
            store_for(server).fetch(server.uri("/a.jpg"), etag=None, max_bytes=4)
    else:
        found = refusal(server)
        assert found.reason == "refused"
        assert words in found.detail
    assert set(asked) <= {"localhost", "127.0.0.1", "::1"}


@pytest.mark.parametrize("host", ["169.254.169.254", "127.0.0.1", "[::1]", "10.1.2.3", "[::ffff:127.0.0.1]"])
def test_a_listed_host_at_a_private_address_is_refused(server: WebServer, host: str) -> None:
    server.answers["/a.jpg"] = Answer(status=302, headers={"Location": f"https://{host}/x"})
    found = refusal(server, https_hosts=f"{server.host},{host}")
    assert found.reason == "private_address"
    assert "not public" in found.detail
    assert refusal(server, https_private_hosts="").reason == "private_address"


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        *((address, False) for address in ("10.0.0.1", "172.16.0.1", "192.168.1.1", "127.9.9.9", "169.254.169.254")),
        *((address, False) for address in ("0.0.0.0", "100.64.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255")),
        *((address, False) for address in ("::1", "::", "fe80::1", "fc00::1", "fec0::1", "ff02::1", "::ffff:10.0.0.1")),
        *((address, False) for address in ("64:ff9b::127.0.0.1", "2002:7f00:1::", "2001:0:7f00:1::", "::127.0.0.1")),
        ("64:ff9b::5db8:d822", True),
    ],
)
def test_public_addresses(address: str, *, public: bool) -> None:
    assert is_public(ipaddress.ip_address(address)) is public


def resolving(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Have names resolved to these addresses, one list after the other. Returns what is connected to."""
    left = list(answers)
    connected: list[str] = []

    def resolve(host: str, port: int, *_: object, **__: object) -> list[Any]:
        found = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    def connect(address: tuple[str, int], *_: object, **__: object) -> socket.socket:
        connected.append(address[0])
        raise OSError("not in a test")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(urllib3.util.connection, "create_connection", connect)
    return connected


def test_a_name_that_changes_its_address_is_connected_to_where_it_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    connected = resolving(monkeypatch, ["93.184.216.34", "93.184.216.35"], ["127.0.0.1"])
    store = HttpsStore(load_settings(https_hosts="rebind.test"))
    with pytest.raises(StoreUnavailable, match="not in a test"):
        store.fetch("https://rebind.test/a.jpg", etag=None, max_bytes=4)
    assert connected == ["93.184.216.34", "93.184.216.35"]
    with pytest.raises(ObjectRefused, match=r"127\.0\.0\.1"):
        store.fetch("https://rebind.test/a.jpg", etag=None, max_bytes=4)
    assert len(connected) == 2


def test_one_private_address_among_others_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    connected = resolving(monkeypatch, ["93.184.216.34", "10.0.0.1"])
    with pytest.raises(ObjectRefused, match=r"10\.0\.0\.1"):
        HttpsStore(load_settings(https_hosts="x.test")).fetch("https://x.test/a.jpg", etag=None, max_bytes=4)
    assert connected == []


@pytest.mark.parametrize(("errno", "kind"), [(socket.EAI_NONAME, ObjectRefused), (socket.EAI_AGAIN, StoreUnavailable)])
def test_a_name_that_does_not_exist_differs_from_a_resolver_that_is_away(
    monkeypatch: pytest.MonkeyPatch, errno: int, kind: type[Exception]
) -> None:
    def resolve(*_: object, **__: object) -> list[Any]:
        raise socket.gaierror(errno, "words")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(StoreUnavailable) as caught:
        addresses_of("x.test", 443, ())
    assert type(caught.value) is kind


def drip(ended: threading.Event, *, chunked: bool = False) -> Answer:
    def write(handler: BaseHTTPRequestHandler) -> None:
        while not ended.wait(0.02):
            handler.wfile.write(b"1\r\nx\r\n" if chunked else b"x")
            handler.wfile.flush()

    if chunked:
        return Answer(headers={"Transfer-Encoding": "chunked"}, length=-1, drip=write)
    return Answer(length=10_000, drip=write)


def test_a_slow_body_is_given_up(server: WebServer) -> None:
    ended = threading.Event()
    server.answers["/a.jpg"] = drip(ended)
    store = store_for(server, fetch_deadline_seconds=0.3)
    with pytest.raises(StoreUnavailable, match="too slow"):
        store.fetch(server.uri("/a.jpg"), etag=None, max_bytes=10_000)
    ended.set()


def test_a_silent_server_is_given_up(server: WebServer) -> None:
    ended = threading.Event()
    server.answers["/a.jpg"] = Answer(length=10, drip=lambda _: ended.wait(30) and None)
    with pytest.raises(StoreUnavailable, match="timed out"):
        store_for(server, fetch_timeout_seconds=0.2).fetch(server.uri("/a.jpg"), etag=None, max_bytes=100)
    ended.set()


def test_a_huge_body_is_not_read(server: WebServer) -> None:
    ended = threading.Event()
    server.answers |= {"/said.jpg": Answer(length=10**12), "/chunks.jpg": drip(ended, chunked=True)}
    for path in ("/said.jpg", "/chunks.jpg"):
        with pytest.raises(ImageError, match="too_large"):
            store_for(server).fetch(server.uri(path), etag=None, max_bytes=3)
    ended.set()
    server.answers["/ok.jpg"] = Answer(
        headers={"Transfer-Encoding": "chunked"}, length=-1, body=b"2\r\nok\r\n0\r\n\r\n"
    )
    assert store_for(server).fetch(server.uri("/ok.jpg"), etag=None, max_bytes=2).data == b"ok"


def test_a_body_that_is_cut_is_transient(server: WebServer) -> None:
    server.answers |= {
        "/short.jpg": Answer(body=b"half", length=8),
        "/chunks.jpg": Answer(headers={"Transfer-Encoding": "chunked"}, length=-1, body=b"9\r\nhalf"),
    }
    for path in server.answers:
        with pytest.raises(StoreUnavailable) as caught:
            store_for(server).fetch(server.uri(path), etag=None, max_bytes=100)
        assert not isinstance(caught.value, ObjectRefused)


def test_an_answer_that_is_not_the_file_is_refused(server: WebServer) -> None:
    for answer, words in (
        (Answer(body=b"log in", headers={"Content-Type": "text/html; charset=utf-8"}), "a web page"),
        (Answer(body=b"\x1f\x8b", headers={"Content-Encoding": "gzip"}), "packed"),
        (Answer(body=b"no end", length=-1), "its length"),
    ):
        server.answers["/a.jpg"] = answer
        assert words in refusal(server).detail


def test_a_certificate_of_another_name_or_authority_is_refused(
    server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    server.answers["/a.jpg"] = Answer(body=b"data")
    assert "no trusted connection" in refusal(server).detail
    with WebServer(tmp_path / "other", name="other.test") as other:
        monkeypatch.setenv("SSL_CERT_FILE", str(other.ca_file))
        assert "no trusted connection" in refusal(other).detail


def test_a_missing_file_is_asked_about_in_another_way(server: WebServer) -> None:
    store = store_for(server)
    uri = server.uri("/a.jpg")
    store.confirm_missing(uri, etag=None, root_id=None)
    server.answers["/a.jpg"] = Answer(status=403)
    store.confirm_missing(uri, etag=None, root_id=None)
    server.answers["/a.jpg"] = Answer(headers=ETAG)
    store.confirm_missing(uri, etag='"0"', root_id=None)
    with pytest.raises(StoreUnavailable, match="is there"):
        store.confirm_missing(uri, etag='"1"', root_id=None)
    server.answers["/a.jpg"] = Answer(status=503)
    assert not any_delivered([(store, uri, None)])
    server.answers["/a.jpg"] = Answer(body=b"x")
    assert any_delivered([(store, uri, None)])


def test_a_worker_that_is_set_up_otherwise_waits(server: WebServer) -> None:
    with pytest.raises(StoreUnavailable, match="https_hosts") as caught:
        store_for(server, https_hosts="").fetch(server.uri("/a.jpg"), etag=None, max_bytes=4)
    assert not isinstance(caught.value, ObjectRefused)


@pytest.mark.parametrize("text", ["https://a.com", "a.com/x", "a b:c", "*", "*.", "a.com:", "http:"])
def test_a_list_of_hosts_that_cannot_be_read_is_a_setting(text: str) -> None:
    with pytest.raises(BadSettings, match="https_hosts: write host"):
        load_settings(https_hosts=text)


def test_odd_addresses_in_a_manifest_are_left_out(tmp_path: Path) -> None:
    lines = (
        "https://a.com/1.jpg",
        "https://b.com/1.jpg",
        "https://u:p@a.com/1.jpg",
        "https://a.com/x.tar#1.jpg",
        "https://a.com:444/1.jpg",
        "http://a.com/1.jpg",
        "https:///1.jpg",
        "https://A.com:443/ü 1.jpg?x=1",
    )
    (tmp_path / "m.txt").write_text("\n".join(lines))
    items = list(ManifestSource(tmp_path / "m.txt", hosts_of("a.com")).candidates(after=None, skip=lambda _: False))
    taken = [item.image for item in items if isinstance(item, Candidate)]
    assert taken == [NewImage(uri=lines[0]), NewImage(uri=lines[-1])]
    assert len(items) == len(lines)
    assert web_address(lines[-1], ("a.com",)).host == "a.com"


def test_a_batch_ends_as_what_each_address_answered(server: WebServer, tmp_path: Path) -> None:
    for number in range(3):
        server.answers[f"/{number}.png"] = Answer(body=png(number), headers={"ETag": f'"{number}"'})
    server.answers["/denied.png"] = Answer(status=403)
    server.answers["/page.png"] = Answer(body=b"<html>", headers={"Content-Type": "text/html"})
    uris = [server.uri(f"/{name}.png") for name in ("0", "1", "2", "denied", "page", "none")]
    named = NamedImages(uris, settings_for(server))
    with rig(tmp_path, https_hosts=server.host, https_private_hosts=server.host, real_stores=True) as worker:
        scan = worker.scan_listed(list(named))
        for _ in range(3):
            worker.forget_backoff()
            worker.drain()
        assert worker.failures() == {
            uris[3]: ("fetch", "denied"),
            uris[4]: ("fetch", "refused"),
            uris[5]: ("fetch", "gone"),
        }
        assert worker.progress(scan).n_verdicts == 3


def test_a_server_that_refuses_everything_is_waited_for(server: WebServer, tmp_path: Path) -> None:
    server.answers = {f"/{number}.png": Answer(status=403) for number in range(3)}
    with rig(tmp_path, https_hosts=server.host, https_private_hosts=server.host, real_stores=True) as worker:
        scan = worker.scan_listed([NewImage(uri=server.uri(path)) for path in server.answers])
        for _ in range(3):
            worker.forget_backoff()
            worker.drain()
        assert worker.failures() == {}
        assert worker.progress(scan).n_pending == 3
