"""Adds one label by hand, with the same checks as an import."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import sqlalchemy as sa

from scanfleet.checks.check import Check
from scanfleet.checks.multi import NONE, class_of, set_name, split_classes
from scanfleet.config.settings import Settings
from scanfleet.errors import BadLabels, SourceNotFound
from scanfleet.producer.labels.fetching import fetch_images
from scanfleet.producer.labels.formats.entries import Problems, RawBox, required, text_of
from scanfleet.producer.labels.formats.tabular import boxes_of
from scanfleet.producer.labels.image_refs import named_image
from scanfleet.producer.labels.importing import summarise, write
from scanfleet.producer.labels.label_names import ImageLabel
from scanfleet.producer.labels.preparing import prepare
from scanfleet.producer.labels.sets import joint
from scanfleet.producer.labels.shown_frames import frame_finder
from scanfleet.producer.scans.session import find_several
from scanfleet.producer.sources.manifest import MalformedLineError
from scanfleet.retry import retry_database


def add_one(
    engine: sa.Engine,
    settings: Settings,
    *,
    uri: str,
    label: str,
    check_name: str,
    boxes: Sequence[str],
    who: str,
    settle: bool,
    group: str | None,
    remark: str | None,
) -> str:
    """Add a label and return a line about it. Raises BadLabels, SourceNotFound, and what the store raises."""
    checks = find_several(engine, check_name)
    said = [_label_of(check, label, several=checks) for check in checks]
    try:
        given = [
            ImageLabel(
                where="the label",
                image=named_image(uri),
                label=require_label(each, check),
                boxes=given_boxes(boxes, each, check, several=checks),
                who=required(who, "value of --who"),
                group=text_of(group, "group"),
                note=text_of(remark, "note"),
                drawn=None,
                mixed=False,
            )
            for check, each in zip(checks, said, strict=True)
        ]
    except MalformedLineError as error:
        raise BadLabels(f"{uri}: {error}") from None
    fetched = fetch_images([given[0].image], settings, frame_of=frame_finder(engine, checks[0].name))
    for failed in fetched.unread.values():
        raise (SourceNotFound if failed.reason == "gone" else BadLabels)(f"{uri}: {failed}")
    prepared = [
        prepare([one], fetched, check, Problems(uri), origin="person", settles=settle)
        for check, one in zip(checks, given, strict=True)
    ]
    summaries = [retry_database(partial(summarise, engine, each)) for each in prepared]
    summary = joint(summaries)
    added = retry_database(lambda: write(engine, prepared))
    if not added:
        return f"{given[0].who} gave this label before: nothing was added"
    split = next(name for splits in summaries[0].table.values() for name, n in splits.items() if n)
    place = "it is used for nothing" if split == "none" else f"split {split}"
    conflict = "; people differ on it: it is used for nothing until settled (--settle)" if summary.n_conflicts else ""
    several = "; its file holds several pictures, and no verdict names one: it is left out of trainings"
    ids = ", ".join(map(str, added))
    words = f"label{'s' if len(added) > 1 else ''} {ids}: {label}"
    return f"{words}, {place}{conflict}{several if summary.n_several else ''}"


def _label_of(check: Check, label: str, *, several: Sequence[Check]) -> str:
    """Return the label of one check: of a multi check, whether its class is in the set."""
    if len(several) == 1:
        return label
    known, given = [class_of(one) for one in several], split_classes(label)
    for each in given:
        if each not in known:
            raise BadLabels(f"{each!r} is not a class of check {set_name(several)} ({', '.join(known[:12])}, {NONE})")
    return class_of(check) if class_of(check) in given else NONE


def require_label(label: str, check: Check) -> str:
    if label not in check.labels:
        raise MalformedLineError(f"{label!r} is not a label of check {check.name} ({', '.join(check.labels[:12])})")
    return label


def given_boxes(
    texts: Sequence[str], label: str, check: Check, *, several: Sequence[Check]
) -> tuple[RawBox, ...] | None:
    """Parse `x0 y0 x1 y1`, with or without a label before it. None: no box was given.

    Of a multi check a box must say its class.
    """
    if not texts:
        return None
    for text in texts:
        if len(text.split()) < 4 or any("," in word for word in text.split()[-4:]):
            raise MalformedLineError(f"--box {text[:60]!r}: write four numbers with spaces between: '10 20 90 60'")
    if len(several) > 1 and any(len(text.split()) == 4 for text in texts):
        raise MalformedLineError("--box: write the class before the numbers: 'knife 10 20 90 60'")
    full = [text if len(text.split()) > 4 else f"{label} {text}" for text in texts]
    boxes = boxes_of("; ".join(full)) or ()
    if len(several) > 1:
        for box in boxes:
            _label_of(check, box.label, several=several)
        return tuple(box for box in boxes if box.label == class_of(check)) or None
    for box in boxes:
        require_label(box.label, check)
    return boxes
