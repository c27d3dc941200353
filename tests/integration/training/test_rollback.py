"""A scan that begins after a rollback gets no answer of the adapter that was rolled back, however quickly it begins."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from scanfleet.db.engine import reading, transaction
from scanfleet.db.tables import ScorerRow, Verdict
from scanfleet.db.training import champions
from scanfleet.db.training.adapters import register_adapter
from scanfleet.models.network.base import load_base
from scanfleet.worker.scoring.adapters import register_shipped
from scanfleet.worker.scoring.model import LoadedModel
from tests.rigs.second_adapter import info_of, second_adapter
from tests.rigs.worker_rig import Rig, png, rig


class Place:
    """A worker on the pocket model, whose timer has just followed each promotion and never a rollback."""

    def __init__(self, here: Rig, folder: Path, model: LoadedModel) -> None:
        self.here, self.model = here, model
        self._images = here.put({f"mem://{number}": png(number, width=64, height=64) for number in range(2)})
        self._adapter = info_of(second_adapter(model._base, folder / "second"))

    def promote(self) -> int:
        with transaction(self.here.engine) as connection:
            adapter_id = register_adapter(connection, self._adapter)
            champions.promote(connection, adapter_id, kind="forced", why="test")
        return adapter_id

    def roll_back(self) -> None:
        with transaction(self.here.engine) as connection:
            champions.roll_back(connection, "overlay", "pocket", why="test", who=None)

    def begin(self) -> str:
        return self.here.scan_listed(self._images)

    def adapters(self, scan: str) -> set[int | None]:
        query = sa.select(ScorerRow.adapter_id).join(Verdict, Verdict.scorer_id == ScorerRow.id)
        with reading(self.here.engine) as connection:
            found = list(connection.execute(query.where(Verdict.scan_id == scan)).scalars())
        assert len(found) == len(self._images)
        return set(found)

    def answer(self, scan: str) -> set[int | None]:
        self.here.drain()
        return self.adapters(scan)


@pytest.fixture
def place(tmp_path: Path, database_url: str) -> Iterator[Place]:
    model = LoadedModel(load_base("pocket", device="cpu"))
    with rig(tmp_path, model=model, database_url=database_url, fetch_threads=2) as here:
        yield Place(here, tmp_path, model)


@pytest.mark.parametrize(
    ("shipped", "n"),
    [(False, 2), (True, 2), pytest.param(False, 20, marks=pytest.mark.slow)],
    ids=["to the base", "to an adapter", "often"],
)
def test_a_scan_right_after_a_rollback_is_never_answered_by_the_adapter_rolled_back(
    place: Place, shipped: bool, n: int
) -> None:
    before = None
    if shipped:
        register_shipped(place.here.engine, place.model.identity)
        with reading(place.here.engine) as connection:
            before = champions.in_use(connection)["overlay", "pocket"]
    assert place.answer(place.begin()) == {before}
    for _ in range(n):
        promoted = place.promote()
        place.here.scoring.scorers.check()
        assert place.answer(place.begin()) == {promoted}  # from now on its answers may be reused
        place.here.scoring.scorers.check()  # the scorer before it is dropped from memory
        older = place.begin()
        place.roll_back()
        newer = place.begin()
        place.here.drain()
        assert (place.adapters(newer), place.adapters(older) <= {before, promoted}) == ({before}, True)
