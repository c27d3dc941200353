"""Which labels count, as SQL: built here once, used for one page of images, for counting and for the history.

Of what was not undone, each person's newest label counts, and of those none from before the newest one that settles.
Where the labels that count differ, the image is in conflict; else the newest of them stands, one with boxes first.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from scanfleet.store.tables import Label, LabelledImage

PINNED = "golden"  # origin of a label that puts its image into the golden set of its check
Condition = sa.ColumnElement[bool]


def counting(check_name: str, *conditions: Condition, up_to: int | None = None) -> sa.Subquery:
    """The labels that count, by the columns of `labels`, and two more.

    disputed: labels of this image differ. place: 1 for the one to stand where they do not.
    conditions: choose images, not labels: all labels of an image must be seen. up_to: the highest id there is.
    """
    undo = aliased(Label)
    undone = [
        undo.check_name == Label.check_name,
        undo.content_sha256 == Label.content_sha256,
        undo.undoes == Label.id,
    ]
    known = [Label.check_name == check_name, Label.undoes.is_(None), *conditions]
    if up_to is not None:
        undone.append(undo.id <= up_to)
        known.append(Label.id <= up_to)
    of_image = Label.content_sha256
    newest = sa.func.row_number().over(partition_by=(of_image, Label.who), order_by=Label.id.desc())
    settled = sa.func.max(sa.case((Label.settles, Label.id), else_=0)).over(partition_by=of_image)
    ranked = (
        sa.select(*Label.__table__.c, newest.label("newest"), settled.label("settled"))
        .where(*known, ~sa.exists().where(*undone))
        .subquery("ranked")
    )
    image, said = ranked.c.content_sha256, ranked.c.label
    place = sa.func.row_number().over(partition_by=image, order_by=(ranked.c.boxes.is_(None), ranked.c.id.desc()))
    disputed = sa.func.min(said).over(partition_by=image) != sa.func.max(said).over(partition_by=image)
    return (
        sa.select(*(ranked.c[column.name] for column in Label.__table__.c), place.label("place"))
        .add_columns(disputed.label("disputed"))
        .where(ranked.c.newest == 1, ranked.c.id >= ranked.c.settled)
        .subquery("counting")
    )


def split_for(check_name: str) -> sa.ColumnElement[str]:
    """The split of a labelled image in the eyes of one check.

    Once people chose the golden set of a check, nothing gets into it but by their choice: other images that
    lie in golden (by their hash, by likeness to a golden one, or for another check) are used for nothing there.
    """
    pin, mine = aliased(Label), aliased(Label)
    chosen = sa.exists().where(
        mine.check_name == check_name,
        mine.content_sha256 == LabelledImage.content_sha256,
        mine.origin == PINNED,
    )
    shut_out = sa.and_(LabelledImage.split == "golden", pinned_condition(check_name, pin), ~chosen)
    return sa.case((shut_out, "none"), else_=LabelledImage.split)


def pinned_condition(check_name: str, pin: Any = Label) -> Condition:
    """Whether people chose the golden set of a check, and did not take all of it back."""
    undo = aliased(Label)
    taken_back = sa.exists().where(
        undo.check_name == check_name, undo.content_sha256 == pin.content_sha256, undo.undoes == pin.id
    )
    return sa.exists(
        sa.select(pin.id).where(pin.check_name == check_name, pin.origin == PINNED, ~taken_back)
    ).correlate(None)
