"""A ledger that questions are asked of: two checks, a failure, a rescan after a promotion, and fields of a manifest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from scanfleet.checks.check import load_check
from scanfleet.db.engine import now, reading, transaction
from scanfleet.db.tables import Label, LabelledImage
from tests.rigs.rescan_rig import Archive, archive, uri

N_IMAGES = 12
FAILED = 11
PRICES = (3, 3.5, "3", None)  # JSON numbers and a text
DATES = ("2026-11-02", "2026-11-08T23:30:00-05:00", "2026-02-31", "soon", None)


@dataclass(frozen=True)
class Asked:
    """scan: overlay, images 0 to 11, of which 11 failed; margin n - 5, and n - 7 since its rescan.

    other: baggage, images 0 to 3, margin n - 5. first, second: ids of the adapters before and after the rescan.
    before, between: times before the first answer, and between the answers of the scan and those of the rescan.
    """

    archive: Archive
    scan: str
    rescan: str
    other: str
    first: int
    second: int
    before: datetime
    between: datetime


def fields(number: int) -> dict[str, Any]:
    """The columns of the manifest, with a quote and an umlaut in a name."""
    return {
        "campaign": ("spring", "autumn")[number % 2],
        "price": PRICES[number % 4],
        "ok": number % 3 == 0,
        'größe "x"': f"{number % 2}",
        "published": DATES[number % 5],
    }


@contextmanager
def asked(folder: Path, **settings: Any) -> Iterator[Asked]:
    with archive(folder, **settings) as made:
        first = made.promote("aa" * 32)
        before = _now(made)
        scan = made.scan(N_IMAGES, _margin(5), meta=fields, failing=[uri(FAILED)])
        between = _now(made)
        made.check = load_check("baggage")
        other = made.scan(4, _margin(5), meta=fields)
        made.check = load_check("overlay")
        second = made.promote("bb" * 32)
        rescan = made.rescan(scan, everything=True)
        made.work(_margin(7))
        _label(made)
        yield Asked(made, scan, rescan, other, first, second, before, between)


def _label(made: Archive) -> None:
    """People's labels of images 0 to 9 of check overlay.

    Drawn at random: 0 to 3 none, 8 and 9 overlay, 10 none. Chosen: 4 and 7 overlay. Image 5 is disputed.
    """
    said = [(number, "none", {"drawn": "random"}) for number in (0, 1, 2, 3, 10)]
    said += [(number, "overlay", {"drawn": "random"}) for number in (8, 9)]
    said += [(4, "overlay", {}), (7, "none", {}), (7, "overlay", {"drawn": "threshold"})]
    said += [(5, "overlay", {}), (5, "none", {"who": "bob"}), (3, "none", {"who": "bob"})]
    with transaction(made.engine) as connection:
        for number, label, more in said:
            image = {"content_sha256": f"sha-{uri(number)}", "uri": uri(number)}
            values = {"check_name": "overlay", "label": label, "who": "ann", "origin": "person", "at": now(connection)}
            connection.execute(sa.insert(Label).values(image | values | more))
            known = sa.select(LabelledImage.content_sha256).where(LabelledImage.content_sha256 == f"sha-{uri(number)}")
            if connection.execute(known).first() is None:
                split = {"split": "train" if number in (8, 4) else "golden", "cluster": f"{number}", "phash": "0"}
                size = {"width": 1, "height": 1, "added_at": now(connection)}
                connection.execute(sa.insert(LabelledImage).values(image | split | size))


def _margin(less: int) -> Any:
    return lambda name: float(int(name[-5:]) - less)


def _now(made: Archive) -> datetime:
    with reading(made.engine) as connection:
        return now(connection)
