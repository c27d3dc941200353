"""A large COCO file: seconds and peak memory of an import up to its last commit, without the images.

Each measurement is a process of its own. `whole` reads the same file at once, as `json.load` does.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.report import Report, seconds
from scanfleet.checks.check import load_check
from scanfleet.config.settings import load_settings
from scanfleet.db.engine import connect
from scanfleet.db.labels.clusters import SeenImage
from scanfleet.db.schema import upgrade
from scanfleet.producer.labels.fetching import Fetched
from scanfleet.producer.labels.formats.detect import read_labels
from scanfleet.producer.labels.formats.entries import Options, Problems
from scanfleet.producer.labels.image_refs import Root
from scanfleet.producer.labels.importing import write
from scanfleet.producer.labels.label_names import LabelMapping, map_labels
from scanfleet.producer.labels.preparing import prepare

ANNOTATIONS = int(os.environ.get("BENCH_ANNOTATIONS", "1000000"))
PER_IMAGE = 100
SIZE = (640, 480)
STAGES = ("whole", "read", "import")


def run() -> Report:
    figures: dict[str, Any] = {"annotations": ANNOTATIONS, "images": ANNOTATIONS // PER_IMAGE}
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "coco.json"
        write_coco(path, ANNOTATIONS)
        figures["file_mb"] = path.stat().st_size / 2**20
        for stage in STAGES:
            command = [sys.executable, "-m", "bench.labels", stage, str(path)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            figures[stage] = json.loads(done.stdout)
    return Report(name="labels", figures=figures)


def write_coco(path: Path, n: int) -> None:
    """Write images with 100 annotations each: box, polygon and area, as COCO's own files have them."""
    with path.open("w") as file:
        file.write('{"images": [')
        file.write(",\n".join(json.dumps(_image(number)) for number in range(n // PER_IMAGE)))
        file.write('],\n"annotations": [')
        for number in range(n):
            file.write((",\n" if number else "") + json.dumps(_annotation(number)))
        file.write('],\n"categories": [{"id": 1, "name": "gun"}, {"id": 2, "name": "knife"}]}')


def _image(number: int) -> dict[str, Any]:
    return {"id": number, "file_name": f"{number:07}.jpg", "width": SIZE[0], "height": SIZE[1]}


def _annotation(number: int) -> dict[str, Any]:
    x, y = number % 500 + 0.25, number % 300 + 0.5
    return {
        "id": number,
        "image_id": number // PER_IMAGE,
        "category_id": 1 + number % 2,
        "bbox": [x, y, 40.5, 50.25],
        "segmentation": [[x, y, x + 40, y, x + 40, y + 50.25, x, y + 50]],
        "area": 2035.125,
        "iscrowd": 0,
    }


def measure(stage: str, path: Path) -> None:
    """Print seconds, and megabytes beyond those of a process that has read nothing, as a line of JSON."""
    before = _peak_mb()
    work: Callable[[Path], object] = {"whole": _whole, "read": _read, "import": _import}[stage]
    taken = seconds(lambda: work(path))
    print(json.dumps({"seconds": taken, "peak_mb": _peak_mb(), "beyond_start_mb": _peak_mb() - before}))


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _whole(path: Path) -> Any:
    return json.loads(path.read_text())


def _read(path: Path) -> Any:
    return read_labels(path, form="coco", options=Options(images=path.parent))


def _import(path: Path) -> None:
    check, problems = load_check("baggage"), Problems(path.name)
    mapping = LabelMapping(check=check, mapping={}, empty=None)
    given = map_labels(_read(path), mapping, who="me", root=Root(folder=str(path.parent)), problems=problems)
    fetched = Fetched(seen={image.uri: image for image in _seen(one.image.uri for one in given)})
    prepared = prepare(given, fetched, check, problems, origin="import")
    with tempfile.TemporaryDirectory() as folder:
        engine = connect(load_settings(data_dir=Path(folder)))
        upgrade(engine)
        write(engine, [prepared])
        engine.dispose()


def _seen(uris: Iterator[str]) -> Iterator[SeenImage]:
    for uri in uris:
        sha = hashlib.sha256(uri.encode()).hexdigest()
        yield SeenImage(
            content_sha256=sha, uri=uri, root=None, etag=None, width=SIZE[0], height=SIZE[1], phash=sha[:16]
        )


if __name__ == "__main__":
    measure(sys.argv[1], Path(sys.argv[2]))
