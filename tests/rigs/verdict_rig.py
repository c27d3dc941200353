"""Many verdicts at once, written straight into the ledger: for tests of statistics over them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from scanfleet.checks.check import load_check
from scanfleet.db.engine import now, transaction
from scanfleet.db.results.scorers import scorer_id
from scanfleet.db.scans.checks import save_check
from scanfleet.db.tables import Batch, Image, Label, Scan, Verdict
from tests.rigs.ledger_rig import scorer_spec

BATCH_IMAGES = 50


def content(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class VerdictRig:
    """One check of an upgraded ledger. Images are named `folder/0007.jpg`; their bytes differ with their names."""

    def __init__(self, engine: sa.Engine, check: str = "overlay") -> None:
        self.engine = engine
        self.check = load_check(check)
        with transaction(engine) as connection:
            self.check_id = save_check(connection, self.check)

    def scorer(self, revision: str = "1", **more: Any) -> int:
        with transaction(self.engine) as connection:
            return scorer_id(connection, scorer_spec(self.check_id, base_revision=revision, **more))

    def scan(self, name: str, *, sources: Sequence[str] = ("/pictures",)) -> str:
        with transaction(self.engine) as connection:
            values = {"id": name, "identity": name, "check_id": self.check_id, "model": "fake", "queue": "score.fake"}
            values |= {"sources": list(sources), "filters": {}, "state": "done", "created_at": now(connection)}
            connection.execute(sa.insert(Scan).values(values))
        return name

    def verdicts(
        self,
        scan: str,
        scorer: int,
        margins: Sequence[float],
        *,
        folder: str = "/pictures",
        first: int = 0,
        scores: Sequence[float] | None = None,
        mass: float = 1.0,
        drawn: str | None = None,
    ) -> list[str]:
        """One image for each margin; a positive one flags. Returns the contents' hashes."""
        uris = [f"{folder}/{first + place:05}.jpg" for place in range(len(margins))]
        for start in range(0, len(uris), BATCH_IMAGES):
            part = slice(start, start + BATCH_IMAGES)
            part_scores = None if scores is None else scores[part]
            self._batch(scan, scorer, uris[part], margins[part], part_scores, mass, drawn)
        return [content(uri) for uri in uris]

    def _batch(
        self,
        scan: str,
        scorer: int,
        uris: Sequence[str],
        margins: Sequence[float],
        scores: Sequence[float] | None,
        mass: float,
        drawn: str | None,
    ) -> None:
        with transaction(self.engine) as connection:
            at, n = now(connection), len(uris)
            values = {"scan_id": scan, "queue": "score.fake", "state": "done", "n_images": n, "n_verdicts": n}
            values |= {"scorer_id": scorer}
            batch = connection.execute(sa.insert(Batch).values(values).returning(Batch.id)).scalar_one()
            image = {"scan_id": scan, "batch_id": batch, "state": "verdict", "width": 64, "height": 48, "drawn": drawn}
            images = [
                image | {"uri": uri, "identity": content(f"{uri} {scan} {batch}"), "content_sha256": content(uri)}
                for uri in uris
            ]
            insert = sa.insert(Image).returning(Image.id, sort_by_parameter_order=True)
            image_ids = connection.execute(insert, images).scalars().all()
            rows = [
                {
                    "image_id": image_id,
                    "scan_id": scan,
                    "scorer_id": scorer,
                    "identity": content(uri),
                    "content_sha256": content(uri),
                    "label": "overlay" if margin >= 0 else "none",
                    "decision": "flag" if margin >= 0 else "clear",
                    "score": None if scores is None else scores[place],
                    "margin": margin,
                    "mass": mass,
                    "logits": [margin, 0.0, -margin / 2],
                    "created_at": at,
                }
                for place, (image_id, uri, margin) in enumerate(zip(image_ids, uris, margins, strict=True))
            ]
            connection.execute(sa.insert(Verdict), rows)
            newest = sa.select(sa.func.max(Verdict.id)).where(Verdict.image_id == Image.id).scalar_subquery()
            connection.execute(sa.update(Image).where(Image.batch_id == batch).values(verdict_id=newest))

    def label(self, image: str, label: str, *, shown: str | None = None, **more: Any) -> int:
        """A person's label. shown: the decision that the person saw; its label goes with it."""
        answer = {"flag": "overlay", "clear": "none", "review": "none"}
        seen = None if shown is None else {"label": answer[shown], "decision": shown}
        with transaction(self.engine) as connection:
            values = {"check_name": self.check.name, "content_sha256": image, "label": label, "who": "ann"}
            values |= {"shown": seen, "origin": "person", "at": now(connection)} | more
            return connection.execute(sa.insert(Label).values(values).returning(Label.id)).scalar_one()
