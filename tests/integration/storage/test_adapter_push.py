"""Adapters through a bucket, against a real S3 server: pushed by one machine, used by another."""

from pathlib import Path

import pytest

from scanfleet.checks.check import load_check
from scanfleet.config.settings import Settings, load_settings
from scanfleet.db.engine import reading, transaction
from scanfleet.db.scans.checks import save_check
from scanfleet.db.schema import ledger
from scanfleet.db.training import champions as pointer
from scanfleet.db.training import refusals
from scanfleet.db.training.adapters import AdapterInfo, register_adapter
from scanfleet.errors import SourceNotFound, StoreUnavailable
from scanfleet.models.adapters.card import WEIGHTS, AdapterCard, LoraSettings, read_adapter, write_adapter
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.network.base import load_base
from scanfleet.models.types import Question
from scanfleet.storage.adapter_files import pull, push
from scanfleet.worker.scoring import champions
from scanfleet.worker.scoring.adapters import AdapterFolders, register_shipped
from scanfleet.worker.scoring.champions import ScorerCache
from scanfleet.worker.scoring.model import LoadedModel
from tests.rigs.second_adapter import info_of, second_adapter
from tests.services import Bucket, S3Server


@pytest.fixture
def settings(tmp_path: Path, s3_bucket: Bucket) -> Settings:
    return load_settings(data_dir=tmp_path / "data", s3_endpoint_url=s3_bucket.endpoint_url)


def made(folder: Path, *, weights: bytes = b"weights") -> Path:
    question = Question(name="c", prompt="?", labels=("a", "b"), flags=frozenset({"a"}))
    card = AdapterCard(name="one", question=question, base_model="pocket", base_revision="r")
    lora = LoraSettings(r=1, lora_alpha=1, target_modules=("q_proj",))
    write_adapter(folder, card=card, lora=lora, weights=weights)
    (folder / "canary").mkdir()
    (folder / "canary" / "0.png").write_bytes(b"png")
    return folder


def registered(uri: str, folder: Path) -> AdapterInfo:
    digest = read_adapter(folder).card.weights_sha256
    return AdapterInfo(
        check_name="c", check_hash="h", base_model="pocket", base_revision="r", uri=uri, weights_sha256=digest
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def keys(bucket: Bucket) -> dict[str, str]:
    found = bucket.client.list_objects_v2(Bucket=bucket.name).get("Contents", ())
    return {entry["Key"]: entry["ETag"] for entry in found}


def test_what_one_machine_pushes_another_uses(tmp_path: Path, s3_bucket: Bucket, settings: Settings) -> None:
    adapter = made(tmp_path / "made")
    uri = push(adapter, s3_bucket.uri("shared/"), settings)
    before = keys(s3_bucket)
    assert push(adapter, s3_bucket.uri("shared"), settings) == uri
    assert keys(s3_bucket) == before
    found = AdapterFolders(settings).find(registered(uri, adapter))
    assert contents(found) == contents(adapter)
    pull(f"{uri}/", tmp_path / "by hand", settings)
    assert contents(tmp_path / "by hand") == contents(adapter)


def test_a_copy_that_was_damaged_is_fetched_again(tmp_path: Path, s3_bucket: Bucket, settings: Settings) -> None:
    adapter = made(tmp_path / "made")
    info = registered(push(adapter, s3_bucket.uri("shared"), settings), adapter)
    found = AdapterFolders(settings).find(info)
    (found / WEIGHTS).write_bytes(b"WEIGHTS")
    assert AdapterFolders(settings).find(info) == found
    assert (found / WEIGHTS).read_bytes() == b"weights"


def test_what_lay_in_the_bucket_by_mistake_is_not_kept(tmp_path: Path, s3_bucket: Bucket, settings: Settings) -> None:
    adapter, other = made(tmp_path / "made"), made(tmp_path / "other", weights=b"others")
    info = registered(push(adapter, s3_bucket.uri("shared"), settings), adapter)
    for path in other.iterdir():
        if path.is_file():
            s3_bucket.put(f"{info.uri.removeprefix(s3_bucket.uri())}/{path.name}", path.read_bytes())
    with pytest.raises(ModelInvalid, match="other weights"):
        AdapterFolders(settings).find(info)
    push(adapter, s3_bucket.uri("shared"), settings)
    assert (AdapterFolders(settings).find(info) / WEIGHTS).read_bytes() == b"weights"


def test_a_bucket_that_is_away_is_waited_for_and_a_missing_one_is_named(
    tmp_path: Path, own_s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in own_s3.env.items():
        monkeypatch.setenv(name, value)
    settings = load_settings(data_dir=tmp_path / "data", s3_endpoint_url=own_s3.url)
    adapter = made(tmp_path / "made")
    with pytest.raises(SourceNotFound, match="no-such-bucket-here"):
        push(adapter, "s3://no-such-bucket-here/x", settings)
    own_s3.kill()
    with pytest.raises(StoreUnavailable):
        push(adapter, "s3://archive/x", settings)
    with pytest.raises(StoreUnavailable):
        pull("s3://archive/x", tmp_path / "pulled", settings)
    assert not (tmp_path / "pulled").exists()


@pytest.mark.slow
def test_a_champion_in_a_bucket_that_is_away_is_no_refusal_and_is_used_when_it_is_back(
    tmp_path: Path, own_s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in own_s3.env.items():
        monkeypatch.setenv(name, value)
    settings = load_settings(data_dir=tmp_path / "data", s3_endpoint_url=own_s3.url)
    base = load_base("pocket", device="cpu")
    folder = second_adapter(base, tmp_path / "second")
    uri = push(folder, own_s3.make_bucket("archive").uri("adapters"), settings)
    model = LoadedModel(base)
    with ledger(settings) as engine:
        register_shipped(engine, model.identity)
        with transaction(engine) as connection:
            check = save_check(connection, load_check("overlay"))
        worker = ScorerCache(engine, model, settings, worker="w")
        first = worker.resolve(check)
        worker.check()
        own_s3.kill()
        with transaction(engine) as connection:
            adapter = register_adapter(connection, info_of(folder, uri=uri))
            pointer.promote(connection, adapter, kind="forced", why="test")
        worker.check()
        assert worker.resolve(check) is first
        with monkeypatch.context() as impatient:
            impatient.setattr(champions, "PATIENCE_SECONDS", 0.0)
            with pytest.raises(StoreUnavailable):
                worker.resolve(check)
        own_s3.start()  # empty: its objects lived in memory
        own_s3.make_bucket("archive")
        push(folder, "s3://archive/adapters", settings)
        worker._failures.clear()  # its pause is over
        worker.check()
        resolved = worker.resolve(check)
        assert resolved.scorer.identity.adapter_sha256 == info_of(folder).weights_sha256
        with reading(engine) as connection:
            assert refusals.open_refusals(connection) == []
