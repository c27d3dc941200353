"""Images of a batch that need not be read: their answers are in the ledger, or were just read for another scan."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import sqlalchemy as sa

from scanfleet.db.engine import reading
from scanfleet.db.results.answers import answers_by_identity
from scanfleet.db.scans.batches import Claim, ClaimedImage
from scanfleet.errors import ImageError
from scanfleet.worker.batch.context import AnswersByContent, ScanBytes
from scanfleet.worker.batch.events import ImageResult
from scanfleet.worker.batch.passes.readings import FileRead, PassReadings
from scanfleet.worker.batch.passes.scorer import PassReading, PassScorer
from scanfleet.worker.batch.results import BatchResults
from scanfleet.worker.scoring.factory import Resolved


def add_earlier(
    engine: sa.Engine, resolved: Resolved, images: Collection[ClaimedImage], results: BatchResults
) -> list[ClaimedImage]:
    """Reuse this scorer's answers for the same listed versions, and return the other images."""
    identities = [image.identity for image in images if image.etag is not None]
    with reading(engine) as connection:
        explained = resolved.explain is not None
        answers = answers_by_identity(connection, resolved.scorer_id, identities, explained=explained)
    for image in images:
        if image.identity in answers:
            results.add_earlier(image, answers[image.identity])
    return [image for image in images if image.identity not in answers]


def add_read(
    answers_by_content: AnswersByContent,
    claim: Claim,
    images: Sequence[ClaimedImage],
    results: BatchResults,
    readings: PassReadings,
) -> list[ClaimedImage]:
    """Add what was read for another scan of the pass, and return the other images.

    The ledger is asked about their bytes all the same: for earlier answers, and for bytes that killed workers. A
    flagged image that is to be explained is read again.
    """
    if claim.suspect:
        return list(images)
    resolved = results.resolved
    found = {image.id: readings.find(resolved, image) for image in images}
    if resolved.explain is not None:
        found = {key: None if known and resolved.flags(known[1]) else known for key, known in found.items()}
    hashes = {known[0].sha256 for known in found.values() if known is not None}
    explained = resolved.explain is not None
    query = ScanBytes(scan_id=claim.scan_id, scorer_id=resolved.scorer_id, hashes=hashes, explained=explained)
    answers = answers_by_content(query)
    for image in images:
        if (known := found[image.id]) is None:
            continue
        file, read = known
        results.count_fetched(image, file.etag, size=file.size)
        earlier = answers.get(file.sha256)
        if isinstance(earlier, ImageError):
            results.add_error(image, earlier)
        elif earlier is not None:
            results.add_earlier(image, earlier)
        else:
            results.add_reading(image, read, sha256=file.sha256, width=file.width, height=file.height, notes=file.notes)
    return [image for image in images if found[image.id] is None]


def keep(
    readings: PassReadings, joined: Resolved, image: ClaimedImage, answer: ImageResult, results: BatchResults
) -> None:
    """Keep what a forward has read for other scans; of files with several pictures each scan reads its own."""
    if not isinstance(answer.result, PassReading) or answer.frames is not None:
        return
    assert isinstance(joined.scorer, PassScorer)
    file = FileRead(
        sha256=answer.duplicates.sha256,
        etag=results.version_of(image),
        size=answer.duplicates.size,
        width=answer.width,
        height=answer.height,
        notes=answer.notes,
    )
    readings.add(image, file, zip(joined.scorer.others, answer.result.others, strict=True))
