"""Reports on an adapter's files at a promotion, and on workers that refuse it at the end of a scan."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from scanfleet.config.settings import load_settings
from scanfleet.db.engine import now, reading, transaction
from scanfleet.db.scans import workers
from scanfleet.db.schema import ledger
from scanfleet.db.training import champions, refusals
from scanfleet.errors import BadSource, ImageError, StoreUnavailable
from scanfleet.models.adapters.card import CARD, WEIGHTS
from scanfleet.producer.cli.scans.outcome import report_refusals
from scanfleet.producer.training import adapter_files
from scanfleet.storage.memory import MemoryStore
from tests.unit.db.test_champions import enter, made, run, three


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    with ledger(load_settings(data_dir=tmp_path / "data")) as engine:
        yield engine


def used(engine: sa.Engine) -> int | None:
    with reading(engine) as connection:
        return champions.in_use(connection).get(("overlay", "pocket"))


def test_a_damaged_adapter_is_not_promoted_by_force_either(engine: sa.Engine, tmp_path: Path) -> None:
    adapter_id = enter(engine, made(tmp_path / "one"))
    (tmp_path / "one" / WEIGHTS).write_bytes(b"torn")
    for force in ((), ("--force", "--why", "w")):
        refused = str(run(tmp_path, "promote", str(adapter_id), *force, code=13).exception)
        assert str(tmp_path / "one") in refused
        assert "\n" not in refused
    made(tmp_path / "one", weights=b"another")
    refused = str(run(tmp_path, "promote", str(adapter_id), code=13).exception)
    assert refused.startswith(f"{tmp_path / 'one'} holds other weights")
    assert used(engine) is None
    made(tmp_path / "one")
    assert "could not check" not in run(tmp_path, "promote", str(adapter_id)).stderr
    assert used(engine) == adapter_id


def test_files_that_are_out_of_reach_are_a_note(engine: sa.Engine, tmp_path: Path) -> None:
    adapter_id = enter(engine, replace(made(tmp_path / "one"), uri=str(tmp_path / "elsewhere")))
    told = run(tmp_path, "promote", str(adapter_id)).stderr
    assert f"could not check the files of adapter {adapter_id}: the folder {tmp_path / 'elsewhere'} " in told
    assert used(engine) == adapter_id


@pytest.mark.parametrize(
    ("held", "refused", "note"),
    [
        ("its own", None, None),
        ("another", "s3://b/x holds other weights (ffffffff", None),
        ("garbage", "s3://b/x holds other weights", None),
        (None, "s3://b/x/adapter.json: ", None),
        (StoreUnavailable("the line is cut"), None, "the line is cut"),
        (ImageError(stage="fetch", reason="denied", detail="not for you"), None, "s3://b/x/adapter.json: not for you"),
    ],
)
def test_of_a_bucket_the_card_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: Any, refused: str | None, note: str | None
) -> None:
    adapter = replace(made(tmp_path / "one"), uri="s3://b/x", id=1)
    store: Any = MemoryStore()
    cards = {
        "its own": (tmp_path / "one" / CARD).read_bytes(),
        "another": json.dumps({"weights_sha256": "f" * 64}).encode(),
        "garbage": b"{",
    }
    if isinstance(held, Exception):
        store = SimpleNamespace(fetch=lambda *_, **__: (_ for _ in ()).throw(held))
    elif held is not None:
        store.put(f"s3://b/x/{CARD}", cards[held])
    monkeypatch.setattr(adapter_files, "open_store", lambda *_: store)
    settings = load_settings(data_dir=tmp_path)
    if refused is None:
        assert adapter_files.require_weights(adapter, settings) == note
        return
    with pytest.raises(BadSource) as caught:
        adapter_files.require_weights(adapter, settings)
    assert str(caught.value).startswith(refused)


def test_a_scan_ends_with_a_note_when_its_champion_is_refused(
    engine: sa.Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    *_, adapter_id = three(engine, tmp_path)
    with transaction(engine) as connection:
        begin = now(connection)
        refusals.record_refusal(connection, adapter_id, worker="ended", why="torn")
    scan: Any = SimpleNamespace(check="overlay", model="pocket", created_at=begin)
    later: Any = SimpleNamespace(check="overlay", model="pocket", created_at=begin + timedelta(hours=1))
    other: Any = SimpleNamespace(check="baggage", model="pocket", created_at=begin)
    report_refusals(engine, later)
    report_refusals(engine, other)
    assert capsys.readouterr().err == ""
    report_refusals(engine, scan)
    expected = f"adapter {adapter_id} is refused by 1 worker: torn; see `scanfleet adapters ls`"
    assert expected in capsys.readouterr().err
    with transaction(engine) as connection:
        workers.start_worker(connection, worker="box", host="box", pid=1, queue="q", device="cpu")
        refusals.record_refusal(connection, adapter_id, worker="box", why="margins moved")
    report_refusals(engine, later)
    assert "by 1 worker: margins moved" in capsys.readouterr().err
    report_refusals(engine, scan)
    assert "by 2 workers: margins moved" in capsys.readouterr().err
