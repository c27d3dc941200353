"""The cost of the ledger: images/s through enqueue, claim and commit on SQLite, against one plain INSERT."""

from __future__ import annotations

import tempfile
from pathlib import Path

import sqlalchemy as sa

from bench.report import Report, median_seconds_side_by_side
from scanfleet.checks.check import load_check
from scanfleet.config.settings import Settings, load_settings
from scanfleet.db.engine import transaction
from scanfleet.db.results import answers, verdicts
from scanfleet.db.results.scorers import ScorerSpec, scorer_id
from scanfleet.db.scans import batches, new_images, scans
from scanfleet.db.scans.batches import Claim
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.scans.scans import ScanInfo
from scanfleet.db.schema import ledger

N_IMAGES = 6_400
PAGE_IMAGES = 640


def run() -> Report:
    with tempfile.TemporaryDirectory() as folder, ledger(_settings(Path(folder))) as engine:
        drains = iter(_new_scan(engine, number) for number in range(100))
        enqueued: list[ScanInfo] = []
        enqueue, drain, plain = median_seconds_side_by_side(
            lambda: enqueued.append(_enqueue(engine, next(drains))),
            lambda: _drain(engine, enqueued[-1]),
            lambda: _plain_insert(engine),
        )
    return Report(
        name="ledger",
        figures={
            "enqueued_per_s": N_IMAGES / enqueue,
            "settled_per_s": N_IMAGES / drain,
            "plain_inserted_per_s": N_IMAGES / plain,
            "ledger_vs_plain_insert": (enqueue + drain) / plain,
        },
        notes=(f"{N_IMAGES} images in batches of 64, SQLite in WAL mode with synchronous=FULL, one process",),
    )


def _settings(folder: Path) -> Settings:
    return load_settings(data_dir=folder, model="fake")


def _new_scan(engine: sa.Engine, number: int) -> ScanInfo:
    with transaction(engine) as connection:
        check = load_check("overlay")
        scan, _ = scans.open_scan(connection, check=check, model="fake", sources=[str(number)], filters={})
        return scan


def _enqueue(engine: sa.Engine, scan: ScanInfo) -> ScanInfo:
    for start in range(0, N_IMAGES, PAGE_IMAGES):
        page = [NewImage(uri=f"mem://a/{number}") for number in range(start, start + PAGE_IMAGES)]
        with transaction(engine) as connection:
            new_images.add_images(connection, scan_id=scan.id, queue=scan.queue, images=page, batch_images=64)
    return scan


def _drain(engine: sa.Engine, scan: ScanInfo) -> None:
    spec = ScorerSpec(
        check_id=scan.check_id,
        base_model="fake",
        base_revision="1",
        precision="fp32",
        adapter_id=None,
        max_pixels=1,
        crop="never",
        calibrator=None,
        thresholds=None,
    )
    with transaction(engine) as connection:
        scorer = scorer_id(connection, spec)
    while True:
        with transaction(engine) as connection:
            held = batches.claim(connection, model=scan.model, worker="bench", lease_seconds=60)
        if held is None:
            return
        with transaction(engine) as connection:
            verdicts.write(connection, held, _outcome(held, scorer))


def _outcome(held: Claim, scorer: int) -> verdicts.Outcome:
    answers = [
        answers.NewVerdict(
            image_id=image.id,
            identity=image.identity,
            content_sha256=image.identity,
            width=100,
            height=100,
            label="none",
            decision="clear",
            score=0.1,
            margin=-2.0,
            mass=0.99,
            logits=(0.0, 1.0, 2.0),
        )
        for image in held.images
    ]
    return verdicts.Outcome(scorer_id=scorer, verdicts=answers, failures={})


def _plain_insert(engine: sa.Engine) -> None:
    """Insert the same number of rows of the same size in one transaction, without batches, leases and verdicts."""
    with transaction(engine) as connection:
        connection.execute(sa.text("CREATE TABLE IF NOT EXISTS plain (id INTEGER PRIMARY KEY, uri TEXT, body TEXT)"))
        rows = [{"uri": f"mem://a/{number}", "body": "x" * 200} for number in range(N_IMAGES)]
        connection.execute(sa.text("INSERT INTO plain (uri, body) VALUES (:uri, :body)"), rows)
