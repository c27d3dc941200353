"""Results for people: one per image, in any state, paged by key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from scanfleet.checks.crop_result import CropResult
from scanfleet.checks.explanation import Explanation
from scanfleet.checks.frame_result import FrameResult
from scanfleet.db.engine import reading
from scanfleet.db.results.answers import content_of, scored_at
from scanfleet.db.results.filters import ResultFilter as ResultFilter
from scanfleet.db.results.scorers import outdated
from scanfleet.db.tables import Adapter, CheckRow, Failure, Image, Scan, ScorerRow, Verdict
from scanfleet.images.version import DECODING_VERSION

PAGE_IMAGES = 500


@dataclass(frozen=True, kw_only=True)
class ScorerInfo:
    """The scorer of a verdict."""

    id: int
    key: str
    base_model: str
    revision: str
    precision: str
    adapter: str | None  # SHA-256 of its weights; None: the base model alone
    adapter_id: int | None  # as in `scanfleet adapters ls`
    mode: str | None = None  # as in `ScorerUse`


@dataclass(frozen=True, kw_only=True)
class FailureInfo:
    stage: str
    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Result:
    """One image of a scan. state: pending, verdict, failed or cancelled; the answer is there only with a verdict."""

    image_id: int
    scan: str
    check: str  # its name
    model: str  # as given to the scan
    uri: str
    root: str | None
    etag: str | None
    size: int | None  # bytes
    width: int | None  # pixels
    height: int | None
    content_sha256: str | None
    meta: dict[str, Any] | None
    state: str
    label: str | None = None
    score: float | None = None  # probability of a flag; None when not calibrated
    calibrated: bool = False
    margin: float | None = None  # logits
    mass: float | None = None
    decision: str | None = None
    boxes: list[Any] | None = None
    box_problems: list[Any] | None = None
    crop: CropResult | None = None  # None: no crop pass was due
    frames: FrameResult | None = None  # None: the file holds one picture
    notes: list[Any] | None = None  # what decoding chose where viewers differ
    explanation: Explanation | None = None  # of a flag, in the model's words: untrusted
    unlike: float | None = None  # share of the calibration images that are less unlike; None: not compared
    doubted: str | None = None  # the decision by the margin alone, where a review stands for an unlike image
    reused: bool = False
    scored_at: datetime | None = None  # when the answer was computed, be it for another scan
    scorer: ScorerInfo | None = None
    failure: FailureInfo | None = None


def iter_results(
    engine: sa.Engine,
    wanted: ResultFilter,
    *,
    limit: int | None = None,
    page_images: int = PAGE_IMAGES,
    after: int = 0,
) -> Iterator[Result]:
    """Yield every result, oldest image first, in one short read per page: a long export blocks no writer.

    after: an image id; only later images.
    """
    left = limit
    while left is None or left > 0:
        size = page_images if left is None else min(page_images, left)
        query = _select(wanted).where(Image.id > after).order_by(Image.id).limit(size)
        with reading(engine, long=True) as connection:
            page = [_result(row) for row in connection.execute(query)]
        yield from page
        if len(page) < size:
            return
        after = page[-1].image_id
        left = None if left is None else left - size


def list_failures(
    connection: sa.Connection, scan_id: str, *, stage: str | None, reason: str | None, limit: int
) -> list[Result]:
    """Return images that could not be scored, with their failures."""
    query = _select(ResultFilter(scan=scan_id, state="failed"))
    if stage is not None:
        query = query.where(Failure.stage == stage)
    if reason is not None:
        query = query.where(Failure.reason == reason)
    return [_result(row) for row in connection.execute(query.order_by(Image.id).limit(limit))]


def has_failed_for(connection: sa.Connection, reason: str) -> bool:
    """True where any image of any scan failed for this reason."""
    return connection.execute(sa.select(sa.exists().where(Failure.reason == reason))).scalar_one()


def count_failures(connection: sa.Connection, scan_id: str) -> dict[tuple[str, str], int]:
    """Return (stage, reason) -> images, the most frequent first."""
    n = sa.func.count().label("n")
    query = (
        sa.select(Failure.stage, Failure.reason, n)
        .where(Failure.scan_id == scan_id)
        .group_by(Failure.stage, Failure.reason)
        .order_by(n.desc(), Failure.stage, Failure.reason)
    )
    return {(row.stage, row.reason): row.n for row in connection.execute(query)}


def known_identities(
    connection: sa.Connection, *, check_hash: str, model: str, identities: Sequence[str], explained: bool = False
) -> set[str]:
    """Return the listed versions (uri and etag) for which this check has a verdict of this model that is reused.

    check_hash: of what is scored. explained: flags without an explanation are not reused.
    """
    scorers = (
        sa.select(ScorerRow.id)
        .join(CheckRow, CheckRow.id == ScorerRow.check_id)
        .where(CheckRow.hash == check_hash, ScorerRow.decoding == DECODING_VERSION, ~outdated())
    )
    query = (
        sa.select(Verdict.identity)
        .join(Scan, Scan.id == Verdict.scan_id)
        .where(Verdict.scorer_id.in_(scorers), Verdict.identity.in_(identities), Scan.model == model)
        .where(sa.or_(Verdict.decision != "flag", Verdict.explanation.is_not(None)) if explained else sa.true())
        .distinct()
    )
    return set(connection.execute(query).scalars())


_IMAGE = ("scan_id", "uri", "root", "etag", "size", "width", "height", "meta")
_VERDICT = (
    "label", "score", "margin", "mass", "decision", "boxes", "box_problems", "crop", "frames", "notes", "explanation",
    "unlike", "doubted", "reused_from",
)  # fmt: skip
_SCORER = ("key", "base_model", "base_revision", "precision", "mode")
_FAILURE = ("stage", "reason", "detail")


def result_columns(wanted: ResultFilter) -> dict[str, sa.ColumnElement[Any]]:
    """Return the columns that a result is made of, by name."""
    columns: list[sa.ColumnElement[Any]] = [
        Image.id.label("image_id"),
        CheckRow.name.label("check"),
        Scan.__table__.c.model,
        *(Image.__table__.c[name] for name in _IMAGE),
        (content_of() if wanted.as_of is None else Verdict.content_sha256).label("content_sha256"),
        wanted.state_column.label("state"),
        *(Verdict.__table__.c[name] for name in _VERDICT),
        scored_at(),
        ScorerRow.id.label("scorer_id"),
        *(ScorerRow.__table__.c[name] for name in _SCORER),
        ScorerRow.calibrator.is_not(None).label("calibrated"),
        Adapter.__table__.c.weights_sha256,
        Adapter.id.label("adapter_id"),
        *(Failure.__table__.c[name] for name in _FAILURE),
    ]
    return {str(column.key): column for column in columns}


def select_results(wanted: ResultFilter, columns: Iterable[sa.ColumnElement[Any]]) -> sa.Select[Any]:
    """Return a query of one row per image. columns: some of `result_columns`, or made of them."""
    return wanted.joined(*columns).outerjoin(Adapter, Adapter.id == ScorerRow.adapter_id)


def _select(wanted: ResultFilter) -> sa.Select[Any]:
    return select_results(wanted, result_columns(wanted).values())


def _result(row: sa.Row[Any]) -> Result:
    frames = FrameResult.read(row.frames)
    return Result(
        image_id=row.image_id,
        scan=row.scan_id,
        check=row.check,
        model=row.model,
        uri=row.uri,
        root=row.root,
        etag=row.etag,
        size=row.size,
        width=row.width,
        height=row.height,
        content_sha256=row.content_sha256,
        meta=row.meta,
        state=row.state,
        label=row.label,
        score=row.score,
        calibrated=bool(row.calibrated) and row.scorer_id is not None and (frames is None or frames.calibrated),
        margin=row.margin,
        mass=row.mass,
        decision=row.decision,
        boxes=row.boxes,
        box_problems=row.box_problems,
        crop=CropResult.read(row.crop),
        frames=frames,
        notes=row.notes,
        explanation=Explanation.read(row.explanation),
        unlike=row.unlike,
        doubted=row.doubted,
        reused=row.reused_from is not None,
        scored_at=row.scored_at,
        scorer=None if row.scorer_id is None else _scorer(row),
        failure=None if row.stage is None else FailureInfo(stage=row.stage, reason=row.reason, detail=row.detail),
    )


def _scorer(row: sa.Row[Any]) -> ScorerInfo:
    return ScorerInfo(
        id=row.scorer_id,
        key=row.key,
        base_model=row.base_model,
        revision=row.base_revision,
        precision=row.precision,
        adapter=row.weights_sha256,
        adapter_id=row.adapter_id,
        mode=row.mode,
    )
