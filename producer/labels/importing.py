"""Writes labels to the ledger: first a summary of what would be written, then all of it in one transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from scanfleet.db.engine import reading, transaction
from scanfleet.db.labels.labels import NewLabel, add_labels, labels_by_person, without_repeats
from scanfleet.db.labels.queries import PINNED
from scanfleet.db.labels.shown_verdicts import shown_for
from scanfleet.db.labels.splits import Place, add_images, golden_by_hash, place_images
from scanfleet.db.scans.checks import save_check
from scanfleet.db.tables.training import SPLITS
from scanfleet.errors import BadLabels, ImageError
from scanfleet.producer.labels.preparing import PreparedLabels

CHANGES = ("added", "changed", "unchanged")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The effect of writing prepared labels. Counts images unless noted otherwise."""

    table: dict[str, dict[str, int]]  # label -> split -> images
    boxes: dict[str, int]  # label of the box -> boxes
    n_labels: int  # rows to be added
    n_present: int  # labels that the ledger already has
    n_repeated: int  # labels that repeat an earlier one of the file
    n_known: int  # that had a label before, for this or another check
    n_same_bytes: int  # names beyond the first of the same bytes
    n_near: int  # that resemble another one
    n_conflicts: int  # on which people differ afterwards
    n_refused: int  # that are in another split than the one asked for
    n_unused: int  # that resemble images of two splits, or an unpinned golden image
    n_shut_out: int  # that are golden by hash and not among those pinned now
    n_mixed: int
    n_several: int  # whose file holds several pictures, of which no verdict names one
    n_blank: int  # rows without a label
    changes: dict[str, dict[str, int]]  # label -> CHANGES -> labels
    left_out: Sequence[str]  # the first images and boxes of the file, with the reason
    reasons: Mapping[str, int]  # reason -> images and boxes that were left out
    unread: Mapping[str, ImageError]


def summarise(engine: sa.Engine, prepared: PreparedLabels) -> Summary:
    """Return the effect of writing now. Writes nothing."""
    with reading(engine, long=True) as connection:
        places = place_images(connection, prepared.check.name, prepared.images, wanted=prepared.split)
        new = without_repeats(connection, prepared.check.name, _with_origin(prepared, places))
        shut_out = golden_by_hash(connection, prepared.check.name) if prepared.split == "golden" else set()
        spoken = labels_by_person(connection, prepared.check.name, list({label.content_sha256 for label in new}))
    n_repeated = _count_repeats(prepared.labels)
    labels_of = {label.content_sha256: label.label for label in prepared.labels}
    table: dict[str, dict[str, int]] = {}
    for sha, label in labels_of.items():
        row = table.setdefault(label, dict.fromkeys(SPLITS, 0))
        row[places[sha].split] += 1
    order = prepared.check.labels.index
    return Summary(
        table=dict(sorted(table.items(), key=lambda item: order(item[0]))),
        boxes=dict(Counter(box["label"] for label in prepared.labels for box in label.boxes or ())),
        n_labels=len(new),
        n_present=len(prepared.labels) - len(new) - n_repeated,
        n_repeated=n_repeated,
        n_known=sum(place.known for place in places.values()),
        n_same_bytes=prepared.n_named - len(places),
        n_near=sum(place.near for place in places.values()),
        n_conflicts=_count_conflicts({image: dict(by_person) for image, by_person in spoken.items()}, new),
        n_refused=sum(place.refused for place in places.values()),
        n_unused=sum(place.split == "none" for place in places.values()),
        n_shut_out=len(shut_out - places.keys()),
        n_mixed=prepared.n_mixed,
        n_several=len({image.content_sha256 for image in prepared.images if image.several}),
        n_blank=prepared.n_blank,
        changes=_changes(prepared, new, spoken),
        left_out=prepared.left_out,
        reasons=prepared.reasons,
        unread=prepared.unread,
    )


def write(engine: sa.Engine, prepared: Sequence[PreparedLabels]) -> list[int]:
    """Write everything or nothing. Returns the ids of the added labels; writing again adds none.

    prepared: of each check. Raises BadLabels if images are in another split than the one asked for.
    """
    with transaction(engine, long=True) as connection:
        return [label_id for each in prepared for label_id in _write(connection, each)]


def _write(connection: sa.Connection, prepared: PreparedLabels) -> list[int]:
    name = prepared.check.name
    save_check(connection, prepared.check)  # of a check given as a file, this is all that a training finds
    places = add_images(connection, name, prepared.images, wanted=prepared.split)
    require_split(prepared, sum(place.refused for place in places.values()))
    shown = shown_for(connection, name, list(places))
    labels = _with_origin(prepared, places)
    return add_labels(connection, name, [replace(one, shown=shown.get(one.content_sha256)) for one in labels])


def require_split(prepared: PreparedLabels, n_refused: int) -> None:
    """Raises BadLabels if images are in another split than the one asked for, unless that is allowed."""
    if not n_refused or prepared.where_possible:
        return
    n_images = len({image.content_sha256 for image in prepared.images})
    raise BadLabels(
        f"{n_refused} of {n_images} images are already in another split than {prepared.split} and stay there: choose "
        "others, or add --where-possible to label these where they are; nothing was written"
    )


def _with_origin(prepared: PreparedLabels, places: Mapping[str, Place]) -> list[NewLabel]:
    """Mark the labels of images that are pinned to the golden set."""
    if prepared.split != "golden":
        return list(prepared.labels)
    return [one if places[one.content_sha256].refused else replace(one, origin=PINNED) for one in prepared.labels]


def _count_repeats(labels: Sequence[NewLabel]) -> int:
    """Count the labels that equal the previous one by the same person for the same image."""
    last: dict[tuple[str, str], tuple[Any, ...]] = {}
    n = 0
    for label in labels:
        key, says = (label.content_sha256, label.who), (label.label, label.boxes or None, label.attributes)
        n += last.get(key) == says
        last[key] = says
    return n


def _changes(
    prepared: PreparedLabels, new: Sequence[NewLabel], spoken: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, int]]:
    """Count by label what is added, what replaces a label by the same person, and what the ledger has already."""
    found = {label: dict.fromkeys(CHANGES, 0) for label in prepared.check.labels}
    newest = {(one.content_sha256, one.who): one for one in prepared.labels}
    fresh = {(one.content_sha256, one.who): one for one in new}
    for (image, who), one in newest.items():
        before = spoken.get(image, {}).get(who)
        kind = "unchanged" if (image, who) not in fresh else "added" if before is None else "changed"
        found[one.label][kind] += 1
    return {label: counts for label, counts in found.items() if any(counts.values())}


def _count_conflicts(spoken: dict[str, dict[str, str]], new: Sequence[NewLabel]) -> int:
    """Count the images on which people differ once the new labels count."""
    for label in new:
        by_person = spoken.setdefault(label.content_sha256, {})
        if label.settles:
            by_person.clear()
        by_person[label.who] = label.label
    return sum(len(set(by_person.values())) > 1 for by_person in spoken.values())
