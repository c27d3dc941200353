"""Adds one label by hand, with the same checks as an import."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from scanfleet.checks.check import Check
from scanfleet.config.settings import Settings
from scanfleet.errors import BadLabels, SourceNotFound
from scanfleet.producer.labels.fetching import fetch_images
from scanfleet.producer.labels.formats.entries import Problems, RawBox, required, text_of
from scanfleet.producer.labels.formats.tabular import boxes_of
from scanfleet.producer.labels.image_refs import named_image
from scanfleet.producer.labels.importing import summarise, write
from scanfleet.producer.labels.label_names import ImageLabel
from scanfleet.producer.labels.preparing import prepare
from scanfleet.producer.labels.shown_frames import frame_finder
from scanfleet.producer.scans.session import find_check
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
    check = find_check(engine, check_name)
    try:
        given = ImageLabel(
            where="the label",
            image=named_image(uri),
            label=_require_label(label, check),
            boxes=_boxes(boxes, label, check),
            who=required(who, "value of --who"),
            group=text_of(group, "group"),
            note=text_of(remark, "note"),
            drawn=None,
            mixed=False,
        )
    except MalformedLineError as error:
        raise BadLabels(f"{uri}: {error}") from None
    fetched = fetch_images([given.image], settings, frame_of=frame_finder(engine, check.name))
    for failed in fetched.unread.values():
        raise (SourceNotFound if failed.reason == "gone" else BadLabels)(f"{uri}: {failed}")
    prepared = prepare([given], fetched, check, Problems(uri), origin="person", settles=settle)
    summary = retry_database(lambda: summarise(engine, prepared))
    added = retry_database(lambda: write(engine, prepared))
    if not added:
        return f"{given.who} gave this label before: nothing was added"
    split = next(name for splits in summary.table.values() for name, n in splits.items() if n)
    place = "it is used for nothing" if split == "none" else f"split {split}"
    conflict = "; people differ on it: it is used for nothing until settled (--settle)" if summary.n_conflicts else ""
    several = "; its file holds several pictures, and no verdict names one: it is left out of trainings"
    return f"label {added[0]}: {label}, {place}{conflict}{several if summary.n_several else ''}"


def _require_label(label: str, check: Check) -> str:
    if label not in check.labels:
        raise MalformedLineError(f"{label!r} is not a label of check {check.name} ({', '.join(check.labels[:12])})")
    return label


def _boxes(texts: Sequence[str], label: str, check: Check) -> tuple[RawBox, ...] | None:
    """Parse `x0 y0 x1 y1`, with or without a label before it. None: no box was given."""
    if not texts:
        return None
    for text in texts:
        if len(text.split()) < 4 or any("," in word for word in text.split()[-4:]):
            raise MalformedLineError(f"--box {text[:60]!r}: write four numbers with spaces between: '10 20 90 60'")
    full = [text if len(text.split()) > 4 else f"{label} {text}" for text in texts]
    boxes = boxes_of("; ".join(full)) or ()
    for box in boxes:
        _require_label(box.label, check)
    return boxes
