from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("multipart")

from tests.rigs.serve_rig import Served, served


@pytest.fixture
def api(database_url: str, tmp_path: Path) -> Iterator[Served]:
    folder = tmp_path / "allowed"
    folder.mkdir()
    limits = {"max_image_bytes": 200_000, "max_image_pixels": 1_000_000}
    more = {"serve_sources": f"{folder}, s3://ads/2026", "https_hosts": "img.example.com"}
    with served(tmp_path / "data", database_url=database_url, **limits, **more) as made:
        yield made
