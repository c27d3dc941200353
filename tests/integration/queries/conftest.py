"""One ledger of each kind for all questions: they only read."""

from collections.abc import Iterator

import pytest

from tests.rigs.asked_rig import Asked, asked


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def held(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    folder = tmp_path_factory.mktemp("asked")
    url = f"sqlite:///{folder / 'scanfleet.db'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_server").fresh_database()
    with asked(folder, database_url=url) as made:
        yield made
