"""A worker's pipeline on PostgreSQL and a bucket."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from scanfleet.checks.check import load_check
from scanfleet.config.settings import load_settings
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.tables import Scan, Verdict
from scanfleet.db.training.adapters import AdapterInfo
from scanfleet.models.adapters.card import CARD, SETTINGS, AdapterCard, LoraSettings, read_card, write_adapter
from scanfleet.models.errors import ModelInvalid
from scanfleet.storage.s3.store import S3Store
from scanfleet.worker.scoring.adapters import AdapterFolders
from scanfleet.worker.scoring.factory import question_of
from tests.rigs.worker_rig import Rig, png, rig
from tests.services import Bucket, S3Server


@pytest.fixture
def options(pg_url: str, any_bucket: Bucket) -> dict[str, Any]:
    return {"database_url": pg_url, "s3_endpoint_url": any_bucket.endpoint_url, "real_stores": True}


def listed(worker: Rig, bucket: Bucket) -> list[NewImage]:
    found = S3Store.connect(worker.settings).list(bucket.uri())
    return [NewImage(uri=info.uri, etag=info.etag, size=info.size) for info in found]


def test_a_bucket_is_scored_into_postgresql(tmp_path: Path, options: dict[str, Any], any_bucket: Bucket) -> None:
    for number in range(20):
        any_bucket.put(f"ads/ü {number}.png", png(number))
    with rig(tmp_path, **options) as worker:
        scan = worker.scan_listed(listed(worker, any_bucket))
        worker.drain()
        assert worker.progress(scan).n_verdicts == 20
        assert worker.rows(Scan)[0].state == "done"
        again = worker.scan_listed(listed(worker, any_bucket))
        worker.drain()
        assert worker.progress(again).n_reused == 20


def test_objects_that_went_or_changed_are_failures_of_their_own(
    tmp_path: Path, options: dict[str, Any], any_bucket: Bucket
) -> None:
    for number in range(6):
        any_bucket.put(f"{number}.png", png(number))
    with rig(tmp_path, **options) as worker:
        images = listed(worker, any_bucket)
        any_bucket.client.delete_object(Bucket=any_bucket.name, Key="1.png")
        any_bucket.put("2.png", png(99))
        scan = worker.scan_listed(images)
        worker.drain()
        assert worker.failures() == {
            any_bucket.uri("1.png"): ("fetch", "gone"),
            any_bucket.uri("2.png"): ("fetch", "changed"),
        }
        assert worker.progress(scan).n_verdicts == 4


def test_a_bucket_that_is_away_costs_time_and_nothing_else(
    tmp_path: Path, pg_url: str, own_s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in own_s3.env.items():
        monkeypatch.setenv(name, value)
    bucket = own_s3.make_bucket("archive")
    with rig(tmp_path, database_url=pg_url, s3_endpoint_url=own_s3.url, real_stores=True) as worker:
        for number in range(4):
            bucket.put(f"{number}.png", png(number))
        scan = worker.scan_listed(listed(worker, bucket))
        own_s3.kill()
        worker.drain()
        progress = worker.progress(scan)
        assert (progress.n_pending, progress.n_failures) == (4, 0)
        assert progress.waiting_for is not None
        assert progress.waiting_for.startswith("s3://archive: ")
        own_s3.start()  # empty: its objects lived in memory
        bucket = own_s3.make_bucket("archive")
        for number in range(4):
            bucket.put(f"{number}.png", png(number))
        worker.forget_backoff()
        worker.drain()
        assert worker.progress(scan).n_verdicts == 4
        assert len(worker.rows(Verdict)) == 4


def test_an_adapter_in_a_bucket_is_fetched_once(tmp_path: Path, s3_bucket: Bucket) -> None:
    settings = load_settings(data_dir=tmp_path / "data", s3_endpoint_url=s3_bucket.endpoint_url)
    card = upload_adapter(s3_bucket, tmp_path / "made")
    adapter = registered(s3_bucket.uri("adapters/one"), card)
    found = AdapterFolders(settings).find(adapter)
    assert read_card(found) == card
    assert (found / "canary" / "0.png").read_bytes() == b"png"
    for key in (CARD, "adapter_config.json", "adapter_model.safetensors", "canary/0.png"):
        s3_bucket.client.delete_object(Bucket=s3_bucket.name, Key=f"adapters/one/{key}")
    assert AdapterFolders(settings).find(adapter) == found


def test_altered_settings_are_fetched_again_and_refused_where_the_bucket_has_them_too(
    tmp_path: Path, s3_bucket: Bucket
) -> None:
    settings = load_settings(data_dir=tmp_path / "data", s3_endpoint_url=s3_bucket.endpoint_url)
    adapter = registered(s3_bucket.uri("adapters/one"), upload_adapter(s3_bucket, tmp_path / "made"))
    path = AdapterFolders(settings).find(adapter) / SETTINGS
    whole = path.read_bytes()
    altered = whole.replace(b'"lora_alpha": 1.0', b'"lora_alpha": 2.0')
    assert altered != whole
    path.write_bytes(altered)
    assert (AdapterFolders(settings).find(adapter) / SETTINGS).read_bytes() == whole
    path.write_bytes(altered)
    s3_bucket.put(f"adapters/one/{SETTINGS}", altered)
    with pytest.raises(ModelInvalid, match=rf"^{adapter.uri}/{SETTINGS} was altered after the adapter was made"):
        AdapterFolders(settings).find(adapter)


def test_an_adapter_in_a_bucket_cannot_write_outside_its_folder(tmp_path: Path, s3_bucket: Bucket) -> None:
    settings = load_settings(data_dir=tmp_path / "data", s3_endpoint_url=s3_bucket.endpoint_url)
    card = upload_adapter(s3_bucket, tmp_path / "made")
    outside = tmp_path / "outside"
    s3_bucket.put(f"adapters/one/{outside}", b"bad")  # a key with two slashes: its rest is an absolute path
    with pytest.raises(ModelInvalid, match="leads out of"):
        AdapterFolders(settings).find(registered(s3_bucket.uri("adapters/one"), card))
    assert not outside.exists()


def upload_adapter(bucket: Bucket, folder: Path) -> AdapterCard:
    made = AdapterCard(
        name="one", question=question_of(load_check("overlay")), base_model="pocket", base_revision="sha256:1"
    )
    lora = LoraSettings(r=1, lora_alpha=1, target_modules=("q_proj",))
    card = write_adapter(folder, card=made, lora=lora, weights=save({"x": np.zeros(2, np.float32)}))
    for path in folder.iterdir():
        bucket.put(f"adapters/one/{path.name}", path.read_bytes())
    bucket.put("adapters/one/canary/0.png", b"png")
    return card


def registered(uri: str, card: AdapterCard) -> AdapterInfo:
    return AdapterInfo(
        check_name="overlay",
        check_hash="h",
        base_model="pocket",
        base_revision="sha256:1",
        uri=uri,
        weights_sha256=card.weights_sha256,
    )
