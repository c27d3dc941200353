"""A worker process with the shipped model: what it writes is what the model says, read by the shipped adapter."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from PIL import Image as PillowImage

from scanfleet.checks.check import load_check
from scanfleet.db.engine import reading
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.tables import Image, ScorerRow, Verdict
from scanfleet.models import factory, pocket
from scanfleet.models.adapters.card import read_card
from scanfleet.models.network.base import load_base
from scanfleet.storage.folder import FolderStore
from scanfleet.worker.scoring.factory import question_of
from tests.rigs.worker_fleet import fleet
from tests.rigs.worker_rig import add_scan

N_IMAGES = 12


def make_archive(folder: Path) -> None:
    command = [sys.executable, "-m", "scanfleet.models.pocket.generate", "--check", "overlay", "--n", str(N_IMAGES)]
    subprocess.run([*command, "--seed", "11", "--out", str(folder)], check=True, timeout=300)


@pytest.mark.slow
def test_the_shipped_model_and_adapter_score_as_a_service(tmp_path: Path) -> None:
    make_archive(tmp_path / "pictures")
    with fleet(tmp_path) as here:
        listed = [info for info in FolderStore(tmp_path).list(str(tmp_path / "pictures")) if ".csv" not in info.uri]
        images = [NewImage(uri=info.uri, root=str(tmp_path), etag=info.etag) for info in listed]
        scan = add_scan(here.engine, images, batch_images=5, model="pocket")
        worker = here.start(model="pocket", device="cpu", lease_seconds=60)
        here.until_done(scan)
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0
        query = sa.select(
            Image.uri, Verdict.margin, Verdict.score, Verdict.decision, Verdict.mass, Verdict.unlike, ScorerRow
        )
        query = query.join(Verdict, Verdict.id == Image.verdict_id)
        query = query.join(ScorerRow, ScorerRow.id == Verdict.scorer_id)
        with reading(here.engine) as connection:
            rows = connection.execute(query).all()
    card = read_card(pocket.adapter_folder("overlay"))
    scorer = factory.scorer(
        load_base("pocket", device="cpu"), question_of(load_check("overlay")), pocket.adapter_folder("overlay")
    )
    assert len(rows) == N_IMAGES
    assert card.calibrator is not None
    assert card.thresholds is not None
    for row in rows:
        with PillowImage.open(row.uri) as image:
            alone = scorer.score([scorer.prepare(image.convert("RGB"))])[0]
        assert row.margin == pytest.approx(alone.margin, abs=1e-3)
        assert row.mass > 0.9
        assert row.score == pytest.approx(card.calibrator.probability(row.margin))
        assert row.unlike == pytest.approx(alone.unlike, abs=0.01)
        assert row.decision == ("review" if alone.is_unlike else card.thresholds.decide(row.margin))
        assert (row.base_model, row.base_revision) == ("pocket", scorer.identity.revision)
        assert row.adapter_id is not None
