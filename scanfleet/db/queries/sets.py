"""The answers of the checks of a multi check, joined by image: which of its classes does each image show?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from scanfleet.checks.check import Check
from scanfleet.checks.multi import class_of
from scanfleet.db.engine import reading
from scanfleet.db.labels.labels import current_label_of
from scanfleet.db.tables import CheckRow, Image, Scan, Verdict
from scanfleet.errors import UnknownName

PAGE_IMAGES = 500


@dataclass(frozen=True, kw_only=True)
class SetAnswer:
    """One image. Classes without an answer, since it is not scored yet or failed, are in none of these."""

    uri: str
    content_sha256: str | None
    meta: Mapping[str, Any] | None
    decisions: Mapping[str, str]  # class -> clear, review or flag
    answers: Mapping[str, bool]  # class -> whether it is the more likely answer
    margins: Mapping[str, float]  # class -> logits
    scores: Mapping[str, float | None]  # class -> calibrated probability

    def decided(self, decision: str) -> list[str]:
        """Return the classes with this decision."""
        return [label for label, each in self.decisions.items() if each == decision]

    @property
    def shown(self) -> set[str]:
        """The classes that the image shows as far as is known: flagged ones, and likely ones that await review."""
        return {
            label
            for label, each in self.decisions.items()
            if each == "flag" or (each == "review" and self.answers[label])
        }


def set_scans(connection: sa.Connection, checks: Sequence[Check], *, scan_id: str | None = None) -> dict[str, str]:
    """Return class -> scan, of one pass or of scans of the same model, sources and filters.

    scan_id: any of them; None: the newest. Raises UnknownName.
    """
    by_name = {check.name: class_of(check) for check in checks}
    query = (
        sa.select(Scan.id, CheckRow.name, Scan.pass_id, Scan.model, Scan.sources, Scan.filters, Scan.created_at)
        .join(CheckRow, CheckRow.id == Scan.check_id)
        .where(CheckRow.name.in_(by_name), Scan.rescan_of.is_(None))
        .order_by(Scan.created_at.desc())
    )
    rows = connection.execute(query).all()
    anchor = next((row for row in rows if scan_id in (None, row.id)), None)
    if anchor is None:
        what = f"{scan_id} is no scan of" if scan_id else "there is no scan of"
        raise UnknownName(f"{what} {', '.join(list(by_name)[:5])}")
    found: dict[str, Any] = {}
    for row in rows:
        nearer = row.name not in found or _apart(row, anchor) < _apart(found[row.name], anchor)
        if _goes_with(row, anchor) and nearer:
            found[row.name] = row
    if missing := [name for name in by_name if name not in found]:
        raise UnknownName(
            f"no scan of {', '.join(missing[:5])} over the images of scan {anchor.id}: scan them with the same check"
        )
    return {label: found[name].id for name, label in by_name.items()}


def _goes_with(row: Any, anchor: Any) -> bool:
    if anchor.pass_id is not None and row.pass_id == anchor.pass_id and row.model == anchor.model:
        return True
    return bool((row.model, row.sources, row.filters) == (anchor.model, anchor.sources, anchor.filters))


def _apart(row: Any, anchor: Any) -> float:
    return abs(float((row.created_at - anchor.created_at).total_seconds()))


def iter_sets(engine: sa.Engine, scans: Mapping[str, str]) -> Iterator[SetAnswer]:
    """Yield every image of the first class's scan, with the answers that stand. One short read a page.

    scans: class -> scan, as `set_scans` returns them.
    """
    first, after = next(iter(scans.values())), 0
    while True:
        with reading(engine) as connection:
            query = sa.select(Image.id, Image.identity, Image.uri, Image.meta).where(
                Image.scan_id == first, Image.id > after
            )
            page = connection.execute(query.order_by(Image.id).limit(PAGE_IMAGES)).all()
            found = _answers(connection, scans, [row.identity for row in page])
        for row in page:
            yield _joined(row, {label: found[label][row.identity] for label in scans if row.identity in found[label]})
        if len(page) < PAGE_IMAGES:
            return
        after = page[-1].id


def _answers(
    connection: sa.Connection, scans: Mapping[str, str], identities: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return class -> identity -> answer."""
    columns = (Verdict.label, Verdict.decision, Verdict.margin, Verdict.score, Verdict.content_sha256)
    found = {}
    for label, scan in scans.items():
        query = (
            sa.select(Image.identity, *columns)
            .join(Verdict, Verdict.id == Image.verdict_id)
            .where(Image.scan_id == scan, Image.identity.in_(identities))
        )
        found[label] = {row.identity: row for row in connection.execute(query)}
    return found


def _joined(image: Any, answers: Mapping[str, Any]) -> SetAnswer:
    return SetAnswer(
        uri=image.uri,
        content_sha256=next((row.content_sha256 for row in answers.values()), None),
        meta=image.meta,
        decisions={label: row.decision for label, row in answers.items()},
        answers={label: row.label == label for label, row in answers.items()},
        margins={label: row.margin for label, row in answers.items()},
        scores={label: row.score for label, row in answers.items()},
    )


def labelled_sets(
    connection: sa.Connection, checks: Sequence[Check], images: Sequence[str], *, splits: Sequence[str]
) -> dict[str, set[str]]:
    """Return content hash -> classes, of images for which people say yes or no to every class, in these splits."""
    by_class = {class_of(check): current_label_of(connection, check.name, images) for check in checks}
    found = {}
    for sha in set.intersection(*(set(labels) for labels in by_class.values())):
        said = {label: labels[sha] for label, labels in by_class.items()}
        if all(one.split in splits for one in said.values()):
            found[sha] = {label for label, one in said.items() if one.label == label}
    return found
