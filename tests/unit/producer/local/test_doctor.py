"""`scanfleet doctor` in parts: the forecast, where settings come from, and what is found of the services."""

from pathlib import Path

import pytest

from scanfleet.config.diagnosis import local_broker_warning
from scanfleet.config.settings import load_settings
from scanfleet.db.engine import transaction
from scanfleet.db.scans import workers
from scanfleet.db.schema import ledger
from scanfleet.producer.local.doctor import Finding, check_services, check_source
from scanfleet.producer.local.forecast import advice, forecast
from scanfleet.producer.local.settings_origin import origins, relevant


def test_a_device_of_its_own_overlaps_with_the_host() -> None:
    found = forecast({"decode": 100.0, "prepare": 400.0, "device": 400.0}, shares_cores=False)
    assert found.images_per_second == pytest.approx(80.0)
    assert (found.limit, found.idle_share) == ("decode", pytest.approx(0.8))


def test_a_device_that_is_the_host_takes_turns_with_decoding() -> None:
    found = forecast({"decode": 100.0, "prepare": 100.0, "device": 50.0}, shares_cores=True)
    assert found.images_per_second == pytest.approx(25.0)
    assert (found.limit, found.idle_share) == ("device", pytest.approx(0.5))


def test_a_device_that_is_slower_than_the_rest_is_never_idle() -> None:
    found = forecast({"decode": 500.0, "prepare": 500.0, "device": 20.0, "fetch": 90.0}, shares_cores=False)
    assert (found.images_per_second, found.limit, found.idle_share) == (20.0, "device", 0.0)


def test_a_slow_store_holds_everything_up() -> None:
    rates = {"decode": 500.0, "prepare": 500.0, "device": 100.0, "fetch": 10.0}
    found = forecast(rates, shares_cores=False)
    assert (found.images_per_second, found.limit, found.idle_share) == (10.0, "fetch", pytest.approx(0.9))
    words = advice(rates, found, shares_cores=False)
    assert words.startswith("fetching gives 10 images/s, the device takes 100 images/s: more fetch_threads")


def test_advice_names_what_is_short() -> None:
    starved = {"decode": 90.0, "prepare": 900.0, "device": 400.0}
    words = advice(starved, forecast(starved, shares_cores=False), shares_cores=False)
    assert words.startswith("decoding gives 90 images/s, the device takes 400 images/s: more cores")
    fed = {"decode": 900.0, "prepare": 900.0, "device": 40.0}
    assert "is the limit" in advice(fed, forecast(fed, shares_cores=False), shares_cores=False)
    assert "a GPU" in advice(fed, forecast(fed, shares_cores=True), shares_cores=True)


def test_each_setting_says_where_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scanfleet.toml").write_text('fetch_threads = 3\nmodel = "other"\nprecision = "bf16"\n')
    monkeypatch.setenv("SCANFLEET_DATABASE_URL", "postgresql://me:geheim12@db/x?sslmode=require")
    monkeypatch.setenv("scanfleet_lease_seconds", "30")
    monkeypatch.setenv("SCANFLEET_PRECISION", "fp32")
    settings = load_settings(data_dir=tmp_path, model="fake")
    found = origins(settings, flags={"model": "fake", "data_dir": tmp_path, "log_level": None}, folder=tmp_path)
    by_name = {one.name: (one.value, one.origin) for one in found}
    assert by_name["model"] == ("fake", "flag")
    assert by_name["fetch_threads"] == (3, "scanfleet.toml")
    assert by_name["precision"] == ("fp32", "SCANFLEET_PRECISION")
    assert by_name["lease_seconds"] == (30.0, "scanfleet_lease_seconds")
    assert by_name["log_level"] == ("info", "default")
    assert by_name["database_url"] == ("postgresql://db/x", "SCANFLEET_DATABASE_URL")
    assert "geheim12" not in str(found)
    shown = {one.name for one in relevant(found)}
    assert {"lease_seconds", "token_budget", "database_url"} <= shown
    assert "log_json" not in shown


def check(folder: Path, **settings: object) -> dict[str, Finding]:
    return {one.name: one for one in check_services(load_settings(data_dir=folder, **settings))}


def test_checks_make_nothing(tmp_path: Path) -> None:
    found = check(tmp_path / "not" / "there")
    assert {one.status for one in found.values()} == {"ok"}
    assert "does not exist yet" in found["ledger"].text
    assert not list(tmp_path.iterdir())


def test_one_error_does_not_hide_another(tmp_path: Path) -> None:
    found = check(tmp_path, database_url="postgresql://u:geheim12@127.0.0.1:1/x", broker_url="redis://127.0.0.1:1/0")
    assert (found["ledger"].status, found["ledger"].exit_code) == ("fail", 75)
    assert (found["broker"].status, found["broker"].exit_code) == ("fail", 75)
    assert "broker_url" in (found["broker"].remedy or "")
    assert "geheim12" not in str(found)


def test_a_database_without_our_tables_is_reported_and_left_alone(tmp_path: Path) -> None:
    found = check(tmp_path, database_url=f"sqlite:///{tmp_path / 'other.db'}")
    assert "does not exist yet" in found["ledger"].text
    (tmp_path / "other.db").touch()
    found = check(tmp_path, database_url=f"sqlite:///{tmp_path / 'other.db'}")
    assert (found["ledger"].status, found["ledger"].exit_code) == ("fail", 18)
    assert "scanfleet db upgrade" in found["ledger"].text


def test_starved_workers_are_reported(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path)
    measured = {"under_way": 100.0, "idle": 60.0, "forwards": 5.0, "threads": 800.0, "decode": 700.0}
    with ledger(settings) as engine, transaction(engine) as connection:
        workers.start_worker(connection, worker="w", host="h", pid=1, queue="score.fake", device="cpu")
        workers.beat(connection, worker="w", n_images=9, seconds=measured, progressed=True)
    found = check(tmp_path)["workers"]
    assert found.status == "warn"
    assert "1 running for score.fake, devices idle 60 % of the time" in found.text
    assert "decode" in (found.remedy or "")


def test_a_source_is_listed_and_fetched(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path)
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(bytes(2000))
    found = check_source(settings, str(tmp_path), seconds=5)
    assert found.status == "ok"
    assert "3 images listed" in found.text
    assert "3 fetched" in found.text
    assert "2 kB each" in found.text
    assert found.figures["images_per_second"] > 0
    assert check_source(settings, None, seconds=1).status == "skip"
    gone = check_source(settings, str(tmp_path / "gone"), seconds=1)
    assert (gone.status, gone.exit_code) == ("fail", 14)


@pytest.mark.parametrize(("seconds", "status", "n"), [(1e-9, "warn", 0), (0, "ok", 1)])
def test_a_source_that_gives_nothing_in_time_is_a_warning_unless_no_time_was_given(
    tmp_path: Path, seconds: float, status: str, n: int
) -> None:
    (tmp_path / "a.jpg").write_bytes(bytes(2000))
    found = check_source(load_settings(data_dir=tmp_path), str(tmp_path), seconds=seconds)
    assert found.status == status
    assert f"{n} fetched" in found.text
    assert "images_per_second" not in found.figures


def test_a_broker_of_this_machine_beside_a_ledger_of_many_is_reported(tmp_path: Path) -> None:
    url = "postgresql://u:geheim12@127.0.0.1:1/x"
    assert check(tmp_path, database_url=url)["broker"].status == "warn"
    assert check(tmp_path, database_url=f"sqlite:///{tmp_path}/own.db")["broker"].status == "ok"
    assert local_broker_warning(load_settings(database_url=url, broker_url="redis://127.0.0.1:1/0")) is None


def test_the_place_of_adapters_is_checked_before_a_training_ends(tmp_path: Path) -> None:
    missing = check(tmp_path, adapters_url=str(tmp_path / "gone"))["adapters_url"]
    assert (missing.status, missing.exit_code) == ("fail", 14)
    assert str(tmp_path / "gone") in missing.text
    assert check(tmp_path, adapters_url=str(tmp_path))["adapters_url"].status == "ok"
    assert "adapters_url" not in check(tmp_path)


def test_workers_that_cannot_begin_are_reported(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path)
    with ledger(settings) as engine, transaction(engine) as connection:
        workers.start_worker(connection, worker="w", host="h", pid=1, queue="score.foo", device="auto")
        workers.set_waiting(connection, "w", "cannot fetch foo")
    found = check(tmp_path)["workers"]
    assert found.status == "warn"
    assert "cannot fetch foo" in found.text
