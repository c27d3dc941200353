"""An image that kills the process that scores it: found, quarantined, and nobody else blamed."""

import io
import signal
from pathlib import Path

import pytest
import sqlalchemy as sa
from PIL import Image as PillowImage

from scanfleet.db.engine import reading
from scanfleet.db.scans.crash_isolation import MAX_CRASHES
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.tables import Failure, Image, Scan
from scanfleet.storage.folder import FolderStore
from scanfleet.worker.scoring.model import FAKE_POISON
from tests.rigs.worker_fleet import Fleet, fleet
from tests.rigs.worker_rig import add_scan, png

LETHAL = (250, 1, 2)


def lethal_png() -> bytes:
    image = PillowImage.new("RGB", (40, 30), LETHAL)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def archive_with_poison(here: Fleet, n_images: int, *, at: int) -> str:
    here.archive.mkdir()
    for number in range(n_images):
        content = lethal_png() if number == at else png(number)
        (here.archive / f"{number:03}.png").write_bytes(content)
    listed = FolderStore(here.archive).list(str(here.archive))
    images = [NewImage(uri=info.uri, root=str(here.archive), etag=info.etag) for info in listed]
    return add_scan(here.engine, images, batch_images=8)


def test_a_lethal_image_is_quarantined_after_one_crash_and_three_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FAKE_POISON, ",".join(map(str, LETHAL)))
    with fleet(tmp_path, lease_seconds=1.0) as here:
        scan = archive_with_poison(here, 24, at=11)
        deaths = 0
        worker = here.start()

        def supervised() -> bool:
            """As a supervisor does: begin again whenever the worker has died."""
            nonlocal worker, deaths
            if worker.process.poll() is not None:
                assert worker.end() == -signal.SIGKILL
                deaths += 1
                worker = here.start()
            return here.count(Scan, Scan.id == scan, Scan.state == "done") == 1

        here.until(supervised)
        assert deaths == 1 + MAX_CRASHES + 1
        with reading(here.engine) as connection:
            rows = connection.execute(sa.select(Image.uri, Failure.stage, Failure.reason).join(Failure)).all()
            blamed = connection.execute(sa.select(Image.uri).where(Image.crashes > 0)).scalars().all()
        lethal = str(here.archive / "011.png")
        assert [tuple(row) for row in rows] == [(lethal, "process", "kills_the_worker")]
        assert blamed == [lethal]
        done = here.progress(scan)
        assert (done.n_verdicts, done.n_failures, done.n_pending) == (23, 1, 0)
