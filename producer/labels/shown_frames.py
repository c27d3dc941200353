"""The picture that people labelled, of a file with several: the one that the newest verdict of the check names."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

from scanfleet.db.engine import reading
from scanfleet.db.labels.shown_verdicts import shown_for


def frame_finder(engine: sa.Engine, check_name: str) -> Callable[[str], int | None]:
    """Return a function from SHA-256 to the picture's number. It raises DatabaseUnavailable."""

    def find(sha256: str) -> int | None:
        with reading(engine) as connection:
            shown = shown_for(connection, check_name, [sha256]).get(sha256)
        return None if shown is None else shown.get("frame")

    return find
