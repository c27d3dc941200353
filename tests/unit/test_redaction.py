"""What leaves the process holds no secret, whoever wrote the text."""

import json
import logging
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from scanfleet import redaction
from scanfleet.config.settings import load_settings
from scanfleet.errors import BadManifest, BadSource
from scanfleet.log import configure_logging
from scanfleet.producer.sources.base import Candidate, LeftOut
from scanfleet.producer.sources.manifest_source import ManifestSource
from scanfleet.producer.sources.open import open_source
from scanfleet.redaction import hide, is_presigned, redact, without_signatures
from tests.helpers.patience import patient

SIGNED = "https://b.s3.amazonaws.com/k.jpg?X-Amz-Date=1&X-Amz-Signature=f00dfeed&X-Amz-Expires=9"


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_hidden", set())


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("redis://:p@ss@h:6379/0", "redis://h:6379/0"),
        ("postgresql+psycopg://u:pw@h/x?password=pw", "postgresql+psycopg://h/x"),
        (f"GET {SIGNED} failed", "GET https://b.s3.amazonaws.com/k.jpg failed"),
        ("/k?X-Amz-Signature=abc&x=1", "/k?X-Amz-Signature=***&x=1"),
        ("s3://bucket/a@b.jpg and s3://b/c", "s3://bucket/a@b.jpg and s3://b/c"),
        ("nothing to see: a = b", "nothing to see: a = b"),
    ],
)
def test_patterns(text: str, left: str) -> None:
    assert redact(text) == left


@pytest.mark.parametrize("text", ["s3://one/" + "k" * 300_000, "a://" * 80_000, "a://b?" * 50_000, "&sig=" * 60_000])
def test_a_long_text_takes_no_longer_than_its_letters(text: str) -> None:
    begun = time.process_time()
    for each in (redact, is_presigned, without_signatures):
        each(text)
    assert time.process_time() - begun < patient(5)  # minutes where each letter begins a search of its own


def test_the_passwords_of_the_settings_are_known_in_every_spelling(tmp_path: Path) -> None:
    load_settings(
        data_dir=tmp_path,
        broker_url="redis://:br%40ker-secret@h/0",
        database_url="postgresql://u@h/x?password=data-secret",
    )
    for text in ("br@ker-secret", "br%40ker-secret", "data-secret"):
        assert redact(f"wrong password <{text}>") == "wrong password <***>"


def test_a_short_password_does_not_hide_common_words() -> None:
    hide("a")
    assert redact("a cat") == "a cat"


@pytest.mark.parametrize("uri", ["s3://b/fo-sig=3.jpg", "photo?sig=1.jpg", "s3://b/k?x=1", "https://h/a?name=sig"])
def test_what_is_no_presigned_address(uri: str) -> None:
    assert not is_presigned(uri)
    assert without_signatures({"page": uri}) == {"page": uri}


def test_a_presigned_address_reaches_neither_ledger_nor_message(tmp_path: Path) -> None:
    for name, content in {"m.txt": f"a.jpg\n{SIGNED}\n", "n.txt": "s3://b/k?X-Amz-Signature=f00dfeed\n"}.items():
        (tmp_path / name).write_text(content)
        try:
            *_, odd = ManifestSource(tmp_path / name).candidates(after=None, skip=lambda _: False)
            assert isinstance(odd, LeftOut)
            said = str(odd)
        except BadManifest as error:
            said = str(error)
        assert "presigned" in said
        assert "f00dfeed" not in said
    with pytest.raises(BadSource, match="presigned"):
        open_source("s3://b/k?X-Amz-Signature=f00dfeed", load_settings(data_dir=tmp_path))
    row = {"uri": "s3://b/k.jpg", "page": {"links": [SIGNED, "https://shop/p?id=1"]}, "n": 3}
    (tmp_path / "m.jsonl").write_text(json.dumps(row))
    (found,) = ManifestSource(tmp_path / "m.jsonl").candidates(after=None, skip=lambda _: False)
    assert isinstance(found, Candidate)
    assert found.image.meta == {"page": {"links": ["https://b.s3.amazonaws.com/k.jpg", "https://shop/p?id=1"]}, "n": 3}


@pytest.fixture
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What configuring the log changes in a process, put back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("as_json", [True, False])
def test_no_way_into_the_log_lets_a_secret_through(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "aws-recognisable")
    configure_logging(level="debug", json=as_json)
    hide("db-recognisable")
    error = ValueError("failed: postgresql://u:db-recognisable@h/x, key aws-recognisable")
    log = structlog.get_logger()
    log.info("event", url="redis://:url-recognisable@h", nested={"a": [error, {"b": "db-recognisable"}]}, error=error)
    log.info("event with aws-recognisable")
    try:
        raise error
    except ValueError:
        log.exception("crash")
        logging.getLogger("kombu").exception("to %s", "redis://:url-recognisable@h")
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    text = capsys.readouterr().err
    assert text.count("failed: postgresql://") >= 4
    assert "recognisable" not in text
