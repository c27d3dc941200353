"""A real server process with the pocket model, which fails now and then: `scanfleet run` writes what the model says."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scanfleet.checks.check import load_check
from scanfleet.config.settings import load_settings
from scanfleet.errors import DeviceUnavailable
from scanfleet.models import factory, pocket
from scanfleet.models.network.base import load_base
from scanfleet.models.types import Scorer
from scanfleet.worker.scoring.endpoint import EndpointModel, load_endpoint
from scanfleet.worker.scoring.factory import question_of
from scanfleet.worker.scoring.rate_limit import Clock
from tests.helpers.cli_call import scanfleet

FAULTS = "503,,,,,reset,,,,,garbage,,,,,429:0.2,,,,,truncated,,,,,nan,,,,"
KEY = "sk-s3cret-k3y-of-an-endpoint"
REFUSED_WIDTH = 160
BOUND = 1e-3  # logits: two programs that compute in fp32, in another order of summation
BOUND_JPEG = 0.1
SIZES = ((128, 128), (200, 120), (640, 300), (900, 700), (50, 40))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The address of a server process with the pocket model."""
    command = [
        sys.executable,
        "-m",
        "tests.services.chat_server",
        "--faults",
        FAULTS,
        "--refuse-width",
        str(REFUSED_WIDTH),
    ]
    quiet = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=quiet)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def here() -> Scorer:
    """The same model without a server."""
    return factory.scorer(load_base("pocket", device="cpu"), question_of(load_check("overlay")), None)


@contextmanager
def endpoint(folder: Path, url: str, **settings: Any) -> Iterator[EndpointModel]:
    """Loaded as a worker does it, which tries again while the server has a bad moment; here its pauses take no time."""
    given = load_settings(data_dir=folder, model="endpoint:pocket", endpoint_url=url, **settings)
    hurried = Clock(sleep=lambda _: None)
    while True:
        try:
            model = load_endpoint(given, clock=hurried)
            break
        except DeviceUnavailable:
            continue
    try:
        yield model
    finally:
        model.close()


def canary_images() -> list[Image.Image]:
    folder = pocket.adapter_folder("overlay") / "canary"
    return [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.png"))]


@pytest.mark.slow
@pytest.mark.parametrize(("image_format", "bound"), [("png", BOUND), ("jpeg", BOUND_JPEG)])
def test_an_endpoint_gives_the_margins_of_the_same_model_here(
    tmp_path: Path, url: str, here: Scorer, image_format: str, bound: float
) -> None:
    images = [picture.resize(size) for picture, size in zip(canary_images(), SIZES * 2, strict=False)]
    near = [here.score([here.prepare(image)])[0] for image in images]
    with endpoint(tmp_path, url, endpoint_image_format=image_format) as model:
        there = model.scorer(here.question, None)
        far = [there.score([there.prepare(image)])[0] for image in images]
    assert [reading.margin for reading in far] == pytest.approx([reading.margin for reading in near], abs=bound)
    assert [reading.mass for reading in far] == pytest.approx([reading.mass for reading in near], abs=bound)
    assert np.ptp([reading.margin for reading in near]) > 20 * BOUND_JPEG  # they are not all alike


@pytest.mark.slow
def test_a_run_over_a_server_that_fails_now_and_then_gives_every_image_its_due(
    tmp_path: Path, url: str, here: Scorer
) -> None:
    pictures, data = tmp_path / "pictures", tmp_path / "data"
    pictures.mkdir()
    data.mkdir()
    expected: dict[str, float] = {}
    for number, image in enumerate(canary_images()[:10]):
        image.save(pictures / f"{number}.png")
        expected[f"{number}.png"] = here.score([here.prepare(image)])[0].margin
    Image.new("RGB", (REFUSED_WIDTH, 128), (9, 99, 9)).save(pictures / "refused.png")
    (pictures / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    settings = {"model": "endpoint:pocket", "endpoint_url": url, "endpoint_key": KEY, "log_level": "debug"}
    run = scanfleet("run", pictures, "--check", "overlay", "--workers", "1", data_dir=data, **settings)
    assert run.returncode == 0, run.stderr
    exported = scanfleet("results", "export", "--format", "jsonl", data_dir=data)
    rows = [json.loads(line) for line in exported.stdout.splitlines()]
    found = {Path(row["uri"]).name: row["margin"] for row in rows if row["margin"] is not None}
    assert found == pytest.approx(expected, abs=BOUND)
    assert re.search(r"score +refused +1\b", run.stdout)
    assert re.search(r"decode +truncated +1\b", run.stdout)
    said = run.stdout + run.stderr + exported.stdout
    files = b"".join(path.read_bytes() for path in data.rglob("*") if path.is_file())
    assert b"endpoint_busy" in files
    assert KEY not in said
    assert KEY.encode() not in files
