"""From what was said and seen to rows: first a summary of what would be written, then all of it in one transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from producer.labels.fetching import Fetched
from producer.labels.formats.entries import Faults, RawBox
from producer.labels.label_names import Said
from producer.sources.manifest import MalformedLineError
from scanfleet.checks.check import Check
from scanfleet.db.engine import reading, transaction
from scanfleet.db.labels.clusters import SeenImage
from scanfleet.db.labels.labels import NewLabel, add_labels, unsaid, voices
from scanfleet.db.labels.queries import PINNED
from scanfleet.db.labels.shown_verdicts import shown_for
from scanfleet.db.labels.splits import Place, add_images, golden_by_hash, place_images
from scanfleet.db.training_tables import SPLITS
from scanfleet.errors import BadLabels, ImageError

SLACK = 1.0  # pixels that a box may lie outside the image: others round otherwise


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """Labels and their images, checked and ready to be written.

    split: asked for by the person; None: as it comes. unread: why images could not be looked at; their labels are left
    out. n_named: images by name; several names may have the same bytes. n_mixed: images with boxes of several labels.
    """

    check: Check
    images: Sequence[SeenImage]
    labels: Sequence[NewLabel]
    unread: Mapping[str, ImageError]
    n_named: int
    n_mixed: int
    n_blank: int = 0  # rows without a label
    split: str | None = None
    where_possible: bool = False  # images may lie in another split than that


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What writing a parcel comes to. Counts images where nothing else is said."""

    table: dict[str, dict[str, int]]  # label -> split -> images
    boxes: dict[str, int]  # label of the box -> boxes
    n_labels: int  # rows to be added
    n_said: int  # labels that were there before
    n_twice: int  # that the parcel holds before already
    n_known: int  # images that had a label before, for this or another check
    n_same_bytes: int  # names beyond the first of the same bytes
    n_near: int  # that look like another one
    n_conflicts: int  # on which people differ then
    n_refused: int  # that lie in another split than the one asked for
    n_unused: int  # that are used for nothing: between splits, or like a golden image that nobody chose
    n_shut_out: int  # that are golden by their hash, and not among those that are chosen now
    n_mixed: int
    n_blank: int  # rows without a label
    unread: Mapping[str, ImageError]


def pack(
    said: Sequence[Said],
    fetched: Fetched,
    check: Check,
    faults: Faults,
    *,
    origin: str,
    split: str | None = None,
    settles: bool = False,
) -> Parcel:
    """Hold what was said against what was seen.

    Raises BadLabels: a box outside its image, the same bytes labelled in two ways by one person.
    """
    images: dict[tuple[str, str | None], SeenImage] = {}
    labels: list[NewLabel] = []
    first: dict[tuple[str, str], Said] = {}
    for one in said:
        seen = fetched.seen.get(one.image.uri)
        if seen is None:
            continue
        before = first.setdefault((seen.content_sha256, one.who), one)
        if before.label != one.label:
            faults.add(
                one.where,
                f"{one.who}: {one.label}, but {before.label} for the same bytes at {before.where} ({before.image.uri})",
            )
        try:
            labels.append(_label(one, seen, origin=origin, settles=settles))
        except MalformedLineError as error:
            faults.add(one.where, str(error))
        images.setdefault((seen.content_sha256, one.group), replace(seen, group=one.group))
    faults.raise_any()
    return Parcel(
        check=check,
        images=list(images.values()),
        labels=labels,
        unread=fetched.unread,
        n_named=len(fetched.seen),
        n_mixed=sum(one.mixed for one in said),
        split=split,
    )


def summarise(engine: sa.Engine, parcel: Parcel) -> Summary:
    """What writing it now would come to. Writes nothing."""
    with reading(engine, long=True) as connection:
        places = place_images(connection, parcel.check.name, parcel.images, wanted=parcel.split)
        new = unsaid(connection, parcel.check.name, _with_origin(parcel, places))
        shut_out = golden_by_hash(connection, parcel.check.name) if parcel.split == "golden" else set()
        spoken = voices(connection, parcel.check.name, list({label.content_sha256 for label in new}))
    n_twice = _count_repeats(parcel.labels)
    labels_of = {label.content_sha256: label.label for label in parcel.labels}
    table: dict[str, dict[str, int]] = {}
    for sha, label in labels_of.items():
        row = table.setdefault(label, dict.fromkeys(SPLITS, 0))
        row[places[sha].split] += 1
    order = parcel.check.labels.index
    return Summary(
        table=dict(sorted(table.items(), key=lambda item: order(item[0]))),
        boxes=dict(Counter(box["label"] for label in parcel.labels for box in label.boxes or ())),
        n_labels=len(new),
        n_said=len(parcel.labels) - len(new) - n_twice,
        n_twice=n_twice,
        n_known=sum(place.known for place in places.values()),
        n_same_bytes=parcel.n_named - len(places),
        n_near=sum(place.near for place in places.values()),
        n_conflicts=_count_conflicts(spoken, new),
        n_refused=sum(place.refused for place in places.values()),
        n_unused=sum(place.split == "none" for place in places.values()),
        n_shut_out=len(shut_out - places.keys()),
        n_mixed=parcel.n_mixed,
        n_blank=parcel.n_blank,
        unread=parcel.unread,
    )


def write(engine: sa.Engine, parcel: Parcel) -> list[int]:
    """All of it, or nothing. Returns the ids of the labels added; written twice, the second time adds none.

    Raises BadLabels where images lie in another split than the one asked for.
    """
    with transaction(engine, long=True) as connection:
        name = parcel.check.name
        places = add_images(connection, name, parcel.images, wanted=parcel.split)
        require_split(parcel, sum(place.refused for place in places.values()))
        shown = shown_for(connection, name, list(places))
        labels = _with_origin(parcel, places)
        return add_labels(connection, name, [replace(one, shown=shown.get(one.content_sha256)) for one in labels])


def require_split(parcel: Parcel, n_refused: int) -> None:
    """Raises BadLabels where images lie in another split than the one asked for, and that was not allowed."""
    if not n_refused or parcel.where_possible:
        return
    n_images = len({image.content_sha256 for image in parcel.images})
    raise BadLabels(
        f"{n_refused} of {n_images} images are already in another split than {parcel.split} and stay there: choose "
        "others, or add --where-possible to label these where they are; nothing was written"
    )


def _with_origin(parcel: Parcel, places: Mapping[str, Place]) -> list[NewLabel]:
    """A label whose image was put into the golden set by choice says so."""
    if parcel.split != "golden":
        return list(parcel.labels)
    return [one if places[one.content_sha256].refused else replace(one, origin=PINNED) for one in parcel.labels]


def _count_repeats(labels: Sequence[NewLabel]) -> int:
    """Labels that say what the one before them, by the same person of the same image, says already."""
    last: dict[tuple[str, str], tuple[Any, ...]] = {}
    n = 0
    for label in labels:
        key, says = (label.content_sha256, label.who), (label.label, label.boxes or None)
        n += last.get(key) == says
        last[key] = says
    return n


def _count_conflicts(spoken: dict[str, dict[str, str]], new: Sequence[NewLabel]) -> int:
    """Images on which people differ, once the new labels count as well."""
    for label in new:
        said = spoken.setdefault(label.content_sha256, {})
        if label.settles:
            said.clear()
        said[label.who] = label.label
    return sum(len(set(said.values())) > 1 for said in spoken.values())


def _label(one: Said, seen: SeenImage, *, origin: str, settles: bool) -> NewLabel:
    """Raises MalformedLineError."""
    return NewLabel(
        content_sha256=seen.content_sha256,
        uri=seen.uri,
        label=one.label,
        boxes=None if one.boxes is None else [_in_pixels(box, seen) for box in one.boxes],
        who=one.who,
        origin=origin,
        settles=settles,
        drawn=one.drawn,
        note=one.note,
    )


def _in_pixels(box: RawBox, seen: SeenImage) -> dict[str, Any]:
    """Rounded to a hundredth of a pixel. Raises MalformedLineError for a box that does not lie in the image."""
    width, height = seen.width, seen.height
    x_unit, y_unit = (width, height) if box.unit == "share" else (1, 1)
    sides = (box.x0 * x_unit, box.y0 * y_unit, box.x1 * x_unit, box.y1 * y_unit)
    if min(sides[:2]) < -SLACK or sides[2] > width + SLACK or sides[3] > height + SLACK:
        words = " ".join(f"{side:g}" for side in sides)
        raise MalformedLineError(f"the box {words} lies outside the image, which has {width} x {height} pixels")
    x0, y0, x1, y1 = (round(side, 2) for side in (max(sides[0], 0), max(sides[1], 0), sides[2], sides[3]))
    x1, y1 = min(x1, width), min(y1, height)
    if x1 <= x0 or y1 <= y0:
        raise MalformedLineError("a box has no area within the image")
    return {"x0": x0, "y0": y0, "x1": float(x1), "y1": float(y1), "label": box.label}
