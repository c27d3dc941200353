"""Weights in a bucket: one whole copy a node, whoever is killed and whatever changes meanwhile."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from scanfleet.config.settings import Settings, load_settings
from scanfleet.errors import BadSettings, StoreUnavailable
from scanfleet.models import pocket
from scanfleet.models.inputs.sources import folder_revision
from scanfleet.storage.base import FetchedObject
from scanfleet.storage.s3.store import S3Store
from scanfleet.worker.runtime import weights
from scanfleet.worker.runtime.weights import PARTIAL, fetch_weights
from scanfleet.worker.scoring.model import load_model
from tests.helpers.cli_process import environment
from tests.services import Bucket

FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 4, "vision-lora/a.json": b"[]"}


@pytest.fixture
def settings(tmp_path: Path, s3_bucket: Bucket) -> Settings:
    for name, data in FILES.items():
        s3_bucket.put(f"model/{name}", data)
    return load_settings(
        data_dir=tmp_path, s3_endpoint_url=s3_bucket.endpoint_url, model=f"s3://{s3_bucket.name}/model"
    )


def held(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The uris of parts that were asked for, which are 100 bytes long."""
    asked: list[str] = []
    fetch = S3Store.fetch

    def counted(store: S3Store, uri: str, **how: object) -> FetchedObject:
        asked.append(uri)
        return fetch(store, uri, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(weights, "PART_BYTES", 100)
    monkeypatch.setattr(S3Store, "fetch", counted)
    return asked


def test_it_is_downloaded_once_in_parts_also_by_several_at_once(settings: Settings, parts: list[str]) -> None:
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(fetch_weights(settings))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len(set(found)) == 1
    assert held(found[0]) == FILES
    assert len(parts) == 1 + 11 + 1


def test_what_a_killed_process_left_is_not_used(settings: Settings) -> None:
    folder = fetch_weights(settings)
    left = folder.rename(folder.with_suffix(PARTIAL))
    (left / "model.safetensors").write_bytes(b"half")
    (left / "other.json").write_bytes(b"of another version")
    assert held(fetch_weights(settings)) == FILES
    assert not left.exists()


def test_a_download_that_breaks_leaves_no_model(
    settings: Settings, s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch, parts: list[str]
) -> None:
    download = weights._download

    def overwritten(*given: object) -> None:
        s3_bucket.put("model/model.safetensors", b"another model")
        download(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(weights, "_download", overwritten)
    with pytest.raises(StoreUnavailable, match=r"model\.safetensors"):
        fetch_weights(settings)
    assert [path.suffix for path in settings.data_dir.glob("weights/*/*") if path.is_dir()] == [PARTIAL]
    monkeypatch.setattr(weights, "_download", download)
    assert held(fetch_weights(settings))["model.safetensors"] == b"another model"


def test_a_new_version_takes_the_place_of_the_old_one(settings: Settings, s3_bucket: Bucket) -> None:
    before = fetch_weights(settings)
    s3_bucket.put("model/config.json", b"{ }")
    after = fetch_weights(settings)
    assert held(after) == FILES | {"config.json": b"{ }"}
    assert not before.exists()


def test_what_is_no_model_is_refused(settings: Settings, s3_bucket: Bucket) -> None:
    s3_bucket.put("images/1.png", b"png")
    with pytest.raises(BadSettings, match=r"config\.json is missing"):
        fetch_weights(settings.model_copy(update={"model": f"s3://{s3_bucket.name}/images"}))


def test_a_worker_loads_it_under_its_name_with_its_digest(settings: Settings, s3_bucket: Bucket) -> None:
    name = f"s3://{s3_bucket.name}/pocket"
    for path in pocket.folder().iterdir():
        if path.is_file():
            s3_bucket.put(f"pocket/{path.name}", path.read_bytes())
    wanted = settings.model_copy(update={"model": name, "device": "cpu"})
    model = load_model(wanted)
    assert (model.identity.base_model, model.identity.revision) == (name, folder_revision(pocket.folder()))
    with pytest.raises(BadSettings, match="not the pinned"):
        load_model(wanted.model_copy(update={"model_revision": "sha256:other"}))


def test_the_command_prints_folder_and_revision(settings: Settings, s3_bucket: Bucket, tmp_path: Path) -> None:
    env = environment(tmp_path, s3_endpoint_url=s3_bucket.endpoint_url)
    command = [sys.executable, "-P", "-m", "scanfleet.worker", "fetch", "--model", settings.model]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=True)
    folder, revision = done.stdout.split()
    assert held(Path(folder)) == FILES
    assert revision == folder_revision(Path(folder))
