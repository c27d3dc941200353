"""A person's decision on a page, as a label: of the very bytes that the person saw."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from scanfleet.config.settings import Settings
from scanfleet.db.engine import reading
from scanfleet.db.labels.queries import undone
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.tables import Label
from scanfleet.errors import BadLabels, SourceNotFound
from scanfleet.producer.labels.adding import given_boxes, require_label
from scanfleet.producer.labels.fetching import fetch_images
from scanfleet.producer.labels.formats.entries import Problems
from scanfleet.producer.labels.importing import write
from scanfleet.producer.labels.label_names import ImageLabel
from scanfleet.producer.labels.preparing import prepare
from scanfleet.producer.labels.shown_frames import frame_finder
from scanfleet.producer.scans.session import find_check
from scanfleet.producer.sources.manifest import MalformedLineError
from scanfleet.retry import retry_database


def decide(
    engine: sa.Engine,
    settings: Settings,
    *,
    check_name: str,
    image: NewImage,
    content_sha256: str,
    label: str,
    boxes: Sequence[str],
    who: str,
    drawn: str,
) -> int:
    """Add a label and return its id; the same decision again adds nothing and returns the first one's.

    boxes: as `labels add --box`. drawn: the queue. Raises BadLabels (also: the bytes have changed since they were
    shown), SourceNotFound, and what the store raises.
    """
    check = find_check(engine, check_name)
    try:
        given = ImageLabel(
            where="the label",
            image=image,
            label=require_label(label, check),
            boxes=given_boxes(boxes, label, check, several=[check]),
            who=who,
            group=None,
            note=None,
            drawn=drawn,
            mixed=False,
        )
    except MalformedLineError as error:
        raise BadLabels(f"{image.uri}: {error}") from None
    fetched = fetch_images([image], settings, frame_of=frame_finder(engine, check.name))
    for failed in fetched.unread.values():
        raise (SourceNotFound if failed.reason == "gone" else BadLabels)(f"{image.uri}: {failed}")
    if fetched.seen[image.uri].content_sha256 != content_sha256:
        raise BadLabels(f"{image.uri}: the file has changed since it was shown: scan it again")
    prepared = prepare([given], fetched, check, Problems(image.uri), origin="review")
    added = retry_database(lambda: write(engine, [prepared]))
    return added[0] if added else _standing(engine, check.name, content_sha256, who)


def _standing(engine: sa.Engine, check_name: str, content_sha256: str, who: str) -> int:
    """Return the person's newest label of an image that was not undone."""
    these = (Label.check_name == check_name, Label.content_sha256 == content_sha256, Label.who == who)
    query = sa.select(sa.func.max(Label.id)).where(*these, Label.undoes.is_(None), ~undone(Label))
    with reading(engine) as connection:
        return connection.execute(query).scalar_one()
