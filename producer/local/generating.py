"""Generates pictures for a check, and labels them: for training alone.

A child process draws them and asks the champion (`worker.commands.generate`). Here they are read and labelled like
those of any file, in split train; one that looks like an image of another split is left out.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from scanfleet.checks.check import Check
from scanfleet.config.model_names import require_model
from scanfleet.config.settings import Settings
from scanfleet.db.engine import reading
from scanfleet.db.labels.queries import SYNTHETIC
from scanfleet.db.labels.splits import place_images
from scanfleet.errors import BadLabels, RequestError, SourceNotFound
from scanfleet.producer.labels.file_import import prepare_file
from scanfleet.producer.labels.importing import write
from scanfleet.producer.labels.preparing import PreparedLabels
from scanfleet.producer.local.child import Child
from scanfleet.producer.local.workers import require_worker_extra
from scanfleet.producer.scans.session import find_check
from scanfleet.retry import retry_database

SCENES = ("overlay", "baggage", "razor")  # whose pictures can be generated: `models.pocket.scenes`
WHO = "scanfleet"
TRAIN = "train"


@dataclass(frozen=True, kw_only=True)
class GeneratedLabels:
    """What was labelled and left out.

    n_labels: new labels. n_contradicted: pictures that the champion contradicts with confidence. n_elsewhere: pictures
    that look like images of another split. unfiltered: why the champion was not asked; None: it was.
    """

    n_labels: int
    n_contradicted: int
    n_elsewhere: int
    unfiltered: str | None


def generate_labels(
    engine: sa.Engine, settings: Settings, *, check_name: str, scenes: str | None, n: int, seed: int, out: Path
) -> GeneratedLabels:
    """Write pictures to `out`, which must not exist, and label them. After an error the folder is gone again.

    scenes: of SCENES; None: those of the check's name. Raises BadLabels, SourceNotFound, and what a child raises.
    """
    check = find_check(engine, check_name)
    request = _request(check, scenes=scenes or check.name, n=n, seed=seed, out=out)
    require_worker_extra()
    require_model(settings.model, elsewhere=False)
    done = _draw(settings, request)
    try:
        (prepared,) = prepare_file(
            engine, settings, out / "manifest.csv", check_name, who=WHO, label_column="truth", split=TRAIN,
            origin=SYNTHETIC,
        )  # fmt: skip
        kept, n_elsewhere = _in_train(engine, prepared)
        added = retry_database(lambda: write(engine, [kept]))
    except BaseException:
        shutil.rmtree(out)
        raise
    return GeneratedLabels(
        n_labels=len(added),
        n_contradicted=done["contradicted"],
        n_elsewhere=n_elsewhere,
        unfiltered=done["unfiltered"],
    )


def _request(check: Check, *, scenes: str, n: int, seed: int, out: Path) -> dict[str, Any]:
    if scenes not in SCENES:
        raise BadLabels(f"no pictures can be generated for {scenes}: --scenes takes {', '.join(SCENES)}")
    if out.exists():
        raise BadLabels(f"{out} exists: name a new folder with --out")
    folder = out.absolute().parent
    if not folder.is_dir():
        raise SourceNotFound(f"--out: no such folder: {folder}")
    if not os.access(folder, os.W_OK):
        raise RequestError(f"--out {out}: no permission to write in {folder}")
    return {
        "check": check.model_dump(mode="json"), "scenes": scenes, "n": n, "seed": seed, "out": str(out.absolute()),
    }  # fmt: skip


def _draw(settings: Settings, request: dict[str, Any]) -> dict[str, Any]:
    with Child(settings, "scanfleet.worker.commands.generate") as child:
        child.feed([request])
        (done,) = child.messages()
        return done


def _in_train(engine: sa.Engine, prepared: PreparedLabels) -> tuple[PreparedLabels, int]:
    """Leave out pictures whose cluster lies in another split. Returns the rest, and how many were left out."""
    with reading(engine, long=True) as connection:
        places = place_images(connection, prepared.check.name, prepared.images, wanted=TRAIN)
    elsewhere = {sha for sha, place in places.items() if place.split != TRAIN}
    kept = replace(
        prepared,
        images=[image for image in prepared.images if image.content_sha256 not in elsewhere],
        labels=[label for label in prepared.labels if label.content_sha256 not in elsewhere],
    )
    return kept, len(elsewhere)
