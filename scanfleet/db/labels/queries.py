"""SQL for the labels that count: used for a page of images, for counting and for the history.

Of the labels that were not undone, each person's newest one counts, but none from before the newest one that settles.
Where the counting labels differ, the image is in conflict; else the newest of them is current, one with boxes first.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import aliased

from scanfleet.db.tables import Label, LabelledImage

PINNED = "golden"  # origin of a label that puts its image into the golden set of its check
SYNTHETIC = "synthetic"  # origin of a label of a generated image, which only trainings may use, up to a share
Condition = sa.ColumnElement[bool]
Name = str | sa.ColumnElement[str] | orm.InstrumentedAttribute[str]  # of a check, or the column that holds it


def undone(label: Any, *, up_to: int | None = None) -> Condition:
    """True where another row undoes this one. up_to: ignore rows with a higher id."""
    undo = aliased(Label)
    same = (undo.check_name == label.check_name, undo.content_sha256 == label.content_sha256, undo.undoes == label.id)
    return sa.exists().where(*same, *([] if up_to is None else [undo.id <= up_to]))


def counting(check_name: str, *conditions: Condition, up_to: int | None = None) -> sa.Subquery:
    """Select the labels that count, with the columns of `labels` and two more.

    disputed: the labels of this image differ. place: 1 for the current label where they do not.
    conditions: they must choose images, not labels: all labels of an image are needed. up_to: ignore higher ids.
    """
    wanted = [Label.check_name == check_name, Label.undoes.is_(None), *conditions]
    if up_to is not None:
        wanted.append(Label.id <= up_to)
    of_image = Label.content_sha256
    newest = sa.func.row_number().over(partition_by=(of_image, Label.who), order_by=Label.id.desc())
    settled = sa.func.max(sa.case((Label.settles, Label.id), else_=0)).over(partition_by=of_image)
    ranked = (
        sa.select(*Label.__table__.c, newest.label("newest"), settled.label("settled"))
        .where(*wanted, ~undone(Label, up_to=up_to))
        .subquery("ranked")
    )
    image, label = ranked.c.content_sha256, ranked.c.label
    place = sa.func.row_number().over(partition_by=image, order_by=(ranked.c.boxes.is_(None), ranked.c.id.desc()))
    disputed = sa.func.min(label).over(partition_by=image) != sa.func.max(label).over(partition_by=image)
    return (
        sa.select(*(ranked.c[column.name] for column in Label.__table__.c), place.label("place"))
        .add_columns(disputed.label("disputed"))
        .where(ranked.c.newest == 1, ranked.c.id >= ranked.c.settled)
        .subquery("counting")
    )


def split_for(check: Name) -> sa.ColumnElement[str]:
    """Return the split of a labelled image for one check.

    Once people chose the golden set of a check, it grows only by their choice. Other golden images (by hash, by a near
    hash, or chosen for another check) are not used for this check.
    """
    excluded = sa.and_(
        LabelledImage.split == "golden", has_pins(check), ~is_pinned(check, LabelledImage.content_sha256)
    )
    return sa.case((excluded, "none"), else_=LabelledImage.split)


def has_pins(check: Name) -> Condition:
    """True where people chose the golden set of a check, and did not undo all of it."""
    pin = aliased(Label)
    return sa.exists(sa.select(pin.id).where(pin.check_name == check, pin.origin == PINNED, ~undone(pin)))


def is_pinned(check: Name, image: Name) -> Condition:
    """True where an image was chosen for it. That is permanent, though its label may be undone and given anew."""
    mine = aliased(Label)
    return sa.exists().where(mine.check_name == check, mine.content_sha256 == image, mine.origin == PINNED)


def is_synthetic(check: Name, image: Name) -> Condition:
    """True where an image was generated for a check. That is permanent, though people may label it as well."""
    mine = aliased(Label)
    return sa.exists().where(mine.check_name == check, mine.content_sha256 == image, mine.origin == SYNTHETIC)
