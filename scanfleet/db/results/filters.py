"""Which results are asked for, and as of which time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from scanfleet.db.results.portable import meta_is, starts_with
from scanfleet.db.tables import CheckRow, Failure, Image, Scan, ScorerRow, Verdict

# Writers set `images.changed_at` before they commit, so a row may appear this much later than its time says; a reader
# who asks again for what is new looks back as far.
OVERLAP = timedelta(minutes=5)

Words = str | Sequence[str] | None  # one of them; None or none at all: any


@dataclass(frozen=True, kw_only=True)
class ResultFilter:
    """A filter of results; unset fields match all. Filters on the answer leave out images without one.

    Without a scan the images of rescans are left out: their answers are already in the scan that they renew.
    rescans: keep them.
    """

    scan: Words = None
    uri: str | None = None
    prefix: str | None = None  # of the uri
    state: Words = None
    label: Words = None
    decision: Words = None
    min_score: float | None = None
    max_score: float | None = None
    tried: bool = False  # leave out pending and cancelled images
    check: Words = None  # its name
    model: Words = None  # as given to the scan
    adapter: Sequence[int | None] = ()  # ids; None: the base model alone
    reason: Words = None  # of the failure
    since: datetime | None = None  # answer or state changed at this time or later
    as_of: datetime | None = None  # what was said at this time
    rescans: bool = False
    where: Sequence[tuple[str, str]] = ()  # (field of the manifest, value): one of the values of each field

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """Return conditions on `joined`."""
        found: list[sa.ColumnElement[bool]] = [
            column.in_([words] if isinstance(words, str) else words)
            for column, words in (
                (Image.scan_id, self.scan),
                (Image.uri, self.uri),
                (self.state_column, self.state),
                (Verdict.label, self.label),
                (Verdict.decision, self.decision),
                (CheckRow.name, self.check),
                (Scan.model, self.model),
                (Failure.reason, self.reason),
            )
            if words
        ]
        if self.tried:
            found.append(self.state_column.in_(("verdict", "failed")))
        if not self.scan and not self.rescans:
            found.append(Image.rescan_of.is_(None))
        if self.prefix is not None:
            found.append(starts_with(Image.uri, self.prefix))
        if self.min_score is not None:
            found.append(Verdict.score >= self.min_score)
        if self.max_score is not None:
            found.append(Verdict.score <= self.max_score)
        if self.adapter:
            found.append(self._of_adapter())
        return [*found, *self._of_manifest(), *self._of_time()]

    def _of_adapter(self) -> sa.ColumnElement[bool]:
        ids = [each for each in self.adapter if each is not None]
        alone = sa.and_(ScorerRow.id.is_not(None), ScorerRow.adapter_id.is_(None))
        return sa.or_(ScorerRow.adapter_id.in_(ids), alone) if None in self.adapter else ScorerRow.adapter_id.in_(ids)

    def _of_manifest(self) -> list[sa.ColumnElement[bool]]:
        values: dict[str, list[str]] = {}
        for key, value in self.where:
            values.setdefault(key, []).append(value)
        return [sa.or_(*(meta_is(key, value) for value in those)) for key, those in values.items()]

    def _of_time(self) -> list[sa.ColumnElement[bool]]:
        found: list[sa.ColumnElement[bool]] = []
        if self.since is not None:
            found.append(Image.id.in_(_changed_since(self.since)))
        if self.as_of is not None:
            found.append(Scan.created_at <= self.as_of)
        return found

    @property
    def state_column(self) -> sa.SQLColumnExpression[str]:
        """The state of an image. At an earlier time a failure that was retried since is unknown: pending."""
        if self.as_of is None:
            return Image.state
        cancelled = sa.and_(Image.state == "cancelled", Scan.finished_at <= self.as_of)
        return sa.case(
            (Verdict.id.is_not(None), "verdict"),
            (Failure.image_id.is_not(None), "failed"),
            (cancelled, "cancelled"),
            else_="pending",
        )

    def joined(self, *columns: Any) -> sa.Select[Any]:
        """Select columns of images that match, with scan and check; with verdict, scorer and failure if any."""
        answer = Verdict.id == (Image.verdict_id if self.as_of is None else _newest_until(self.as_of))
        failure = [Failure.image_id == Image.id] + ([] if self.as_of is None else [Failure.at <= self.as_of])
        return (
            sa.select(*columns)
            .select_from(Image)
            .join(Scan, Scan.id == Image.scan_id)
            .join(CheckRow, CheckRow.id == Scan.check_id)
            .outerjoin(Verdict, answer)
            .outerjoin(ScorerRow, ScorerRow.id == Verdict.scorer_id)
            .outerjoin(Failure, sa.and_(*failure))
            .where(*self.conditions())
        )


def _changed_since(at: datetime) -> sa.CompoundSelect[Any]:
    """Select the images whose state or answer changed, by indexes: the first answer has its time in the verdict."""
    answered = sa.select(Verdict.image_id).where(Verdict.created_at >= at)
    return sa.select(Image.id).where(Image.changed_at >= at).union_all(answered)


def _newest_until(at: datetime) -> sa.ScalarSelect[int]:
    """Select the newest verdict of `Image` that was written until then: its own, or one of the images that renew it.

    Those have its identity in a rescan of its scan, which an index finds; none knows `rescan_of` alone.
    """
    own, renewed, renewing, rescan = aliased(Verdict), aliased(Verdict), aliased(Image), aliased(Scan)
    of_image = sa.select(own.id, own.created_at).where(own.image_id == Image.id, own.created_at <= at)
    of_rescans = (
        sa.select(renewed.id, renewed.created_at)
        .select_from(rescan)
        .join(renewing, renewing.scan_id == rescan.id)
        .join(renewed, renewed.image_id == renewing.id)
        .where(rescan.rescan_of == Image.scan_id, renewing.identity == Image.identity)
        .where(renewing.rescan_of == Image.id, renewed.created_at <= at)
    )
    every = sa.union_all(of_image.correlate(Image), of_rescans.correlate(Image)).subquery("given")
    newest = sa.select(every.c.id).order_by(every.c.created_at.desc(), every.c.id.desc()).limit(1)
    return newest.correlate(Image).scalar_subquery()
