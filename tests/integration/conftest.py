"""Fixtures of tests that need a real service."""

from pathlib import Path

import pytest


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database on each of the two supported stores."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'scanfleet.db'}"
    url: str = request.getfixturevalue("pg_url")
    return url
