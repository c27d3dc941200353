"""The functions of `import scanfleet`: a `Fleet` with the settings of the environment, one for each call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os import PathLike
from typing import Any

from scanfleet.api.fleet import Sources, connect
from scanfleet.api.results import Results
from scanfleet.api.scans import Scan
from scanfleet.api.scoring import Scored
from scanfleet.checks.check import Check
from scanfleet.db.labels.history import LabelLine
from scanfleet.db.training.adapters import AdapterInfo


def scan(sources: Sources, *, check: str | Sequence[str], **options: Any) -> Scan:
    """List an archive, write its images as a scan, and notify the workers. See `Fleet.scan`."""
    return connect().scan(sources, check=check, **options)


def scans(*, limit: int = 1000) -> list[Scan]:
    """Return the scans, the newest first. See `Fleet.scans`."""
    return connect().scans(limit=limit)


def get_scan(scan_id: str) -> Scan:
    """Return a scan by its id. Raises UnknownName."""
    return connect().get_scan(scan_id)


def score(images: Sources, *, check: str = "overlay", **options: Any) -> Iterator[Scored]:
    """Score images now, without queue and ledger, one by one. See `Fleet.score`."""
    return connect().score(images, check=check, **options)


def results(**filters: Any) -> Results:
    """Return answers and failures, one per image. See `Results`."""
    return connect().results(**filters)


def labels(**filters: Any) -> list[LabelLine]:
    """Return labels with their state, the newest first. See `Fleet.labels`."""
    return connect().labels(**filters)


def add_label(uri: str | PathLike[str], label: str, *, check: str, **options: Any) -> str:
    """Label one image. See `Fleet.add_label`."""
    return connect().add_label(uri, label, check=check, **options)


def import_labels(file: str | PathLike[str], *, check: str, **options: Any) -> int:
    """Import a file or folder of labels. See `Fleet.import_labels`."""
    return connect().import_labels(file, check=check, **options)


def adapters(check: str | None = None) -> list[AdapterInfo]:
    """Return the adapters, the newest first. See `Fleet.adapters`."""
    return connect().adapters(check)


def list_checks() -> list[Check]:
    """Return the newest version of each check. (`scanfleet.checks` is a package.)"""
    return connect().checks()
