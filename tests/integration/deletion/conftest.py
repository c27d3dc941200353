"""An archive on each of the two databases."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from scanfleet.db.engine import transaction
from scanfleet.db.tables import Forgotten, Image, Label, LabelledImage, Training, Verdict
from tests.rigs.rescan_rig import Archive, archive, empty


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    folder = tmp_path_factory.mktemp("deletion")
    url = f"sqlite:///{folder / 'scanfleet.db'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_server").fresh_database()
    with archive(folder, database_url=url) as made:
        yield made


@pytest.fixture
def held(shared: Archive) -> Archive:
    """The archive of the module, emptied."""
    with transaction(shared.engine) as connection:
        connection.execute(sa.update(Image).values(verdict_id=None, replaced=None, rescan_of=None))
        connection.execute(sa.update(Verdict).values(reused_from=None))
        for table in (Forgotten, Label, LabelledImage, Training):
            connection.execute(sa.delete(table))
    empty(shared.engine)
    return shared
