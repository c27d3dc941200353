"""The labelled images of an experiment, as `scanfleet tune` reads them."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scanfleet.checks.check import Check
from scanfleet.checks.experiment import Data
from scanfleet.config.settings import Settings
from scanfleet.errors import BadExperiment, SourceNotFound
from scanfleet.producer.training.tuning import LabelFile, from_file


def labelled(
    settings: Settings, data: Data, check: Check, folder: Path, *, on_progress: Callable[[int, int], None]
) -> list[dict[str, Any]]:
    """Return one row an image; none for generated pictures. folder: of the specification.

    Raises BadExperiment, BadLabels, SourceNotFound, AccessDenied, Retryable.
    """
    if data.labels is not None:
        return _read(settings, folder / data.labels, check, root=None, on_progress=on_progress)
    if data.folder is None:
        return []
    with tempfile.TemporaryDirectory() as place:
        listing = _listing(folder / data.folder, Path(place) / "labels.csv", check)
        return _read(settings, listing, check, root=str((folder / data.folder).absolute()), on_progress=on_progress)


def _read(
    settings: Settings, path: Path, check: Check, *, root: str | None, on_progress: Callable[[int, int], None]
) -> list[dict[str, Any]]:
    file = LabelFile(path=path, form="auto", pairs=(), empty=None, root=root, label_column="label", group_column=None)
    rows, _ = from_file(file, check, settings, skip_unreadable=False, on_progress=on_progress)
    return rows


def _listing(folder: Path, out: Path, check: Check) -> Path:
    """List a folder with a folder for each label. Raises SourceNotFound, BadExperiment."""
    if not folder.is_dir():
        raise SourceNotFound(f"data.folder: {folder} is no folder")
    unknown = sorted({place.name for place in folder.iterdir() if place.is_dir()} - set(check.labels))
    if unknown:
        raise BadExperiment(
            f"data.folder: check {check.name} has no label {unknown[0]}, and {folder} has such a folder"
        )
    with out.open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(("uri", "label"))
        for label in check.labels:
            for path in sorted((folder / label).rglob("*")):
                if path.is_file():
                    rows.writerow((str(path.relative_to(folder)), label))
    return out
