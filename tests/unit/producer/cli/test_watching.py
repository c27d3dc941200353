"""`worker top` and `worker drain`."""

from pathlib import Path

from scanfleet.config.settings import load_settings
from scanfleet.db.engine import transaction
from scanfleet.db.scans.workers import beat, set_waiting, start_worker, stop_worker
from scanfleet.db.schema import ledger
from scanfleet.messages import score_queue
from scanfleet.worker.processes.registration import Row
from tests.helpers.cli_call import scanfleet


def fleet(data_dir: Path) -> None:
    with ledger(load_settings(data_dir=data_dir)) as engine, transaction(engine) as connection:
        for name, model in (("busy", "fake"), ("stuck", "fake"), ("other", "pocket"), ("gone", "fake")):
            about = {"host": "h", "pid": 1, "queue": score_queue(model), "device": "cpu"}
            start_worker(connection, worker=name, model=model, **about)
        times = {"under_way": 10.0, "idle": 4.0, "scored": 50, "forwards": 5, "decode": 30, "threads": 40}
        beat(connection, worker="busy", n_images=50, seconds=times, progressed=True)
        set_waiting(connection, "stuck", "the hub is away")
        stop_worker(connection, "gone")


def test_top_says_what_each_worker_waits_for(tmp_path: Path) -> None:
    fleet(tmp_path)
    shown = scanfleet("worker", "top", "--once", "--every", "0.5", data_dir=tmp_path)
    assert shown.returncode == 0
    lines = shown.stdout.splitlines()
    assert any(line.startswith("stuck") and "the hub is away" in line for line in lines)
    assert any(line.startswith("other") and "batches" in line for line in lines)
    assert not any(line.startswith("gone") for line in lines)


def test_drain_reaches_workers_with_their_heartbeat_once(tmp_path: Path) -> None:
    fleet(tmp_path)
    done = scanfleet("worker", "drain", "--model", "fake", data_dir=tmp_path)
    assert (done.returncode, done.stdout.split()) == (0, ["busy", "stuck"])
    settings = load_settings(data_dir=tmp_path)
    ended: list[str] = []
    with ledger(settings) as engine:
        for name in ("busy", "other"):
            row = Row(engine, name, settings)
            row.ready(device="cpu", write=lambda _: None, on_drain=lambda name=name: ended.append(name))
            row.update()
            row.update()
    assert ended == ["busy"]


def test_drain_refuses_a_name_that_does_not_run_and_asks_nobody(tmp_path: Path) -> None:
    fleet(tmp_path)
    done = scanfleet("worker", "drain", "busy", "gone", data_dir=tmp_path)
    assert done.returncode == 17
    assert "no worker 'gone' is running" in done.stderr
    shown = scanfleet("worker", "top", "--once", "--every", "0.5", data_dir=tmp_path)
    assert "it drains" not in shown.stdout
    assert scanfleet("worker", "drain", data_dir=tmp_path).returncode == 2
