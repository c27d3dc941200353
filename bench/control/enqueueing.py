"""A manifest is enqueued by a process of its own, as `scanfleet scan` does it; its time and memory are what counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from scanfleet.config.settings import load_settings
from scanfleet.db.engine import connect
from scanfleet.db.schema import upgrade

PRODUCER = """
import json, resource, sys, time
from scanfleet.config.settings import load_settings
from scanfleet.producer.scans.session import Request, open_session
request = Request(sources=(sys.argv[1],), check_names=("overlay",), model=None, include=(), exclude=(), limit=None,
                  sample=None, seed=0, fresh=False)
with open_session(load_settings()) as session:
    pages = session.enqueue(request)
    next(pages)
    start = time.process_time()
    *_, last = pages
    seconds = time.process_time() - start
print(json.dumps([last.n_new, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))
"""


@dataclass(frozen=True, kw_only=True)
class Enqueued:
    us_per_image: float  # of the producer's processor
    peak_bytes: int


def enqueue_apart(folder: Path, n_images: int, *, database_url: str, broker_url: str) -> Enqueued:
    """Enqueue a text manifest of this many objects into an empty ledger."""
    manifest = folder / f"{n_images}.txt"
    with manifest.open("w") as lines:
        lines.writelines(
            f"s3://creatives/2026/11/campaign-{number // 1000:05}/{number:09}.jpg\n" for number in range(n_images)
        )
    settings = load_settings(data_dir=folder / "producer", model="fake", database_url=database_url)
    engine = connect(settings)
    upgrade(engine)
    engine.dispose()
    environment = os.environ | {
        "SCANFLEET_DATA_DIR": str(folder / "producer"),
        "SCANFLEET_DATABASE_URL": database_url,
        "SCANFLEET_BROKER_URL": broker_url,
        "SCANFLEET_MODEL": "fake",
    }
    command = [sys.executable, "-c", PRODUCER, str(manifest)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    manifest.unlink()
    n_new, seconds, peak_bytes = json.loads(done.stdout.splitlines()[-1])
    if n_new != n_images:
        raise AssertionError(f"{n_images} lines, {n_new} images enqueued")
    return Enqueued(us_per_image=seconds / n_images * 1e6, peak_bytes=peak_bytes)
