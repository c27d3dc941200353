"""A running worker with the pocket model, while an adapter is promoted, rolled back, and another one refused."""

import itertools
import json
import signal
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa

from scanfleet.db.engine import reading, transaction
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.tables import Batch, Image, ScorerRow, Verdict
from scanfleet.db.training import champions, refusals
from scanfleet.db.training.adapters import AdapterInfo, register_adapter
from scanfleet.models.network.base import load_base
from scanfleet.storage.folder import FolderStore
from tests.helpers.cli_process import scanfleet
from tests.rigs.second_adapter import info_of, out_of_tune, second_adapter
from tests.rigs.worker_fleet import Fleet, fleet
from tests.rigs.worker_rig import add_scan, png

BATCH_IMAGES = 4
FED = 24  # images of one scan: several batches
MAX_SCANS = 200


@dataclass
class Archive:
    """Feeds a worker with one small scan after the other, no two images alike."""

    fleet: Fleet
    scans: list[str] = field(default_factory=list)
    numbers: itertools.count = field(default_factory=itertools.count)  # type: ignore[type-arg]

    def feed(self) -> None:
        folder = self.fleet.folder / "archive" / str(len(self.scans))
        folder.mkdir(parents=True)
        for _ in range(FED):
            number = next(self.numbers)
            (folder / f"{number}.png").write_bytes(png(number, width=64, height=64))
        listed = FolderStore(folder).list(str(folder))
        images = [NewImage(uri=info.uri, root=str(folder), etag=info.etag) for info in listed]
        self.scans.append(add_scan(self.fleet.engine, images, batch_images=BATCH_IMAGES, model="pocket"))

    def feed_until_answered_by(self, adapter_id: int) -> None:
        """There is work all the time: a worker that waits for a switch is not idle."""
        before = len(self.scans)
        while not any(self.answered(scan, adapter_id) for scan in self.scans[before:]):
            assert len(self.scans) < before + MAX_SCANS
            self.feed()
            self.fleet.until_done(self.scans[-1])

    def answered(self, scan: str, adapter_id: int) -> bool:
        query = sa.select(Verdict.id).join(ScorerRow, ScorerRow.id == Verdict.scorer_id)
        with reading(self.fleet.engine) as connection:
            return (
                connection.execute(
                    query.where(Verdict.scan_id == scan, ScorerRow.adapter_id == adapter_id).limit(1)
                ).first()
                is not None
            )

    def batches(self) -> list[set[int | None]]:
        """The adapters that answered each batch, in the order of the batches."""
        query = (
            sa.select(Image.batch_id, ScorerRow.adapter_id)
            .join(Verdict, Verdict.id == Image.verdict_id)
            .join(ScorerRow, ScorerRow.id == Verdict.scorer_id)
            .order_by(Image.batch_id)
        )
        with reading(self.fleet.engine) as connection:
            found: dict[int, set[int | None]] = {}
            for row in connection.execute(query):
                found.setdefault(row.batch_id, set()).add(row.adapter_id)
        return list(found.values())


def enter(here: Fleet, adapter: AdapterInfo) -> int:
    with transaction(here.engine) as connection:
        adapter_id = register_adapter(connection, adapter)
        champions.promote(connection, adapter_id, kind="forced", why="test")
    return adapter_id


@pytest.mark.slow
def test_a_running_worker_follows_promotion_and_rollback_and_refuses_what_its_canary_speaks_against(
    tmp_path: Path,
) -> None:
    base = load_base("pocket", device="cpu")
    better = info_of(second_adapter(base, tmp_path / "better"))
    bad = info_of(out_of_tune(second_adapter(base, tmp_path / "bad", strength=1.2)))
    with fleet(tmp_path, batches_in_flight=1) as here:
        archive = Archive(here)
        worker = here.start(model="pocket", device="cpu", lease_seconds=60)
        archive.feed()
        here.until_done(archive.scans[-1])
        with reading(here.engine) as connection:
            shipped = champions.in_use(connection)["overlay", "pocket"]
        assert shipped is not None

        promoted = enter(here, better)
        archive.feed_until_answered_by(promoted)
        with transaction(here.engine) as connection:
            champions.roll_back(connection, "overlay", "pocket", why="test", who=None)
        archive.feed_until_answered_by(shipped)
        n_before = len(archive.batches())
        refused = enter(here, bad)

        def is_refused() -> bool:
            with reading(here.engine) as connection:
                return [each.adapter_id for each in refusals.open_refusals(connection)] == [refused]

        archive.feed()
        here.until(is_refused)
        archive.feed()
        here.until_done(archive.scans[-1])

        assert worker.process.poll() is None  # the same process all the time
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0
        n = FED * len(archive.scans)
        assert here.count(Verdict) == here.count(Image, Image.state == "verdict") == n  # none lost, none twice
        assert here.count(Batch, Batch.attempts > 1) == 0
        answered = archive.batches()
        assert all(len(adapters) == 1 for adapters in answered)
        order = [adapter for adapter, _ in itertools.groupby(next(iter(adapters)) for adapters in answered)]
        assert order == [shipped, promoted, shipped]
        assert set().union(*answered[n_before:]) == {shipped}
        assert "adapter_refused" in worker.log


@pytest.mark.slow
def test_a_run_of_a_check_in_other_words_names_the_adapter_that_does_not_answer(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png(1, width=64, height=64))
    shown = scanfleet("checks", "show", "baggage", data_dir=tmp_path).stdout
    for old, new, told in (('gun = "gun"\n', "", False), ('"no threat"', '"nothing"', True)):
        assert old in shown
        (tmp_path / "mine.toml").write_text(shown.replace(old, new))
        run = scanfleet("run", tmp_path / "1.png", "--check", tmp_path / "mine.toml", data_dir=tmp_path)
        scan = run.stdout.split()[1].rstrip(":")
        assert run.returncode == 0, run.stderr
        assert ("it learnt other descriptions" in run.stderr) is told
        exported = scanfleet("results", "export", "--scan", scan, "--format", "jsonl", data_dir=tmp_path).stdout
        assert (json.loads(exported)["scorer"]["mode"] == "zero-shot, menu rotated") is told
