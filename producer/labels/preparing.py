"""Joins labels with the images that were read, and leaves out those that are not about these images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from scanfleet.checks.check import Check
from scanfleet.db.labels.clusters import SeenImage
from scanfleet.db.labels.labels import NewLabel
from scanfleet.errors import ImageError
from scanfleet.producer.labels.fetching import Fetched
from scanfleet.producer.labels.formats.entries import Problems, Reason
from scanfleet.producer.labels.label_names import ImageLabel, doubt_of
from scanfleet.producer.labels.upright_boxes import in_pixels, turn_of
from scanfleet.producer.sources.manifest import MalformedLineError

LEFT_OUT: Final = "left out"


@dataclass(frozen=True, kw_only=True)
class PreparedLabels:
    """Labels and their images, checked and ready to be written.

    split: the one that was asked for; None: as it comes. unread: errors of images that could not be read; their labels
    are skipped. n_named: images by name; several names may have the same bytes. n_mixed: images with boxes of several
    labels. left_out: the first images and boxes of the file that were left out, with the reason; reasons: the number of
    all of them.
    """

    check: Check
    images: Sequence[SeenImage]
    labels: Sequence[NewLabel]
    unread: Mapping[str, ImageError]
    n_named: int
    n_mixed: int
    n_blank: int = 0  # rows without a label
    left_out: Sequence[str] = ()
    reasons: Mapping[str, int] = field(default_factory=dict)
    split: str | None = None
    where_possible: bool = False  # images may be in another split


def prepare(
    given: Sequence[ImageLabel],
    fetched: Fetched,
    check: Check,
    problems: Problems,
    *,
    origin: str,
    split: str | None = None,
    settles: bool = False,
) -> PreparedLabels:
    """Join labels with the images that were read.

    A box outside its image is left out, and so is an image whose label rests on that, that has another size than the
    labels say, or whose bytes one person labels in two ways. Raises BadLabels: nothing is left, or problems.strict.
    """
    images: dict[tuple[str, str | None], SeenImage] = {}
    labels: list[NewLabel] = []
    for one in _agreeing(given, fetched, problems):
        seen = fetched.seen[one.image.uri]
        boxes = _boxes(one, seen, fetched.orientations.get(one.image.uri, 1), check, problems)
        if boxes == LEFT_OUT:
            continue
        labels.append(_label(one, seen, boxes, origin=origin, settles=settles))
        images.setdefault((seen.content_sha256, one.group), replace(seen, group=one.group))
    problems.raise_any()
    problems.require_some(labels)
    return PreparedLabels(
        check=check,
        images=list(images.values()),
        labels=_merged(labels),
        unread=fetched.unread,
        n_named=len(fetched.seen),
        n_mixed=sum(one.mixed for one in given),
        left_out=problems.left_out,
        reasons=problems.reasons,
        split=split,
    )


def _agreeing(given: Sequence[ImageLabel], fetched: Fetched, problems: Problems) -> list[ImageLabel]:
    """Return the labels of images that were read, without bytes that one person labels in two ways."""
    first: dict[tuple[str, str], ImageLabel] = {}
    refused = set()
    read = [(one, fetched.seen[one.image.uri].content_sha256) for one in given if one.image.uri in fetched.seen]
    for one, sha in read:
        before = first.setdefault((sha, one.who), one)
        if before.label != one.label:
            refused.add((sha, one.who))
            problems.leave_out(
                one.where,
                f"{one.who}: {one.label}, but {before.label} for the same bytes at {before.where} ({before.image.uri})",
                Reason.CONTRADICTION,
            )
    return [one for one, sha in read if (sha, one.who) not in refused]


def _boxes(
    one: ImageLabel, seen: SeenImage, orientation: int, check: Check, problems: Problems
) -> list[dict[str, Any]] | Literal["left out"] | None:
    """Return the boxes in pixels; None: there are none to store."""
    upright, dropped, kept, found = (seen.width, seen.height), set(), [], []
    try:
        turn = turn_of(one.size, upright, orientation, seen.uri)
    except MalformedLineError as error:
        problems.leave_out(one.where, str(error), Reason.SIZE)
        return LEFT_OUT
    for box in one.boxes or ():
        try:
            found.append(in_pixels(box, upright, size=one.size, turn=turn))
            kept.append(box)
        except MalformedLineError as error:
            problems.leave_out(one.where, str(error), Reason.BOX)
            dropped.add(box.label)
    if reason := doubt_of(replace(one, boxes=tuple(kept)), dropped, check):
        problems.leave_out(one.where, f"{seen.uri}: {reason}", Reason.DOUBT)
        return LEFT_OUT
    return None if one.boxes is None or (dropped and not found) else found


def _merged(labels: Sequence[NewLabel]) -> list[NewLabel]:
    """Give each label the boxes and attributes of all labels by the same person for the same bytes.

    Some files list a box a row.
    """
    boxes: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    attributes: dict[tuple[str, str], dict[str, str]] = {}
    for label in labels:
        key = label.content_sha256, label.who
        some = boxes.setdefault(key, {})
        for box in label.boxes or ():
            some.setdefault(repr(box), box)
        attributes[key] = (label.attributes or {}) | attributes.get(key, {})
    merged = {key: list(some.values()) for key, some in boxes.items()}
    return [
        replace(one, boxes=merged[key] or one.boxes, attributes=attributes[key] or None)
        for one in labels
        for key in [(one.content_sha256, one.who)]
    ]


def _label(
    one: ImageLabel, seen: SeenImage, boxes: list[dict[str, Any]] | None, *, origin: str, settles: bool
) -> NewLabel:
    return NewLabel(
        content_sha256=seen.content_sha256,
        uri=seen.uri,
        label=one.label,
        boxes=boxes,
        who=one.who,
        origin=origin,
        settles=settles,
        drawn=one.drawn,
        note=one.note,
        attributes=one.attributes,
    )
