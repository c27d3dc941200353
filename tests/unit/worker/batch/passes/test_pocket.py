"""A pass on the pocket model: the answers of separate scans, and a promotion that touches one scan alone."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from scanfleet.checks.check import Check, load_check
from scanfleet.db.engine import transaction
from scanfleet.db.tables import ScorerRow, Verdict
from scanfleet.db.training import champions
from scanfleet.db.training.adapters import register_adapter
from scanfleet.models.network.base import BaseModel, load_base
from scanfleet.models.pocket.scenes.planted import planted
from scanfleet.worker.batch.leases import Lease
from scanfleet.worker.scoring.adapters import register_shipped
from scanfleet.worker.scoring.model import LoadedModel
from tests.rigs.second_adapter import info_of, second_adapter
from tests.rigs.worker_rig import Rig, add_scan, rig

N = 6
TOLERANCE = 1e-4
QUESTIONS = {"text": "Is there any text in this image?", "sign": "Was the text put over the picture afterwards?"}
CHECKS = [
    load_check("overlay"),  # an adapter, the instruction first
    *(
        Check(name=name, prompt=prompt, labels=("yes", "no"), flags=("yes",), min_pixels=4096, order="image-first")
        for name, prompt in QUESTIONS.items()
    ),
]


@pytest.fixture(scope="module")
def base() -> Iterator[BaseModel]:
    threads = torch.get_num_threads()
    yield load_base("pocket", precision="fp32", device="cpu")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pictures() -> dict[str, bytes]:
    made = {}
    for index in range(N):
        buffer = io.BytesIO()
        planted(3, index).image.resize((128, 128)).save(buffer, "PNG")
        made[f"mem://a/{index}.png"] = buffer.getvalue()
    return made


class Shared(LoadedModel):
    """Counts the images that are read for several questions at once, and those that are prepared."""

    def __init__(self, base: BaseModel) -> None:
        super().__init__(base)
        self.n_together: list[int] = []

    def together(self, scorers):  # type: ignore[no-untyped-def]
        self.n_together.append(len(scorers))
        return super().together(scorers)


def scanned(worker: Rig, pictures: dict[str, bytes], *, pass_id: str | None) -> list[str]:
    register_shipped(worker.engine, worker.scoring.model.identity)
    images = worker.put(pictures)
    return [
        add_scan(worker.engine, images, check=check, model=worker.settings.model, pass_id=pass_id, batch_images=3)
        for check in CHECKS
    ]


@pytest.mark.slow
def test_the_answers_are_those_of_separate_scans(base: BaseModel, pictures: dict[str, bytes], tmp_path: Path) -> None:
    answers: dict[str | None, list[dict[str, float]]] = {}
    for pass_id in (None, "p"):
        model = Shared(base)
        with rig(tmp_path / str(pass_id), model=model) as worker:
            found = scanned(worker, pictures, pass_id=pass_id)
            worker.drain()
            answers[pass_id] = [worker.margins(scan) for scan in found]
            assert all(len(margins) == N for margins in answers[pass_id])
            assert model.n_together == ([] if pass_id is None else [3])
    for alone, together in zip(answers[None], answers["p"], strict=True):
        assert together == pytest.approx(alone, abs=TOLERANCE)
    assert len({round(margin, 3) for each in answers["p"] for margin in each.values()}) > N


@pytest.mark.slow
def test_a_promotion_in_between_touches_the_rows_of_its_check_alone(
    base: BaseModel, pictures: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = info_of(second_adapter(base, tmp_path / "second"))
    with rig(tmp_path / "p", model=Shared(base)) as worker:
        # the first scan's batch reads for the others; then the champion of `overlay`, now a sibling, changes
        monkeypatch.setitem(globals(), "CHECKS", [*CHECKS[1:], CHECKS[0]])
        found = scanned(worker, pictures, pass_id="p")
        claim, promoted = worker.pipeline.leases.claim, []

        def promoting(*, only: bool = False, **how: object) -> Lease | None:
            if only and not promoted:
                with transaction(worker.engine) as connection:
                    promoted.append(register_adapter(connection, second))
                    champions.promote(connection, promoted[0], kind="forced", why="test")
            return claim(only=only, **how)  # type: ignore[arg-type]

        monkeypatch.setattr(worker.pipeline.leases, "claim", promoting)
        worker.drain()
        adapters = {row.id: row.adapter_id for row in worker.rows(ScorerRow)}
        used = [{adapters[row.scorer_id] for row in worker.rows(Verdict, Verdict.scan_id == scan)} for scan in found]
        assert used == [{None}, {None}, {promoted[0]}]
        margins = [worker.margins(scan) for scan in found]
        assert [len(each) for each in margins] == [N] * 3
    with rig(tmp_path / "alone", model=Shared(base)) as worker:
        found = scanned(worker, pictures, pass_id=None)
        with transaction(worker.engine) as connection:
            champions.promote(connection, register_adapter(connection, second), kind="forced", why="test")
        worker.drain()
        for scan, together in zip(found, margins, strict=True):
            assert together == pytest.approx(worker.margins(scan), abs=TOLERANCE)
