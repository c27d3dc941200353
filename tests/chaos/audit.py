"""The audit: every image of the ledger against the answers of a run without faults."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa

from scanfleet.db.engine import reading
from scanfleet.db.tables import Batch, CheckRow, Failure, Image, Scan, ScorerRow, Verdict
from tests.chaos.archive import Answer
from tests.chaos.expected import Expected, Key

MUST_BE_ZERO = (
    "lost",
    "doubled",
    "wrong_scorer",
    "wrong_margin",
    "wrong_failure",
    "transient_errors_as_verdicts",
    "transient_errors_as_failures",
    "quarantined_wrongly",
    "poison_missed",
)


@dataclass(frozen=True, kw_only=True)
class Audit:
    """images: of all scans together. digest: over the whole set of verdicts and failures, uri by uri.

    changed: "deleted: gone", "deleted: read before" … -> versions of objects that ended like that.
    """

    images: int
    verdicts: int
    failures: int
    quarantined: int
    lost: int  # in no final state, or not in the ledger at all
    doubled: int  # more than one answer, or counted otherwise than answered
    wrong_scorer: int  # a verdict by the scorer of another check, or of another model
    wrong_margin: int  # a verdict with another label, decision or margin
    wrong_failure: int  # a damaged image, with another stage or reason
    transient_errors_as_verdicts: int  # a verdict on bytes that are not the image's, or on an image that has no answer
    transient_errors_as_failures: int  # a good image recorded as failed
    quarantined_wrongly: int
    poison_missed: int
    changed: dict[str, int]
    digest: str
    reference_digest: str

    @property
    def holds(self) -> bool:
        return self.digest == self.reference_digest and not any(getattr(self, name) for name in MUST_BE_ZERO)

    def as_dict(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, kw_only=True)
class Found:
    """The rows of the ledger for one image."""

    image_id: int
    state: str
    own_scorer: bool  # the verdict's scorer belongs to the scan's check and model
    answer: Answer | None  # None: neither verdict nor failure


def audit(engine: sa.Engine, expected: Mapping[Key, Expected]) -> Audit:
    with reading(engine) as connection:
        found = _read(connection)
        surplus = _surplus_answers(connection) + _miscounted(connection)
    due = {key: row for key, row in expected.items() if row.required or key in found}
    firsts = {key: rows[0] for key, rows in found.items()}
    right = {key: _nearest(row, firsts.get(key)) for key, row in due.items()}
    wrong = Counter(fault for key, answer in right.items() for fault in faults_of(answer, firsts.get(key)))
    answers = [row for rows in found.values() for row in rows if row.answer is not None]
    repeated = sum(len(rows) - 1 for rows in found.values()) + len(found.keys() - due.keys())
    return Audit(
        images=len(due),
        verdicts=sum(row.state == "verdict" for row in answers),
        failures=sum(row.state == "failed" for row in answers),
        quarantined=sum(row.answer is not None and row.answer.is_quarantine for row in answers),
        doubled=repeated + surplus,
        changed=_fates(due, firsts),
        digest=_digest({key: row.answer for key, row in firsts.items()}),
        reference_digest=_digest(dict(right)),
        **{name: wrong[name] for name in MUST_BE_ZERO if name != "doubled"},
    )


def _nearest(expected: Expected, found: Found | None) -> Answer:
    """The right answer that the ledger has, or else the first one."""
    return found.answer if found is not None and found.answer in expected.answers else expected.answers[0]


def _fates(expected: Mapping[Key, Expected], found: Mapping[Key, Found]) -> dict[str, int]:
    """Count how the changed versions ended."""
    fates = Counter(
        f"{row.change}: {found[key].answer.reason or 'read before'}"
        for key, row in expected.items()
        if row.change is not None and key in found and found[key].answer is not None
    )
    return dict(sorted(fates.items()))


def faults_of(expected: Answer, found: Found | None) -> list[str]:
    """Return the problem of one image."""
    if found is None or found.answer is None:
        return ["lost"]
    answer, faults = found.answer, []
    if not answer.is_failure and not found.own_scorer:
        faults.append("wrong_scorer")
    if answer == expected:
        return faults
    if expected.is_quarantine and not answer.is_quarantine:
        faults.append("poison_missed")
    if answer.is_quarantine:
        faults.append("quarantined_wrongly")
    elif answer.is_failure:
        faults.append("wrong_failure" if expected.is_failure else "transient_errors_as_failures")
    elif expected.is_failure or answer.sha256 != expected.sha256:
        faults.append("transient_errors_as_verdicts")
    else:
        faults.append("wrong_margin")
    return faults


def _read(connection: sa.Connection) -> dict[Key, list[Found]]:
    query = (
        sa.select(
            CheckRow.name,
            Scan.check_id,
            Scan.model,
            Image.id,
            Image.uri,
            Image.etag,
            Image.state,
            ScorerRow.check_id.label("scored_for"),
            ScorerRow.base_model.label("scored_by"),
            *(Verdict.__table__.c[name] for name in ("label", "decision", "margin", "content_sha256")),
            *(Failure.__table__.c[name] for name in ("stage", "reason")),
        )
        .select_from(Image)
        .join(Scan, Scan.id == Image.scan_id)
        .join(CheckRow, CheckRow.id == Scan.check_id)
        .outerjoin(Verdict, Verdict.id == Image.verdict_id)
        .outerjoin(ScorerRow, ScorerRow.id == Verdict.scorer_id)
        .outerjoin(Failure, Failure.image_id == Image.id)
    )
    found: dict[Key, list[Found]] = defaultdict(list)
    for row in connection.execute(query):
        own_scorer = (row.scored_for, row.scored_by) == (row.check_id, row.model)
        found[row.name, row.model, row.uri, row.etag].append(
            Found(image_id=row.id, state=row.state, own_scorer=own_scorer, answer=_answer(row))
        )
    return dict(found)


def _answer(row: sa.Row[tuple[object, ...]]) -> Answer | None:
    if row.state == "verdict" and row.label is not None:
        return Answer(label=row.label, decision=row.decision, margin=row.margin, sha256=row.content_sha256)
    if row.state == "failed" and row.stage is not None:
        return Answer(stage=row.stage, reason=row.reason)
    return None


def _surplus_answers(connection: sa.Connection) -> int:
    """Count verdict rows beyond the first of an image, and answers of images in another state."""
    images, verdicts, failures = Image.__table__, Verdict.__table__, Failure.__table__
    per_image = sa.select(sa.func.count().label("n")).select_from(verdicts).group_by(verdicts.c.image_id).subquery()
    several = sa.select(sa.func.coalesce(sa.func.sum(per_image.c.n - 1), 0))
    beside = [
        sa.select(sa.func.count())
        .select_from(verdicts.join(images, images.c.id == verdicts.c.image_id))
        .where(images.c.state != "verdict"),
        sa.select(sa.func.count())
        .select_from(failures.join(images, images.c.id == failures.c.image_id))
        .where(images.c.state != "failed"),
    ]
    return sum(int(connection.execute(query).scalar_one()) for query in (several, *beside))


def _miscounted(connection: sa.Connection) -> int:
    """Return how far the counts of batches differ from their images."""
    in_state = sa.select(Image.batch_id, Image.state, sa.func.count().label("n")).group_by(Image.batch_id, Image.state)
    actual = {(row.batch_id, row.state): row.n for row in connection.execute(in_state)}
    counted = connection.execute(sa.select(Batch.id, Batch.n_images, Batch.n_verdicts, Batch.n_failures)).all()
    total = Counter[int]()
    for (batch_id, _), n in actual.items():
        total[batch_id] += n
    return sum(
        abs(row.n_verdicts - actual.get((row.id, "verdict"), 0))
        + abs(row.n_failures - actual.get((row.id, "failed"), 0))
        + abs(row.n_images - total[row.id])
        for row in counted
    )


def _digest(answers: dict[Key, Answer | None]) -> str:
    lines = sorted(f"{key} {answer}" for key, answer in answers.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
