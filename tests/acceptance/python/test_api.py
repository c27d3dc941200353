"""`import scanfleet`: each function does what its command does."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image as PillowImage

import scanfleet as sf
from scanfleet.errors import SourceNotFound, UnknownName
from tests.helpers.cli_process import scanfleet

N_IMAGES = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    (folder / "pictures").mkdir()
    for number in range(N_IMAGES):
        PillowImage.new("RGB", (64, 64), (number * 40, 0, 0)).save(folder / "pictures" / f"{number}.png")
    (folder / "pictures" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


@pytest.fixture(scope="module")
def fleet(folder: Path) -> sf.Fleet:
    return sf.connect(data_dir=folder / "data", model="fake", log_level="error")


@pytest.fixture(scope="module")
def scan(fleet: sf.Fleet, folder: Path) -> sf.Scan:
    scan = fleet.scan(folder / "pictures", check=["overlay", "baggage"])
    assert scan.state == "running"
    scan.wait(workers=1)
    return scan


def test_a_scan_is_listed_once_scored_and_read(fleet: sf.Fleet, scan: sf.Scan, folder: Path) -> None:
    assert (scan.check, scan.model, [other.check for other in scan.others]) == ("overlay", "fake", ["baggage"])
    done = scan.progress()
    assert (done.n_images, done.n_verdicts, done.n_failures, scan.state) == (N_IMAGES + 1, N_IMAGES, 1, "done")
    assert fleet.scan(str(folder / "pictures"), check="overlay").id == scan.id  # the same one again
    assert {each.id for each in fleet.scans()} == {scan.id, scan.others[0].id}
    assert fleet.get_scan(scan.id[:6]).check == "overlay"
    assert "overlay" in repr(scan)


def test_results_are_those_of_the_command(scan: sf.Scan, folder: Path) -> None:
    exported = scanfleet("results", "export", "--scan", scan.id, data_dir=folder / "data")
    lines = [json.loads(line) for line in exported.stdout.splitlines()]
    found = list(scan.results())
    assert [(each.uri, each.decision, each.margin) for each in found] == [
        (line["uri"], line["decision"], line["margin"]) for line in lines
    ]
    assert [Path(each.uri).name for each in scan.errors()] == ["torn.png"]
    for decision in ("clear", "review", "flag"):
        assert all(each.decision == decision for each in scan.results(decision=decision))


def test_tables_have_the_columns_and_types_of_parquet(scan: sf.Scan, folder: Path) -> None:
    path = folder / "results.parquet"
    scanfleet("results", "export", "--scan", scan.id, "--format", "parquet", "-o", path, data_dir=folder / "data")
    table, frame = scan.results().to_arrow(), scan.results().to_pandas()
    assert table.schema.remove_metadata() == pq.read_schema(path).remove_metadata()
    assert table.to_pylist() == pq.read_table(path).to_pylist()
    assert len(frame) == N_IMAGES + 1
    assert frame["margin"].dtype == "float64"
    assert str(frame["scored_at"].dtype).endswith("UTC]")
    assert (str(frame["width"].dtype), str(frame["decision"].dtype)) == ("Int64", "category")
    assert len(scan.results(prefix="nowhere").to_pandas()) == 0
    assert scan.results().write(folder / "again.parquet") == N_IMAGES + 1
    assert pq.read_table(folder / "again.parquet").to_pylist() == table.to_pylist()
    assert scan.results(state="verdict").write(folder / "few.csv", format="csv", columns=["uri"], limit=2) == 2
    assert (folder / "few.csv").read_text().startswith("uri\n")
    with pytest.raises(ValueError, match="no format"):
        scan.results().write(folder / "x", format="nosuch")


def test_filters_are_those_of_the_command(fleet: sf.Fleet, scan: sf.Scan) -> None:
    assert {each.check for each in fleet.results(check=["overlay", "baggage"], state="verdict")} == {
        "overlay",
        "baggage",
    }
    assert list(fleet.results(scan=scan.id[:6], adapter=None, state="verdict")) == list(scan.results(state="verdict"))
    assert list(scan.results(where={"campaign": "spring"})) == []
    for error, wrong in (
        (TypeError, {"nosuch": 1}),
        (ValueError, {"decision": "nosuch"}),
        (UnknownName, {"check": "nosuch"}),
        (UnknownName, {"scan": "zzzz"}),
    ):
        with pytest.raises(error, match=r"nosuch|zzzz"):
            list(fleet.results(**wrong))


def test_score_gives_the_answers_of_a_scan(fleet: sf.Fleet, scan: sf.Scan, folder: Path) -> None:
    scored = {Path(each.uri).name: each for each in fleet.score(folder / "pictures", check="overlay")}
    torn = scored.pop("torn.png")
    assert (torn.state, torn.decision) == ("failed", None)
    assert torn.failure is not None
    kept = {Path(each.uri).name: each.margin for each in scan.results(state="verdict")}
    assert {name: each.margin for name, each in scored.items()} == kept


def test_labels_are_added_and_listed(fleet: sf.Fleet, scan: sf.Scan, folder: Path) -> None:
    uri = folder / "pictures" / "0.png"
    assert fleet.add_label(uri, "overlay", check="overlay", who="ann").startswith("label 1: overlay")
    table = folder / "labels.csv"
    table.write_text("uri,label\npictures/0.png,overlay\npictures/1.png,none\n")
    assert fleet.import_labels(table, check="overlay", who="ann") == 1  # ann gave the other one before
    assert [(Path(each.uri).name, each.label) for each in fleet.labels(check_name="overlay")] == [
        ("1.png", "none"), ("0.png", "overlay"),
    ]  # fmt: skip
    assert fleet.labels(who="bob") == []


def test_checks_and_adapters_are_those_of_the_ledger(fleet: sf.Fleet, scan: sf.Scan) -> None:
    assert {"overlay", "baggage"} <= {check.name for check in fleet.checks()}
    assert fleet.adapters("overlay") == []  # the fake model ships none
    with pytest.raises(UnknownName):
        fleet.promote(7)
    with pytest.raises(ValueError, match="why"):
        fleet.promote(7, force=True)
    with pytest.raises(UnknownName):
        fleet.rollback("overlay")


def test_a_scan_can_be_paused_resumed_and_cancelled(fleet: sf.Fleet, folder: Path) -> None:
    scan = fleet.scan(folder / "pictures", check="overlay", fresh=True)
    scan.pause()
    assert scan.state == "paused"
    scan.resume()
    with pytest.raises(TimeoutError, match="it goes on"):
        scan.wait(timeout=0)
    scan.cancel()
    assert scan.wait().n_cancelled == N_IMAGES + 1


def test_errors_are_those_of_the_commands(fleet: sf.Fleet, folder: Path) -> None:
    with pytest.raises(SourceNotFound):
        fleet.scan(folder / "nowhere", check="overlay")
    with pytest.raises(UnknownName):
        fleet.scan(folder / "pictures", check="no-such")
    with pytest.raises(UnknownName):
        fleet.get_scan("zzzz")
    with pytest.raises(SourceNotFound):
        list(fleet.score(folder / "nowhere"))


def test_the_functions_take_the_settings_of_the_environment(
    fleet: sf.Fleet, scan: sf.Scan, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCANFLEET_DATA_DIR", str(folder / "data"))
    monkeypatch.setenv("SCANFLEET_MODEL", "fake")
    assert {each.id for each in sf.scans()} >= {scan.id}
    assert sf.get_scan(scan.id).id == scan.id
    assert len(list(sf.results(state="failed"))) == 2
    assert {"overlay"} <= {check.name for check in sf.list_checks()}
    assert set(sf.__all__) <= set(dir(sf))
    for name in sf.__all__:
        assert getattr(sf, name).__doc__
    with pytest.raises(AttributeError):
        sf.no_such_thing  # noqa: B018
