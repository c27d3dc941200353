"""Labels of images that are forgotten: what there is of them, who learnt from them, and taking them away."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from scanfleet.db.deletion.selection import Selection
from scanfleet.db.labels.queries import split_for
from scanfleet.db.labels.splits import LOCK
from scanfleet.db.tables import Adapter, Champion, Image, Label, LabelledImage, ScorerRow, Training, Verdict


@dataclass(frozen=True, kw_only=True)
class LabelCount:
    """Labelled images of a check that are chosen. n_golden_all: its whole golden set."""

    check: str
    n_images: int
    n_golden: int
    n_golden_all: int
    first_label: int


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """An adapter whose training had such labels. in_use: it is the champion."""

    adapter_id: int
    uri: str
    in_use: bool


def count_labels(connection: sa.Connection, chosen: Selection) -> list[LabelCount]:
    golden = sa.case((split_for(Label.check_name) == "golden", LabelledImage.content_sha256))
    image = LabelledImage.content_sha256

    def counted(*where: sa.ColumnElement[bool]) -> sa.Select[tuple[str, int, int, int]]:
        columns = (sa.func.count(image.distinct()), sa.func.count(golden.distinct()), sa.func.min(Label.id))
        query = sa.select(Label.check_name, *columns).join(LabelledImage, image == Label.content_sha256)
        return query.where(*where).group_by(Label.check_name).order_by(Label.check_name)

    these = connection.execute(counted(chosen.labelled(connection.dialect.name))).all()
    every = {check: n_golden for check, _, n_golden, _ in connection.execute(counted())} if these else {}
    return [
        LabelCount(check=check, n_images=n, n_golden=n_golden, n_golden_all=every[check], first_label=first)
        for check, n, n_golden, first in these
    ]


def trainings_under_way(connection: sa.Connection, counts: Sequence[LabelCount]) -> list[int]:
    """Return the trainings that have taken such labels, and whose folder holds them and their images."""
    begun = (Training.state.in_(("ready", "leased")), Training.started_at.is_not(None))
    query = sa.select(Training.id).where(_had(counts), *begun).order_by(Training.id)
    return list(connection.execute(query).scalars())


def learnt_from(connection: sa.Connection, counts: Sequence[LabelCount]) -> list[Learnt]:
    """Return the adapters that were trained when there were such labels."""
    in_use = sa.exists().where(Champion.adapter_id == Adapter.id)
    query = sa.select(Adapter.id, Adapter.uri, in_use.label("in_use")).order_by(Adapter.id)
    query = query.join(Training, Training.id == Adapter.training_id).where(_had(counts))
    return [Learnt(adapter_id=row.id, uri=row.uri, in_use=row.in_use) for row in connection.execute(query)]


def _had(counts: Sequence[LabelCount]) -> sa.ColumnElement[bool]:
    had = [sa.and_(Training.check_name == each.check, Training.newest_label >= each.first_label) for each in counts]
    return sa.or_(sa.false(), *had)


def remove_labels(connection: sa.Connection, contents: Collection[str], uris: Collection[str]) -> None:
    """Take away the labels of these bytes, but not where an image that stays has the same.

    uris: names that go for good. Labels that stay take the name of an image that stays.
    """
    image = LabelledImage.content_sha256
    found = connection.execute(sa.select(image, LabelledImage.uri).where(image.in_(contents))).all()
    if not found:
        return
    held = [row.content_sha256 for row in found]
    of_scorers = Verdict.scorer_id.in_(sa.select(ScorerRow.id))  # for the index
    staying = sa.select(Verdict.content_sha256, sa.func.min(Verdict.image_id).label("image_id"))
    staying = staying.where(of_scorers, Verdict.content_sha256.in_(held)).group_by(Verdict.content_sha256)
    stay = {row.content_sha256: row.image_id for row in connection.execute(staying)}
    remove_labels_of(connection, [content for content in held if content not in stay])
    lost = (row.content_sha256 for row in found if row.uri in uris)
    _rename(connection, {content: stay[content] for content in lost if content in stay})
    named = sa.update(Label).where(Label.content_sha256.in_(held), Label.uri.in_(list(uris)))
    connection.execute(named.values(uri=None))


def _rename(connection: sa.Connection, named_by: Mapping[str, int]) -> None:
    """Name labelled images, by their bytes, after other images that have these bytes."""
    query = sa.select(Image.id, Image.uri, Image.root, Image.etag).where(Image.id.in_(named_by.values()))
    images = {row.id: row for row in connection.execute(query)}
    for content, image_id in named_by.items():
        image = images[image_id]
        renamed = sa.update(LabelledImage).where(LabelledImage.content_sha256 == content)
        connection.execute(renamed.values(uri=image.uri, root=image.root, etag=image.etag))


def named_page(connection: sa.Connection, chosen: Selection, *, limit: int) -> list[str]:
    """Return labelled images whose own names are chosen."""
    query = sa.select(LabelledImage.content_sha256).where(*chosen.labelled_names())
    return list(connection.execute(query.limit(limit)).scalars())


def remove_labels_of(connection: sa.Connection, contents: Collection[str]) -> None:
    if connection.dialect.name == "postgresql":  # nobody adds a label meanwhile
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
    connection.execute(sa.delete(Label).where(Label.content_sha256.in_(contents)))
    connection.execute(sa.delete(LabelledImage).where(LabelledImage.content_sha256.in_(contents)))
