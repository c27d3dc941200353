"""What `scanfleet tune` needs of the producing half: labelled images from a file or the ledger, the adapter of scans,
and the new version of the check."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydantic import ValidationError

from producer.labels.fetching import Fetched, fetch_images
from producer.labels.formats.detect import read_labels
from producer.labels.formats.entries import Faults, Options
from producer.labels.image_refs import root_of
from producer.labels.label_names import Said, Words, parse_map, understand
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

USED = ("train", "calibration", "threshold")  # splits of the ledger; golden images only ever judge adapters
UNTAUGHT = ("calibration", "threshold")  # that no adapter has learnt from
SHOWN = 5
SHIPPED = "shipped"
NOT_TUNED = "nothing was tuned"


@dataclass(frozen=True, kw_only=True)
class Answering:
    """Which adapter answers. folder: its folder, "shipped" or None for the base alone; registered: one of the ledger
    instead."""

    folder: str | None = None
    registered: dict[str, Any] | None = None

    @property
    def taught(self) -> bool:
        """Whether it may have learnt from the labels of the ledger; what ships with the code has not."""
        if self.registered is not None:
            return not str(self.registered["uri"]).startswith("builtin://")
        return self.folder not in (None, SHIPPED)


@dataclass(frozen=True, kw_only=True)
class LabelFile:
    """How a file of labels is to be read; the options of `labels import`."""

    path: Path
    form: str
    root: str | None
    label_column: str
    group_column: str | None
    pairs: Sequence[str]
    empty: str | None


def require_tunable(check: Check, settings: Settings) -> None:
    """Raises BadCheck, BadSettings for what has no second look."""
    if check.steps:
        raise BadCheck(f"check {check.name} has steps, which get no crops: tune a check with one question")
    if settings.model.startswith(PREFIX):
        raise BadSettings(f"{settings.model} is an endpoint, which exposes no attention: tune a local model")


def under_name(check: Check, name: str) -> Check:
    """The same check under a name. Raises BadCheck for one that no check can have."""
    try:
        return Check.model_validate(check.model_dump() | {"name": name})
    except ValidationError:
        raise BadCheck(f"--as {name}: a name is lower-case letters, digits, - and _, at most 63") from None


def require_new(folder: Path) -> None:
    """Raises RequestError for a folder that holds something, or that cannot be made: before the work, not after it."""
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() or folder.is_symlink():
        raise RequestError(f"--out {folder}: already exists: name a new folder")
    if not folder.absolute().parent.is_dir():
        raise RequestError(f"--out {folder}: there is no folder {folder.absolute().parent}")
    if not os.access(folder.absolute().parent, os.W_OK | os.X_OK):
        raise RequestError(f"--out {folder}: no permission to write in {folder.absolute().parent}")


def answering(engine: sa.Engine | None, check: Check, settings: Settings, given: str | None) -> Answering:
    """The adapter that was named, else the one that scans use."""
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
    """The labels that stand. taught: an adapter answers, whose margins on what it learnt from say nothing.

    Raises BadLabels where there is none.
    """
    splits = UNTAUGHT if taught else USED
    standing = [] if engine is None else [one for one in iter_current_labels(engine, check.name) if one.split in splits]
    if not standing:
        raise BadLabels(
            f"check {check.name} has no labelled images in the ledger (splits {', '.join(splits)}): "
            "`scanfleet labels import` adds some, or name a file with --labels"
        )
    unknown = sorted({one.label for one in standing} - set(check.labels))
    if unknown:
        raise BadLabels(f"the ledger has labels that check {check.name} has not: {', '.join(unknown[:SHOWN])}")
    names = ("content_sha256", "uri", "root", "label", "cluster", "width", "height")
    return [{name: getattr(one, name) for name in names} for one in standing]


def from_file(
    file: LabelFile, check: Check, settings: Settings, *, skip_unreadable: bool, told: Callable[[int, int], None]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The images of a file of labels, each once; and what could not be read: uri -> why.

    told: how many images of how many were looked at.

    Raises BadLabels with all that is wrong, SourceNotFound, AccessDenied, Retryable.
    """
    words = Words(check=check, mapping=parse_map(file.pairs), empty=file.empty)
    root = root_of(file.root, labels=file.path)
    options = Options(label=file.label_column, group=file.group_column, images=root.path)
    faults = Faults(str(file.path), ending=NOT_TUNED)
    entries = read_labels(file.path, form=file.form, options=options, faults=faults)
    # Whoever said it: each entry counts as somebody's own, and two that differ are told in words of a tuning.
    entries = [replace(entry, who=entry.where) for entry in entries if not entry.blank]
    said = understand(entries, words, who="", root=root, faults=faults)
    _require_agreement(said, faults)
    n_images, n_done = len({one.image.uri for one in said}), 0

    def done(more: int) -> None:
        nonlocal n_done
        n_done += more
        told(n_done, n_images)

    fetched = fetch_images([one.image for one in said], settings, done=done)
    unread = {uri: str(error) for uri, error in fetched.unread.items()}
    if unread and (not skip_unreadable or not fetched.seen):
        first = "; ".join(f"{uri}: {fault}" for uri, fault in list(unread.items())[:SHOWN])
        more = f"; and {len(unread) - SHOWN} more" if len(unread) > SHOWN else ""
        images, them = ("image", "it") if len(unread) == 1 else ("images", "them")
        hint = f" (--skip-unreadable leaves {them} out)" if fetched.seen else ": is --root right?"
        raise BadLabels(f"{file.path}: {len(unread)} {images} cannot be read: {first}{more}{hint}")
    return _rows(said, fetched, faults), unread


def _require_agreement(said: Iterable[Said], faults: Faults) -> None:
    """Before anything is fetched. Raises BadLabels where a name has two labels."""
    first: dict[str, Said] = {}
    for one in said:
        before = first.setdefault(one.image.uri, one)
        if before.label != one.label:
            faults.add(one.where, f"{one.image.uri} is labelled {one.label} here and {before.label} in {before.where}")
    faults.raise_any()


def _rows(said: Iterable[Said], fetched: Fetched, faults: Faults) -> list[dict[str, Any]]:
    """Raises BadLabels where the same bytes have two labels."""
    seen = {}
    labels: dict[str, Said] = {}
    for one in said:
        image = fetched.seen.get(one.image.uri)
        if image is None:
            continue
        first = labels.setdefault(image.content_sha256, one)
        if first.label != one.label:
            same = f"{first.image.uri}, the same picture, is labelled {first.label} in {first.where}"
            faults.add(one.where, f"{image.uri} is labelled {one.label}, and {same}")
        seen[image.content_sha256] = image if one.group is None else replace(image, group=one.group)
    faults.raise_any()
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
    """Store the tuned check and how its margins are to be read, both or neither. Returns its hash."""
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
