"""A ledger that answers the questions of docs/database.md: with rescan, rollback, retry, copies, labels, deletion."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from scanfleet.db.deletion.selection import Selection
from scanfleet.db.engine import now, reading, transaction
from scanfleet.db.results import answers, verdicts
from scanfleet.db.scans import new_images, retries, scans
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.tables import Batch, Image, Label, Scan, Verdict
from scanfleet.db.training import champions
from scanfleet.producer.deletion.forgetting import forget
from scanfleet.producer.deletion.scans import delete_scan
from tests.rigs.rescan_rig import QUEUE, Archive, archive, uri

N = 40
GONE = (uri(5), uri(29))
CAMPAIGNS, ADVERTISERS = ("spring", "summer"), ("acme", "bolt", "corp")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """names: of the scans, and of a moment between two answers, as the page has them. truth: labels that flag, by uri.

    said_first: decisions of the first scan before it was rescanned.
    """

    engine: sa.Engine
    names: dict[str, str]
    truth: dict[str, bool]
    said_first: dict[str, str]

    def named(self, sql: str) -> str:
        for name, value in self.names.items():
            sql = sql.replace(f"'{name}'", f"'{value}'")
        return sql


def spread(name: str) -> float:
    return round((int(name[-5:]) % 31) * 0.2 - 3.0, 3)


@contextmanager
def ask(folder: Path, url: str) -> Iterator[Asked]:
    folder.mkdir()
    with archive(folder, database_url=url) as held:
        held.promote("first")
        scan = _scan(held, range(N), failing=[uri(12), uri(33)])
        said_first = {name: row.decision for name, row in held.images(scan).items() if row.decision}
        with reading(held.engine) as connection:
            date = now(connection).astimezone(UTC)
        held.promote("second")
        rescan = held.rescan(scan, band=1.0, audit=3)
        held.work(lambda name: spread(name) - 0.9)
        with transaction(held.engine) as connection:
            champions.roll_back(connection, held.check.name, "fake", who="ann", why="worse")
        back = held.rescan(scan, band=0.3, audit=0)
        held.work(spread)
        with transaction(held.engine) as connection:
            retries.retry_failures(connection, scan)
        held.work(spread, failing=[uri(33)])
        other = _scan(held, range(5, N // 2), shift=-0.5)
        copies = _copy(held, scan)
        truth = _label(held)
        _delete(held)
        for name in GONE:
            said_first.pop(name, None)
            truth.pop(name, None)
        with transaction(held.engine) as connection:
            connection.execute(sa.update(Batch).values(seconds={"device": 1.5, "under_way": 4.0}))
        names = {"SCAN": scan, "RESCAN": rescan, "BACK": back, "OTHER": other, "COPIES": copies}
        names["DATE"] = f"{date:%Y-%m-%d %H:%M:%S.%f}"
        yield Asked(engine=held.engine, names=names, truth=truth, said_first=said_first)


def _delete(held: Archive) -> None:
    """Forget two images, one of which was copied, and delete a scan of others."""
    doomed = _scan(held, range(30, N))
    assert sum(page.n_images for page in forget(held.engine, Selection(uris=GONE), with_labels=True)) > len(GONE)
    assert sum(page.n_images for page in delete_scan(held.engine, doomed)) == N - 30


def _scan(held: Archive, numbers: range, *, shift: float = 0.0, failing: list[str] | None = None) -> str:
    page = [NewImage(uri=uri(number), etag="1", size=7, meta=_meta(number)) for number in numbers]
    scan = _add(held, page)
    boxes = ({"x0": 1.0, "y0": 2.0, "x1": 5.0, "y1": 6.0, "label": "overlay", "score": 0.5},)
    while claim := held.claim():
        known = held.outcome(claim, lambda name: spread(name) + shift, failing=failing or [])
        given = [
            answers.NewVerdict(**vars(each) | {"boxes": boxes, "score": 0.5 + each.margin / 8})
            if each.decision == "flag"
            else each
            for each in known.verdicts
        ]
        outcome = verdicts.Outcome(scorer_id=known.scorer_id, verdicts=given, failures=known.failures)
        with transaction(held.engine) as connection:
            verdicts.write(connection, claim, outcome)
    return scan


def _add(held: Archive, page: list[NewImage]) -> str:
    with transaction(held.engine) as connection:
        scan, _ = scans.open_scan(
            connection, check=held.check, model="fake", sources=["mem://a"], filters={}, fresh=True
        )
        new_images.add_images(connection, scan_id=scan.id, queue=QUEUE, images=page, batch_images=16)
        connection.execute(sa.update(Scan).where(Scan.id == scan.id).values(n_listed=len(page)))
    return scan.id


def _meta(number: int) -> dict[str, Any]:
    published = datetime(2026, 10, 1 + number % 20, tzinfo=UTC).date().isoformat()
    advertiser, campaign = ADVERTISERS[number % 3], CAMPAIGNS[number % 2]
    return {"id": number, "campaign": campaign, "advertiser": advertiser, "published": published}


def _copy(held: Archive, scan: str) -> str:
    """The same pictures under other names, whose answers are reused."""
    copies = _add(held, [NewImage(uri=f"mem://c/{number:05}", etag="1", meta=_meta(number)) for number in (1, 28, 29)])
    originals = held.images(scan)
    claim = held.must_claim()
    scorer = held.scorer(claim.check_id)
    with reading(held.engine) as connection:
        hashes = [f"sha-{uri(int(image.uri[-5:]))}" for image in claim.images]
        known = answers.answers_by_content(connection, scorer, hashes)
    given = [
        answers.NewVerdict.reuse(known[sha], image_id=image.id, identity=image.identity)
        for image, sha in zip(claim.images, hashes, strict=True)
    ]
    assert {each.content_sha256 for each in given} <= {row.sha256 for row in originals.values()}
    with transaction(held.engine) as connection:
        verdicts.write(connection, claim, verdicts.Outcome(scorer_id=scorer, verdicts=given, failures={}))
    return copies


def _label(held: Archive) -> dict[str, bool]:
    """Labels of images by bytes: every third one wrong, one changed by its person, one disputed, one undone."""
    said: dict[str, bool] = {}
    with transaction(held.engine) as connection:

        def add(number: int, label: str, who: str = "ann", **more: Any) -> int:
            row = {"check_name": held.check.name, "content_sha256": f"sha-{uri(number)}", "uri": uri(number)}
            row |= {"label": label, "who": who, "origin": "person", "at": now(connection)} | more
            return connection.execute(sa.insert(Label).values(row).returning(Label.id)).scalar_one()

        for number in range(N):
            flags = number % 3 != 0
            add(number, "overlay" if flags else "none", boxes=[{"x0": 1, "y0": 2, "x1": 3, "y1": 4}])
            said[uri(number)] = said[f"mem://c/{number:05}"] = flags
        add(30, "overlay")
        said[uri(30)] = True
        add(28, "none", who="bob")
        undone = add(29, "none", who="bob")
        add(29, "none", who="bob", undoes=undone)
    for name in (uri(28), "mem://c/00028"):
        del said[name]
    return said


def raw_rows(engine: sa.Engine) -> list[Any]:
    """Return every image with the columns of the verdict that stands for it."""
    query = sa.select(Image.__table__, Verdict.decision, Verdict.label)
    query = query.outerjoin(Verdict, Verdict.id == Image.verdict_id).order_by(Image.id)
    with reading(engine) as connection:
        return list(connection.execute(query))
