"""The real commands as processes, with the fake model as the worker's: folder to figures, kills, stops, errors."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa
from PIL import Image as PillowImage

from scanfleet.config.settings import load_settings
from scanfleet.db.engine import connect, reading
from scanfleet.db.scans import scans
from scanfleet.db.tables import Batch, Image, Scan
from tests.helpers.cli_process import scanfleet, start

PATIENCE_SECONDS = 120.0


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """24 pictures, one of them broken, and a manifest with a truth."""
    folder = tmp_path / "pictures ü"
    (folder / "sub").mkdir(parents=True)
    lines = ["uri,truth"]
    for number in range(24):
        name = f"{'sub/' if number % 2 else ''}bild {number}.png"
        PillowImage.new("RGB", (40 + number, 30), (9 * number, 90, 30)).save(folder / name)
        lines.append(f"{name},{('overlay', 'none')[number % 2]}")
    (folder / "sub/bild 1.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    (folder / "manifest.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder


@contextmanager
def ledger(data: Path) -> Iterator[sa.Connection]:
    engine = connect(load_settings(data_dir=data))
    with reading(engine) as connection:
        yield connection
    engine.dispose()


def until(condition: Callable[[], Any], *, process: subprocess.Popen[str] | None = None) -> Any:
    """What `look` returns as soon as it is true; fails when the process ends before."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        if process is not None and process.poll() is not None:
            pytest.fail(f"ended with {process.returncode}: {process.communicate()}")
        time.sleep(0.02)
    return pytest.fail("nothing happened in time")


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def test_run_goes_from_manifest_to_figures_report_and_export(data: Path, pictures: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    run = scanfleet(
        "run",
        pictures / "manifest.csv",
        "--check",
        "overlay",
        "--truth",
        "truth",
        "--report",
        report,
        data_dir=data,
        model="fake",
    )
    assert run.returncode == 0, run.stderr
    assert "24 images: 23 scored, 1 failed" in run.stdout
    assert "decode" in run.stdout
    assert "precision of flags: " in run.stdout
    assert "95 % interval" in run.stdout
    assert f"report: {report}" in run.stdout
    assert "could not be scored: 1 image (" in run.stderr
    page = report.read_text(encoding="utf-8")
    lines = [json.loads(line) for line in scanfleet("results", "export", data_dir=data).stdout.splitlines()]
    assert len(lines) == 24
    verdicts = [line for line in lines if line["state"] == "verdict"]
    flagged = [line for line in verdicts if line["decision"] == "flag"]
    cleared = [(line["meta"]["truth"], line["label"]) for line in verdicts if line["decision"] == "clear"]
    wrong = [truth for truth, label in cleared if truth != label or truth == "overlay"]
    assert page.count('<li class="card"') == sum(line["decision"] != "clear" for line in verdicts) + len(wrong)
    assert page.count("data:image/webp;base64,") == page.count('<li class="card"') >= len(flagged) > 0
    assert all(line["scorer"]["base_model"] == "fake" and line["content_sha256"] for line in verdicts)
    assert {line["meta"]["truth"] for line in lines} == {"overlay", "none"}
    (failed,) = (line for line in lines if line["state"] == "failed")
    assert (failed["uri"].endswith("bild 1.png"), failed["failure"]["stage"]) == (True, "decode")


@pytest.mark.slow
def test_run_again_scores_nothing_and_another_scan_takes_over(data: Path, pictures: Path) -> None:
    first = scanfleet("run", pictures, "--check", "overlay", data_dir=data, model="fake")
    again = scanfleet("run", pictures, "--check", "overlay", "--strict", data_dir=data, model="fake")
    assert (first.returncode, again.returncode) == (0, 20)
    assert len(list((data / "logs").iterdir())) == 1  # the second run needed no worker
    assert first.stdout.splitlines()[:2] == again.stdout.splitlines()[:2]
    third = scanfleet("run", pictures, "--check", "overlay", "--fresh", data_dir=data, model="fake")
    assert "(23 of them have the same bytes as images scored before)" in third.stdout
    preview = scanfleet("scan", pictures, "--check", "overlay", "--dry-run", data_dir=data, model="fake")
    assert "already scored  23" in preview.stdout


def test_a_producer_killed_in_the_midst_goes_on_without_loss_or_double(data: Path, tmp_path: Path) -> None:
    n = 20_000
    manifest = tmp_path / "many.jsonl"
    manifest.write_text("".join(json.dumps({"uri": f"/none/{number}.jpg"}) + "\n" for number in range(n)))
    arguments = ("scan", manifest, "--check", "overlay")
    scanfleet("db", "upgrade", data_dir=data)

    def enqueued() -> int:
        with ledger(data) as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(Image)).scalar_one()

    for n_before in (1, 3000):
        producer = start(*arguments, data_dir=data, batch_images="16")
        until(lambda n_before=n_before: enqueued() >= n_before, process=producer)
        producer.kill()
        producer.communicate()
        with ledger(data) as connection:
            assert connection.execute(sa.select(Scan.n_listed)).scalar_one() is None
            assert connection.execute(sa.select(sa.func.count()).select_from(Image)).scalar_one() < n
    last = scanfleet(*arguments, data_dir=data, batch_images="16")
    assert last.returncode == 0, last.stderr
    with ledger(data) as connection:
        counts = sa.select(sa.func.count(), sa.func.count(Image.uri.distinct())).select_from(Image)
        assert tuple(connection.execute(counts).one()) == (n, n)
        assert scans.progress(connection, last.stdout.strip()).n_images == n
        assert scans.get_scan(connection, last.stdout.strip()).n_listed == n


@pytest.mark.slow
def test_the_producer_s_memory_does_not_grow_with_the_manifest(data: Path, tmp_path: Path) -> None:
    def peak_kilobytes(n: int) -> int:
        manifest = tmp_path / f"{n}.txt"
        manifest.write_text("".join(f"/none/{number}.jpg\n" for number in range(n)))
        producer = start("scan", manifest, "--check", "overlay", data_dir=data)
        _, status, usage = os.wait4(producer.pid, 0)
        producer.returncode = os.waitstatus_to_exitcode(status)
        producer.communicate()
        assert producer.returncode == 0
        return usage.ru_maxrss

    small, large = peak_kilobytes(2_000), peak_kilobytes(50_000)
    assert large < small + 15_000  # 48,000 held images would be more than 50 MB


def n_leased(data: Path) -> int:
    with ledger(data) as connection:
        return connection.execute(sa.select(sa.func.count()).where(Batch.state == "leased")).scalar_one()


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_and_its_leases_are_not_waited_for(data: Path, pictures: Path) -> None:
    begin = time.monotonic()
    slow = {"model": "fake", "fake_seconds": ".1", "lease_seconds": "600"}
    run = start("run", pictures, "--check", "overlay", data_dir=data, **slow)
    (worker,) = until(lambda: workers_of(run), process=run)
    until(lambda: "worker_ready" in "".join(log.read_text() for log in (data / "logs").iterdir()), process=run)
    until(lambda: n_leased(data), process=run)
    worker.kill()
    out, words = run.communicate(timeout=PATIENCE_SECONDS)
    assert run.returncode == 0, words
    assert "a worker ended (killed by signal 9), another one takes over" in words
    assert "24 images: 23 scored, 1 failed" in out
    assert time.monotonic() - begin < 600


@pytest.mark.slow
def test_a_worker_that_cannot_start_is_quoted(data: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    run = scanfleet("run", pictures, "--check", "overlay", "--model", tmp_path, data_dir=data)
    assert run.returncode == 21
    assert "exit code 10" in run.stderr
    assert "is a llama model" in run.stderr.splitlines()[-1]


def test_a_folder_without_a_model_is_refused_before_anything_is_enqueued(data: Path, pictures: Path) -> None:
    run = scanfleet("run", pictures, "--check", "overlay", "--model", pictures / "sub", data_dir=data)
    assert run.returncode == 10
    assert "holds no model" in run.stderr
    assert "listed" not in run.stderr


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_interrupted_the_run_stops_its_workers_and_can_go_on(
    data: Path, pictures: Path, number: signal.Signals, code: int
) -> None:
    run = start(
        "run",
        pictures,
        "--check",
        "overlay",
        "--workers",
        "2",
        data_dir=data,
        model="fake",
        batch_images="1",
        fake_seconds="0.2",
        drain_seconds="5",
    )
    local = until(lambda: len(workers_of(run)) == 2 and workers_of(run), process=run)

    def some_scored() -> bool:
        with ledger(data) as connection:
            query = sa.select(sa.func.count()).select_from(Image).where(Image.state == "verdict")
            return connection.execute(query).scalar_one() > 0

    until(some_scored, process=run)
    run.send_signal(number)
    _, said = run.communicate(timeout=PATIENCE_SECONDS)
    assert run.returncode == code
    assert "hand back their batches within 5 s" in said
    assert "run the same command to resume" in said
    assert not any(worker.is_running() for worker in local)
    resumed = scanfleet("run", pictures, "--check", "overlay", data_dir=data, model="fake")
    assert "24 images: 23 scored, 1 failed" in resumed.stdout, resumed.stderr
    assert "already holds these images and resumes (" in resumed.stderr


@pytest.mark.slow
def test_a_second_interrupt_hands_back_at_once(data: Path, pictures: Path) -> None:
    arguments = ("run", pictures, "--check", "overlay")
    slow = {"model": "fake", "batch_images": "1", "fake_seconds": "2", "drain_seconds": "500"}
    scanfleet("db", "upgrade", data_dir=data)
    run = start(*arguments, data_dir=data, **slow)
    assert run.stderr is not None
    lines: list[str] = []

    def held() -> int:
        with ledger(data) as connection:
            query = sa.select(sa.func.count()).select_from(Batch).where(Batch.state == "leased")
            return connection.execute(query).scalar_one()

    def line_with(words: str) -> bool:
        assert run.stderr is not None
        lines.append(run.stderr.readline())
        return words in lines[-1]

    until(held, process=run)
    local = workers_of(run)
    run.send_signal(signal.SIGINT)
    until(lambda: line_with("stopping: "), process=run)
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=60)  # and not the 500 s of the drain
    assert run.returncode == 130
    assert not any(worker.is_running() for worker in local)
    assert held() == 0  # nobody has to wait for a lease


@pytest.mark.slow
def test_workers_do_not_outlive_a_killed_run(data: Path, pictures: Path) -> None:
    run = start("run", pictures, "--check", "overlay", data_dir=data, model="fake", fake_seconds="30")
    local = until(lambda: workers_of(run), process=run)
    until(lambda: "worker_ready" in "".join(log.read_text() for log in (data / "logs").iterdir()), process=run)
    run.kill()
    run.communicate()
    gone, alive = psutil.wait_procs(local, timeout=PATIENCE_SECONDS)
    assert (len(gone), alive) == (1, [])


@pytest.mark.slow
def test_pause_resume_cancel_and_export_afterwards(data: Path, pictures: Path) -> None:
    scan_id = scanfleet("scan", pictures, "--check", "overlay", data_dir=data).stdout.strip()

    def scans_command(*arguments: str) -> tuple[int, str]:
        answer = scanfleet("scans", *arguments, data_dir=data)
        return answer.returncode, answer.stdout + answer.stderr

    assert scans_command("pause", scan_id[:4])[1].startswith(
        f"scanfleet: scan {scan_id} is paused; no batch is under way"
    )
    assert scans_command("pause", scan_id)[0] == 2
    assert json.loads(scans_command("show", scan_id, "--format", "json")[1])["state"] == "paused"
    assert scans_command("resume", scan_id)[0] == 0
    assert scans_command("cancel", scan_id) == (
        0,
        f"scanfleet: scan {scan_id} is cancelled; not scored: 24 images\n",
    )
    assert scans_command("watch", scan_id)[0] == 0
    assert scans_command("retry", scan_id)[0] == 2
    assert scans_command("errors", scan_id)[0] == 0
    lines = scanfleet("results", "export", "--scan", scan_id, data_dir=data).stdout.splitlines()
    assert [json.loads(line)["state"] for line in lines] == ["cancelled"] * 24
    again = scanfleet("scan", pictures, "--check", "overlay", data_dir=data)
    assert (again.returncode, again.stdout) == (2, "")
    assert "--fresh" in again.stderr


@pytest.mark.slow
def test_the_worker_command_becomes_the_worker(data: Path, pictures: Path) -> None:
    worker = start("worker", "score", "--model", "fake", data_dir=data)
    try:
        scan = scanfleet("scan", pictures, "--check", "overlay", "--model", "fake", "--wait", data_dir=data)
        assert scan.returncode == 0, scan.stderr
        assert "23 scored" in scan.stderr
        assert f"scanfleet results ls --scan {scan.stdout.strip()}" in scan.stderr
        worker.terminate()
        assert worker.wait(timeout=PATIENCE_SECONDS) == 0
    finally:
        worker.kill()
        worker.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(("source", "found"), [("manifest.csv", "columns: truth"), (".", "only manifests have")])
def test_a_truth_that_no_image_has_is_reported_before_anything_is_scored(
    data: Path, pictures: Path, source: str, found: str
) -> None:
    run = scanfleet("run", pictures / source, "--check", "overlay", "--truth", "nope", data_dir=data, model="fake")
    assert run.returncode == 2
    assert found in run.stderr
    assert not (data / "logs").exists()


@pytest.mark.slow
def test_a_model_that_cannot_be_fetched_is_reported_everywhere(data: Path, pictures: Path) -> None:
    run = start("run", pictures, "--check", "overlay", data_dir=data, model="foo/bar")  # the hub is away in all tests
    try:
        assert run.stderr is not None
        told = next(line for line in run.stderr if "the worker waits" in line)
        (log,) = (data / "logs").iterdir()
        assert "cannot fetch foo/bar" in told
        assert str(log) in told
        with ledger(data) as connection:
            scan_id = connection.execute(sa.select(Scan.id)).scalar_one()
        for command in (("scans", "show", scan_id), ("scans", "show", scan_id, "--format", "json"), ("worker", "ls")):
            answer = scanfleet(*command, data_dir=data)
            assert "cannot fetch foo/bar" in answer.stdout + answer.stderr, command
        asked = scanfleet("scan", pictures, "--check", "overlay", data_dir=data, model="foo/bar")
        assert "cannot fetch foo/bar" in asked.stderr
        run.send_signal(signal.SIGINT)
        _, rest = run.communicate(timeout=PATIENCE_SECONDS)
        assert run.returncode == 130
        assert "the worker waits" not in rest
    finally:
        run.kill()
        run.communicate()
