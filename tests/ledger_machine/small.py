"""Short helpers for tests of one batch or two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from scanfleet.db.engine import reading, transaction
from scanfleet.db.results import verdicts
from scanfleet.db.results.verdicts import Outcome
from scanfleet.db.scans import batches, crash_isolation, new_images, notifications
from scanfleet.db.scans.batches import Claim
from scanfleet.db.scans.crash_isolation import Expired
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.tables import Scan
from tests.ledger_machine.ledger import QUEUE, open_scan, quick, shift
from tests.ledger_machine.workers import Answer, outcome


class Small:
    """A ledger with one scan, all listed."""

    def __init__(self, engine: sa.Engine, *, n_images: int, batch_images: int) -> None:
        self.engine = quick(engine)
        self.scan_id, self.scorer = open_scan(engine, "mem://small")
        page = [NewImage(uri=f"mem://small/{number}") for number in range(n_images)]
        with transaction(engine) as connection:
            self.batch_ids = new_images.add_images(
                connection, scan_id=self.scan_id, queue=QUEUE, images=page, batch_images=batch_images
            )
            connection.execute(sa.update(Scan).values(n_listed=n_images))

    def claim(self, *, notified: int | None = None, worker: str = "w", lease_seconds: float = 60) -> Claim | None:
        with transaction(self.engine) as connection:
            return batches.claim(
                connection, model="fake", worker=worker, lease_seconds=lease_seconds, notified=notified
            )

    def must_claim(self, *, notified: int | None = None, worker: str = "w") -> Claim:
        held = self.claim(notified=notified, worker=worker)
        assert held is not None
        return held

    def write(self, held: Claim, answers: Sequence[Answer] = (Answer.CLEAR,), *, store: bool = True) -> None:
        with transaction(self.engine) as connection:
            verdicts.write(connection, held, outcome(self.scorer, held.images, answers, store=store))

    def go_on(self, held: Claim, at: int, *, known: Sequence[int] = ()) -> None:
        """Write the images `known` and record image `at` as the next; both are indices into the claim."""
        part = outcome(self.scorer, [held.images[place] for place in known], [Answer.CLEAR], store=True)
        with transaction(self.engine) as connection:
            verdicts.write_part(connection, held, part, in_hand=held.images[at].id)

    def hand_back(self, held: Claim, *, n_known: int = 0) -> None:
        part: Outcome = outcome(self.scorer, held.images[:n_known], [Answer.CLEAR], store=True)
        with transaction(self.engine) as connection:
            verdicts.hand_back(connection, held, part)

    def expire(self) -> Expired:
        with transaction(self.engine) as connection:
            return crash_isolation.expire_leases(connection)

    def pass_time(self, seconds: float = 61) -> None:
        shift(self.engine, seconds)

    def die(self) -> Expired:
        """Let all leases expire; a further minute ends every back-off."""
        self.pass_time()
        expired = self.expire()
        self.pass_time()
        return expired

    def notify(self, *, most: int = 100) -> list[int]:
        with transaction(self.engine) as connection:
            found = notifications.due_for_notification(connection, renotify_seconds=30, max_outstanding=most)
        return [batch_id for batch_id, _ in found]

    def rows(self, table: Any, *where: sa.ColumnElement[bool]) -> list[Any]:
        with reading(self.engine) as connection:
            key = table.__table__.primary_key.columns.values()[0]
            return list(connection.execute(sa.select(*table.__table__.c).where(*where).order_by(key)))

    def row(self, table: Any, key: object) -> Any:
        (found,) = self.rows(table, table.__table__.primary_key.columns.values()[0] == key)
        return found
