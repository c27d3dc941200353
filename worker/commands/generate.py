"""`python -m scanfleet.worker.commands.generate`: the child process of `scanfleet labels generate`.

In, one line: `Request` as JSON. Out: {"kind": "generated", ...} with the fields of `Generated`, or {"kind": "fault",
"words", "exit_code"}. The folder appears with all of its files or not at all.
"""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from PIL import Image

from scanfleet.checks.check import Check
from scanfleet.checks.crop import NEVER
from scanfleet.config.settings import Settings
from scanfleet.db.engine import reading
from scanfleet.db.schema import ledger
from scanfleet.db.training.champions import champion, is_decided
from scanfleet.errors import BadSettings, DeviceUnavailable
from scanfleet.models.errors import ModelInvalid, ModelUnavailable
from scanfleet.models.pocket.generate import COLUMNS, Order, write_archive
from scanfleet.worker.commands.standalone import resolve_alone
from scanfleet.worker.evaluation.readings import read_images
from scanfleet.worker.runtime.child_protocol import Reports, serve_request
from scanfleet.worker.scoring.adapters import AdapterFolders
from scanfleet.worker.scoring.factory import Resolved
from scanfleet.worker.scoring.model import load_model

CONFIDENT = 0.9  # probability at even odds from which on the champion contradicts a picture's label


@dataclass(frozen=True, kw_only=True)
class Request:
    """check: as a model dump. scenes: whose pictures. out: the folder, which does not exist."""

    check: dict[str, Any]
    scenes: str
    n: int
    seed: int
    out: str


@dataclass(frozen=True, kw_only=True)
class Generated:
    """n: pictures that were kept. contradicted: pictures that were left out. unfiltered: why none could be; or None."""

    n: int
    contradicted: int
    unfiltered: str | None


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A row of the manifest, as `read_images` reads it."""

    key: str
    path: Path

    @property
    def open(self) -> Any:
        return lambda path: Image.open(path).convert("RGB")


def main() -> None:
    serve_request(_serve)


def _serve(settings: Settings, asked: dict[str, Any], _: IO[str], reports: Reports) -> None:
    request = Request(**asked)
    out = Path(request.out)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        folder = Path(scratch) / out.name
        manifest = write_archive(Order(check=request.scenes, n=request.n, seed=request.seed, out=folder))
        try:
            generated = _filter(settings, Check.model_validate(request.check), manifest)
        except ModelInvalid as error:
            raise BadSettings(str(error)) from error
        except ModelUnavailable as error:
            raise DeviceUnavailable(str(error)) from error
        os.rename(folder, out)
    reports.send("generated", **asdict(generated))


def _filter(settings: Settings, check: Check, manifest: Path) -> Generated:
    """Delete the pictures of which the champion is confident that they are the opposite of their label."""
    with manifest.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    resolved, reason = _champion(settings, check)
    wrong = [] if resolved is None else contradicted(resolved, check, manifest.parent, rows)
    for row in wrong:
        (manifest.parent / row["uri"]).unlink()
    with manifest.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(row for row in rows if row not in wrong)
    return Generated(n=len(rows) - len(wrong), contradicted=len(wrong), unfiltered=reason)


def contradicted(
    resolved: Resolved, check: Check, folder: Path, rows: Sequence[dict[str, str]]
) -> list[dict[str, str]]:
    """Return the rows whose label the calibrated scorer contradicts with confidence."""
    calibrator = resolved.policy.calibrator
    assert calibrator is not None
    pictures = [Picture(key=row["uri"], path=folder / row["uri"]) for row in rows]
    readings = read_images(resolved.scorer, pictures).readings
    wrong = []
    for row in rows:
        flagged = calibrator.probability(readings[row["uri"]].margin, prevalence=0.5)
        against = 1 - flagged if row["truth"] in check.flags else flagged
        if against >= CONFIDENT:
            wrong.append(row)
    return wrong


def _champion(settings: Settings, check: Check) -> tuple[Resolved | None, str | None]:
    """Return the champion where it can filter, else why it cannot."""
    if check.crop != NEVER:
        return None, "the check has a crop pass"
    with ledger(settings) as engine, reading(engine) as connection:
        info = champion(connection, check.name, settings.model)
        decided = is_decided(connection, check.name, settings.model)
    if info is None and decided:
        return None, "the base model is in use alone"
    folder = None if info is None else AdapterFolders(settings).find(info)
    resolved = resolve_alone(load_model(settings), check, folder)
    if resolved.policy.calibrator is None:
        return None, "no calibrated adapter is in use"
    return resolved, None


if __name__ == "__main__":
    main()
