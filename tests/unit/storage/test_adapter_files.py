"""Adapter files on their way: whole or not there at all, and never other bytes than those that were trained."""

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from scanfleet.config.settings import Settings, load_settings
from scanfleet.errors import AccessDenied, BadSettings, BadSource, SourceNotFound, StoreUnavailable
from scanfleet.models.adapters.card import (
    CARD,
    SETTINGS,
    WEIGHTS,
    AdapterCard,
    LoraSettings,
    read_adapter,
    write_adapter,
)
from scanfleet.models.types import Question
from scanfleet.storage import adapter_files
from scanfleet.storage.adapter_files import _put_in_place, digest_of, pull, push, shared_place
from scanfleet.storage.folder import FolderStore
from scanfleet.storage.memory import MemoryStore

QUESTION = Question(name="c", prompt="?", labels=("a", "b"), flags=frozenset({"a"}))
LORA = LoraSettings(r=1, lora_alpha=1, target_modules=("q_proj",))
TENSORS = save({"x": np.zeros(2, np.float32)})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(data_dir=tmp_path / "data")


def made(folder: Path, *, weights: bytes = b"weights", name: str = "one", head: bytes | None = None) -> Path:
    card = AdapterCard(name=name, question=QUESTION, base_model="pocket", base_revision="r")
    write_adapter(folder, card=card, lora=LORA, weights=weights, head=head)
    (folder / "canary").mkdir(exist_ok=True)
    (folder / "canary" / "0.png").write_bytes(b"png")
    return folder


def _alter_card(folder: Path, **fields: Any) -> None:
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps(card | fields))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("head", [None, b"head"])
def test_an_adapter_comes_back_as_it_was_pushed(tmp_path: Path, settings: Settings, head: bytes | None) -> None:
    adapter = made(tmp_path / "made", head=head)
    (adapter / "notes" / "deep").mkdir(parents=True)
    (adapter / "notes" / "deep" / "1.txt").write_bytes(b"why")
    place = tmp_path / "place"
    place.mkdir()
    uri = push(adapter, str(place), settings)
    pull(uri, tmp_path / "pulled", settings)
    assert contents(tmp_path / "pulled") == contents(adapter)
    digest = read_adapter(tmp_path / "pulled").card.weights_sha256
    assert (digest_of(adapter), uri) == (digest, str(place / digest))
    assert push(adapter, os.path.relpath(place), settings) == uri  # workers start in other folders
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "place", "pulled"]  # nothing half is left
    pull(uri, tmp_path / "not" / "there" / "yet", settings)
    assert contents(tmp_path / "not" / "there" / "yet") == contents(adapter)


class Counting(FolderStore):
    def __init__(self, root: Path, *, fail_at: str = "") -> None:
        super().__init__(root)
        self.names: list[str] = []
        self.fail_at = fail_at

    def put(self, uri: str, data: bytes) -> None:
        if self.fail_at and uri.endswith(self.fail_at):
            raise StoreUnavailable("the line is cut")
        self.names.append(uri.rpartition("/")[2])
        super().put(uri, data)


def watched(monkeypatch: pytest.MonkeyPatch, place: Path, **how: Any) -> Counting:
    place.mkdir(exist_ok=True)
    store = Counting(place, **how)
    real = adapter_files.open_store
    monkeypatch.setattr(
        adapter_files, "open_store", lambda uri, *_, **more: store if uri == str(place) else real(uri, *_, **more)
    )
    return store


def test_the_card_goes_last_and_nothing_goes_twice(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = watched(monkeypatch, tmp_path / "place")
    adapter = made(tmp_path / "made")
    uri = push(adapter, str(store.root), settings)
    assert store.names[-1] == CARD
    assert len(store.names) == 4
    store.names.clear()
    assert push(adapter, str(store.root), settings) == uri
    assert store.names == []
    (Path(uri) / "canary" / "0.png").unlink()
    push(adapter, str(store.root), settings)
    assert store.names == ["0.png"]


def test_a_push_that_breaks_off_leaves_no_adapter_and_goes_on(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = watched(monkeypatch, tmp_path / "place", fail_at=WEIGHTS)
    adapter = made(tmp_path / "made")
    with pytest.raises(StoreUnavailable):
        push(adapter, str(store.root), settings)
    (half,) = store.root.iterdir()
    with pytest.raises(BadSource, match=r"holds no adapter\.json"):
        pull(str(half), tmp_path / "pulled", settings)
    assert not (tmp_path / "pulled").exists()
    store.fail_at = ""
    pull(push(adapter, str(store.root), settings), tmp_path / "pulled", settings)
    assert contents(tmp_path / "pulled") == contents(adapter)


def test_the_first_card_of_the_same_weights_stands(tmp_path: Path, settings: Settings) -> None:
    first, second = made(tmp_path / "a", name="first"), made(tmp_path / "b", name="second")
    place = tmp_path / "place"
    place.mkdir()
    uri = push(first, str(place), settings)
    assert push(second, str(place), settings) == uri
    assert contents(Path(uri)) == contents(first)


def test_damage_at_the_place_is_mended_by_another_push(tmp_path: Path, settings: Settings) -> None:
    adapter = made(tmp_path / "made")
    place = tmp_path / "place"
    place.mkdir()
    uri = push(adapter, str(place), settings)
    (Path(uri) / CARD).write_text("{")
    (Path(uri) / WEIGHTS).write_bytes(b"WEIGHTS")
    assert push(adapter, str(place), settings) == uri
    assert contents(Path(uri)) == contents(adapter)


def altered(folder: Path) -> None:
    """Another scaling of the LoRA, in as many bytes."""
    path = folder / SETTINGS
    path.write_text(path.read_text().replace('"lora_alpha": 1.0', '"lora_alpha": 2.0'))


def test_altered_settings_are_neither_pulled_nor_pushed(tmp_path: Path, settings: Settings) -> None:
    adapter = made(tmp_path / "made", weights=TENSORS)
    altered(adapter)
    with pytest.raises(BadSource, match=r"adapter_config\.json was altered .*lora_alpha"):
        push(adapter, str(tmp_path), settings)
    with pytest.raises(BadSource, match=r"made/adapter_config\.json was altered .*lora_alpha"):
        pull(str(adapter), tmp_path / "pulled", settings)
    assert not (tmp_path / "pulled").exists()


def test_settings_that_were_altered_at_the_place_are_mended_by_another_push(tmp_path: Path, settings: Settings) -> None:
    adapter = made(tmp_path / "made", weights=TENSORS)
    uri = push(adapter, str(tmp_path), settings)
    altered(Path(uri))
    assert push(adapter, str(tmp_path), settings) == uri
    assert contents(Path(uri)) == contents(adapter)


def test_what_was_pushed_to_where_it_lies_stays(tmp_path: Path, settings: Settings) -> None:
    place = tmp_path / "place"
    adapter = made(place / digest_of(made(tmp_path / "made")))
    before = contents(adapter)
    assert push(adapter, str(place), settings) == str(adapter)
    assert contents(adapter) == before


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / WEIGHTS).write_bytes(b"others"), "its card names"),
        (lambda folder: (folder / WEIGHTS).unlink(), "cannot be read"),
        (lambda folder: (folder / CARD).unlink(), "holds no adapter.json"),
        (lambda folder: (folder / CARD).write_text("[]"), "no SHA-256"),
        (lambda folder: (folder / CARD).write_text(json.dumps({"weights_sha256": "../x"})), "no SHA-256"),
        (lambda folder: (folder / CARD).write_text("{"), "not JSON"),
        (lambda folder: (folder / CARD).write_text("[" * 100_000), "not JSON"),
        (lambda folder: _alter_card(folder, parts=[["lora"]]), "parts must be"),
    ],
)
def test_an_invalid_adapter_is_neither_pulled_nor_pushed(
    tmp_path: Path, settings: Settings, spoil: Any, words: str
) -> None:
    adapter = made(tmp_path / "made")
    spoil(adapter)
    with pytest.raises(BadSource, match=words):
        pull(str(adapter), tmp_path / "pulled", settings)
    assert [path.name for path in tmp_path.iterdir() if path.name != "data"] == ["made"]
    with pytest.raises(BadSource):
        push(adapter, str(tmp_path), settings)


def test_names_that_lead_out_of_an_adapter_are_refused() -> None:
    for name in ("/etc/passwd", "a/../../b", "a//b", "a\0b"):
        store = MemoryStore({f"mem://adapter/{name}": b"x"})
        with pytest.raises(BadSource, match="leads out"):
            adapter_files._listed(store, "mem://adapter/")


def test_pull_does_not_write_over_anything(tmp_path: Path, settings: Settings) -> None:
    adapter = made(tmp_path / "made")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("text")
    with pytest.raises(BadSource, match="name another folder"):
        pull(str(adapter), tmp_path / "mine", settings)
    pull(str(adapter), tmp_path / "pulled", settings)
    pull(str(adapter), tmp_path / "pulled", settings)  # again: nothing to do
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_what_a_killed_pull_left_is_removed_once_it_is_old(tmp_path: Path, settings: Settings) -> None:
    adapter = made(tmp_path / "made")
    for name, age in (("old", adapter_files.STALE_SECONDS + 60), ("young", 0)):
        left = tmp_path / f".pulled.{name}{adapter_files.PART}"
        left.mkdir()
        os.utime(left, times=(time.time() - age,) * 2)
    pull(str(adapter), tmp_path / "pulled", settings)
    assert [path.name for path in tmp_path.glob(".pulled.*")] == [f".pulled.young{adapter_files.PART}"]


def test_too_much_is_no_adapter(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = made(tmp_path / "made")
    monkeypatch.setattr(adapter_files, "MAX_FILES", 3)
    with pytest.raises(BadSource, match="more than 3 files"):
        pull(str(adapter), tmp_path / "pulled", settings)
    monkeypatch.setattr(adapter_files, "MAX_FILES", 4)
    monkeypatch.setattr(adapter_files, "MAX_BYTES", 10)
    with pytest.raises(BadSource, match="more than 10 bytes"):
        pull(str(adapter), tmp_path / "pulled", settings)


def test_a_place_that_is_away_is_waited_for(tmp_path: Path, settings: Settings) -> None:
    adapter = made(tmp_path / "made")
    with pytest.raises(StoreUnavailable, match="mounted"):
        push(adapter, str(tmp_path / "nowhere"), settings)
    with pytest.raises(SourceNotFound):
        pull(str(tmp_path / "nowhere"), tmp_path / "pulled", settings)


def test_of_two_that_fetch_at_once_the_first_one_stays_and_nothing_else_is_taken_for_it(tmp_path: Path) -> None:
    first, second, other = made(tmp_path / "first"), made(tmp_path / "second"), tmp_path / "other"
    before = contents(first)
    _put_in_place(second, first)
    assert contents(first) == before
    other.mkdir()
    (other / "notes.txt").write_bytes(b"mine")
    with pytest.raises(OSError, match="not empty"):
        _put_in_place(second, other)


def test_the_shared_place_is_a_setting(tmp_path: Path) -> None:
    assert shared_place(load_settings(data_dir=tmp_path)) == str(tmp_path / "adapters")
    assert (tmp_path / "adapters").is_dir()
    assert shared_place(load_settings(data_dir=tmp_path, adapters_url="s3://b/X//")) == "s3://b/X"
    assert shared_place(load_settings(data_dir=tmp_path, adapters_url="/mnt/x")) == "/mnt/x"
    with pytest.raises(BadSettings, match="adapters_url"):
        shared_place(load_settings(data_dir=tmp_path, adapters_url="http://b/a"))


def test_a_folder_store_writes_whole_files_below_its_root_alone(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    store = FolderStore(root)
    store.put(str(root / "a" / "b.bin"), b"one")
    store.put(str(root / "a" / "b.bin"), b"two")
    assert contents(root) == {"a/b.bin": b"two"}
    (root / "out").symlink_to(tmp_path)
    (root / "link.bin").symlink_to(tmp_path / "victim")
    for name in ("../x", "out/x", "a", "a/b.bin/x", "/etc/x", "..", "a/", "nul\0"):
        with pytest.raises((BadSource, StoreUnavailable)):
            store.put(f"{root}/{name}" if not name.startswith("/") else name, b"bad")
    store.put(str(root / "link.bin"), b"in the place of the link, not where it leads")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root"]
    assert sorted(path.name for path in root.rglob("*")) == ["a", "b.bin", "link.bin", "out"]


def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("scanfleet.storage.safe_open.os.replace", refuse)  # root may write anywhere
    with pytest.raises(AccessDenied, match="no permission to write"):
        FolderStore(tmp_path).put(str(tmp_path / "x"), b"data")
    assert list(tmp_path.iterdir()) == []


def test_memory_is_a_peer_in_writing() -> None:
    store = MemoryStore()
    store.put("mem://b/1", b"one")
    assert store.fetch("mem://b/1", etag=None, max_bytes=10).data == b"one"
    store.down = True
    with pytest.raises(StoreUnavailable):
        store.put("mem://b/1", b"two")
