"""The producer's part of `scanfleet tune`: labelled images, the adapter to tune with, and the new version of the check.

The images come from a file or from the ledger.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydantic import ValidationError

from scanfleet.checks.check import Check
from scanfleet.config.endpoints import PREFIX
from scanfleet.config.settings import Settings
from scanfleet.db.engine import reading, transaction
from scanfleet.db.labels.clusters import Links
from scanfleet.db.labels.labels import iter_current_labels
from scanfleet.db.results.calibrations import Configuration, Fitted, add_calibration
from scanfleet.db.scans.checks import save_check
from scanfleet.db.training.champions import champion, is_decided
from scanfleet.errors import BadCheck, BadLabels, BadSettings, RequestError
from scanfleet.producer.labels.fetching import Fetched, fetch_images
from scanfleet.producer.labels.formats.detect import read_labels
from scanfleet.producer.labels.formats.entries import Options, Problems
from scanfleet.producer.labels.image_refs import root_of
from scanfleet.producer.labels.label_names import ImageLabel, LabelMapping, map_labels, parse_map, spares_of

USED = ("train", "calibration", "threshold")  # splits of the ledger; golden images only judge adapters
UNTAUGHT = ("calibration", "threshold")  # splits that no adapter learns from
SHOWN = 5
SHIPPED = "shipped"
NOT_TUNED = "nothing was tuned"


@dataclass(frozen=True, kw_only=True)
class Answering:
    """The adapter that answers. folder: its folder, "shipped", or None for the base alone; registered: one of the
    ledger instead.
    """

    folder: str | None = None
    registered: dict[str, Any] | None = None

    @property
    def taught(self) -> bool:
        """True if it may have learnt from labels of the ledger; adapters that ship with scanfleet have not."""
        if self.registered is not None:
            return not str(self.registered["uri"]).startswith("builtin://")
        return self.folder not in (None, SHIPPED)


@dataclass(frozen=True, kw_only=True)
class LabelFile:
    """A file of labels and how to read it; the options of `labels import`."""

    path: Path
    form: str
    root: str | None
    label_column: str
    group_column: str | None
    pairs: Sequence[str]
    empty: str | None


def require_tunable(check: Check, settings: Settings) -> None:
    """Raises BadCheck, BadSettings if there can be no crop pass."""
    if check.steps:
        raise BadCheck(f"check {check.name} has steps, which get no crops: tune a check with one question")
    if settings.model.startswith(PREFIX):
        raise BadSettings(f"{settings.model} is an endpoint, which exposes no attention: tune a local model")


def under_name(check: Check, name: str) -> Check:
    """Return the check under another name. Raises BadCheck for an invalid name."""
    try:
        return Check.model_validate(check.model_dump() | {"name": name})
    except ValidationError:
        raise BadCheck(f"--as {name}: a name is lower-case letters, digits, - and _, at most 63") from None


def require_new(folder: Path) -> None:
    """Check before the work that a folder is empty or can be made. Raises RequestError."""
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() or folder.is_symlink():
        raise RequestError(f"--out {folder}: already exists: name a new folder")
    if not folder.absolute().parent.is_dir():
        raise RequestError(f"--out {folder}: there is no folder {folder.absolute().parent}")
    if not os.access(folder.absolute().parent, os.W_OK | os.X_OK):
        raise RequestError(f"--out {folder}: no permission to write in {folder.absolute().parent}")


def answering(engine: sa.Engine | None, check: Check, settings: Settings, given: str | None) -> Answering:
    """Return the adapter that was named, else the one that scans use."""
    if given is not None:
        return Answering(folder=given)
    if engine is None:
        return Answering(folder=SHIPPED)
    with reading(engine) as connection:
        info = champion(connection, check.name, settings.model)
        decided = is_decided(connection, check.name, settings.model)
    if info is not None:
        return Answering(registered=asdict(info) | {"created_at": None})
    return Answering(folder=None if decided else SHIPPED)


def from_ledger(engine: sa.Engine | None, check: Check, *, taught: bool) -> list[dict[str, Any]]:
    """Return the current labels. taught: the adapter learnt from some, whose margins are then left out.

    Raises BadLabels if there are none.
    """
    splits = UNTAUGHT if taught else USED
    labelled = [] if engine is None else [one for one in iter_current_labels(engine, check.name) if one.split in splits]
    if not labelled:
        raise BadLabels(
            f"check {check.name} has no labelled images in the ledger (splits {', '.join(splits)}): "
            "`scanfleet labels import` adds some, or name a file with --labels"
        )
    unknown = sorted({one.label for one in labelled} - set(check.labels))
    if unknown:
        raise BadLabels(f"the ledger has labels that check {check.name} has not: {', '.join(unknown[:SHOWN])}")
    names = ("content_sha256", "uri", "root", "label", "cluster", "width", "height")
    return [{name: getattr(one, name) for name in names} for one in labelled]


def from_file(
    file: LabelFile, check: Check, settings: Settings, *, skip_unreadable: bool, on_progress: Callable[[int, int], None]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return the images of a file of labels, each once, and the errors of unreadable ones by uri.

    on_progress: takes the number of images read, and of all images.

    Raises BadLabels with all problems, SourceNotFound, AccessDenied, Retryable.
    """
    mapping = LabelMapping(check=check, mapping=parse_map(file.pairs), empty=file.empty)
    root = root_of(file.root, labels=file.path)
    options = Options(label=file.label_column, group=file.group_column, images=root.path)
    problems = Problems(str(file.path), ending=NOT_TUNED)
    entries = read_labels(file.path, form=file.form, options=options, problems=problems)
    # Each entry counts as another person's, so that differing labels get an error of their own below.
    entries = [replace(entry, who=entry.where) for entry in entries if not entry.blank]
    given = map_labels(entries, mapping, who="", root=root, problems=problems)
    _require_agreement(given, problems)
    n_images, n_done = len({one.image.uri for one in given}), 0

    def done(more: int) -> None:
        nonlocal n_done
        n_done += more
        on_progress(n_done, n_images)

    fetched = fetch_images([one.image for one in given], settings, done=done, spares=spares_of(given))
    unread = {uri: str(error) for uri, error in fetched.unread.items()}
    if unread and (not skip_unreadable or not fetched.seen):
        first = "; ".join(f"{uri}: {error}" for uri, error in list(unread.items())[:SHOWN])
        more = f"; and {len(unread) - SHOWN} more" if len(unread) > SHOWN else ""
        images, them = ("image", "it") if len(unread) == 1 else ("images", "them")
        hint = f" (--skip-unreadable leaves {them} out)" if fetched.seen else ": is --root right?"
        raise BadLabels(f"{file.path}: {len(unread)} {images} cannot be read: {first}{more}{hint}")
    return _rows(given, fetched, problems), unread


def _require_agreement(given: Iterable[ImageLabel], problems: Problems) -> None:
    """Raises BadLabels if a name has two labels, before anything is fetched."""
    first: dict[str, ImageLabel] = {}
    for one in given:
        before = first.setdefault(one.image.uri, one)
        if before.label != one.label:
            problems.add(
                one.where, f"{one.image.uri} is labelled {one.label} here and {before.label} in {before.where}"
            )
    problems.raise_any()


def _rows(given: Iterable[ImageLabel], fetched: Fetched, problems: Problems) -> list[dict[str, Any]]:
    """Return one row per image. Raises BadLabels if the same bytes have two labels."""
    seen = {}
    labels: dict[str, ImageLabel] = {}
    for one in given:
        image = fetched.seen.get(one.image.uri)
        if image is None:
            continue
        first = labels.setdefault(image.content_sha256, one)
        if first.label != one.label:
            same = f"{first.image.uri}, the same picture, is labelled {first.label} in {first.where}"
            problems.add(one.where, f"{image.uri} is labelled {one.label}, and {same}")
        seen[image.content_sha256] = image if one.group is None else replace(image, group=one.group)
    problems.raise_any()
    links = Links(list(seen.values()))
    return [
        {
            "content_sha256": sha,
            "uri": image.uri,
            "root": image.root,
            "label": labels[sha].label,
            "cluster": links.home(image, wanted="train", pinned=False).cluster,
            "width": image.width,
            "height": image.height,
        }
        for sha, image in seen.items()
    ]


def apply(engine: sa.Engine, tuned: dict[str, Any], *, who: str | None) -> str:
    """Store the tuned check and its calibration, both or neither. Returns its hash."""
    check = Check.model_validate(tuned["check"])
    made = tuned["fitted"]
    with transaction(engine) as connection:
        save_check(connection, check, added=True)
        add_calibration(
            connection,
            Configuration(**tuned["configuration"]),
            Fitted(**{name: made[name] for name in ("calibrator", "thresholds", "first_thresholds")}),
            check_name=check.name,
            metrics=made["metrics"],
            who=who,
        )
    return check.hash
