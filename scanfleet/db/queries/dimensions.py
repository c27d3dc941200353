"""By what results are counted: a field, a column of the manifest, a span of time, or a folder. SQL of both databases.

SQLite has neither patterns nor a strict reading of times, so that functions of Python do both there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from scanfleet.db.results.answers import scored_at
from scanfleet.db.results.filters import ResultFilter
from scanfleet.db.results.portable import meta_text
from scanfleet.db.tables import Batch, CheckRow, Failure, Image, Scan, ScorerRow, Verdict
from scanfleet.errors import RequestError

Text = sa.SQLColumnExpression[Any]

MAX_DIMENSIONS = 5
MAX_LEVELS = 20
NOT_A_DATE = "not a date"
DATE = (
    r"^(?!0000)[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
    r"([T ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9]([.][0-9]{1,9})?)?(Z|[+-](0[0-9]|1[0-4]):[0-5][0-9])?)?$"
)
_ZONE = "(Z|[+-][0-9]{2}:[0-9]{2})$"
PERIODS = {  # format of PostgreSQL, of Python
    "hour": ("YYYY-MM-DD HH24:00", "%Y-%m-%d %H:00"),
    "day": ("YYYY-MM-DD", "%Y-%m-%d"),
    "week": ("YYYY-MM-DD", "%Y-%m-%d"),  # of its Monday
    "month": ("YYYY-MM", "%Y-%m"),
    "year": ("YYYY", "%Y"),
}
TIMES: dict[str, Text] = {"scored_at": scored_at().element, "failed_at": Failure.at, "started_at": Scan.created_at}
FIELDS: dict[str, Callable[[ResultFilter], Text]] = {
    "scan": lambda _: Image.scan_id,
    "check": lambda _: CheckRow.name,
    "model": lambda _: Scan.model,
    "state": lambda wanted: wanted.state_column,
    "decision": lambda _: Verdict.decision,
    "label": lambda _: Verdict.label,
    "adapter": lambda _: _adapter(),
    "mode": lambda _: ScorerRow.mode,
    "stage": lambda _: Failure.stage,
    "reason": lambda _: Failure.reason,
    "worker": lambda _: _worker(),
}
_CALL = re.compile(r"(\w+)\((.*)\)")
SYNTAX = f"{', '.join(FIELDS)}; meta.COLUMN; {', '.join(f'{name}(TIME)' for name in PERIODS)}; prefix(uri,LEVELS)"


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """name: as given. guessed: a column of the manifest that was not named as one, so that it may be a typo."""

    name: str
    column: Callable[[sa.Connection, ResultFilter], Text]
    is_period: bool = False
    guessed: bool = False


def read_dimensions(text: str) -> list[Dimension]:
    """Read a list such as `decision,meta.campaign,week(scored_at),prefix(uri,2)`. Raises RequestError."""
    names = [name.strip() for name in re.split(r",(?![^()]*\))", text)]
    if not all(names) or len(names) > MAX_DIMENSIONS:
        raise RequestError(f"--by {text}: name one to {MAX_DIMENSIONS} of: {SYNTAX}")
    return [_dimension(name) for name in dict.fromkeys(names)]


def _dimension(name: str) -> Dimension:
    call = _CALL.fullmatch(name)
    if call is None:
        if name in FIELDS:
            return Dimension(name=name, column=lambda _, wanted: FIELDS[name](wanted))
        key = name.removeprefix("meta.")
        if not key or re.search(r"[()]", name):
            raise RequestError(f"--by {name}: name one of: {SYNTAX}")
        return Dimension(name=name, column=lambda *_: meta_text(key), guessed=key == name)
    function, inside = call[1], call[2].strip()
    if function == "prefix":
        levels = _levels(name, inside)
        return Dimension(name=name, column=lambda connection, _: _folder(connection, levels))
    if function not in PERIODS or not inside:
        raise RequestError(f"--by {name}: name one of: {SYNTAX}")
    return _period(name, function, inside)


def _period(name: str, unit: str, inside: str) -> Dimension:
    time, key = TIMES.get(inside), inside.removeprefix("meta.")

    def column(connection: sa.Connection, _: ResultFilter) -> Text:
        return _of_time(connection, unit, time) if time is not None else _of_text(connection, unit, meta_text(key))

    return Dimension(name=name, column=column, is_period=True, guessed=time is None and key == inside)


def _levels(name: str, inside: str) -> int:
    found = re.fullmatch(r"uri\s*,\s*([0-9]{1,2})", inside)
    if found is None or not 1 <= int(found[1]) <= MAX_LEVELS:
        raise RequestError(f"--by {name}: write prefix(uri,2) for the first two folders, 1 to {MAX_LEVELS}")
    return int(found[1])


def _adapter() -> Text:
    """Return the adapter's id as text; `none`: the base model alone answered."""
    text = sa.func.coalesce(sa.cast(ScorerRow.adapter_id, sa.Text), "none")
    return sa.case((ScorerRow.id.is_not(None), text))


def _worker() -> Text:
    """Return who settled the batch in which the image was answered; for an answer of a rescan, that of the rescan."""
    answered = aliased(Image)
    query = sa.select(Batch.worker).join(answered, answered.batch_id == Batch.id)
    return query.where(answered.id == sa.func.coalesce(Verdict.image_id, Image.id)).scalar_subquery()


def _of_time(connection: sa.Connection, unit: str, time: Text) -> Text:
    if connection.dialect.name == "sqlite":
        return sa.func.scanfleet_period(unit, sa.cast(time, sa.Text))
    return _shown(unit, sa.func.timezone("UTC", time))


def _of_text(connection: sa.Connection, unit: str, text: Text) -> Text:
    """Return the span of an ISO date in a text, or NOT_A_DATE. PostgreSQL raises for 31 February: days are checked."""
    if connection.dialect.name == "sqlite":
        return sa.func.scanfleet_period(unit, text)

    def part(first: int, length: int) -> Text:
        return sa.cast(sa.func.substr(text, first, length), sa.Integer)

    first = sa.func.make_date(part(1, 4), part(6, 2), 1)
    last = sa.extract("day", first + sa.text("INTERVAL '1 month' - INTERVAL '1 day'"))
    with_zone = sa.func.timezone("UTC", sa.cast(text, sa.DateTime(timezone=True)))
    zoned = sa.and_(sa.func.length(text) > len("2026-01-01"), text.op("~")(_ZONE))
    time = sa.case((zoned, with_zone), else_=sa.cast(text, sa.DateTime()))
    valid = sa.case((part(9, 2) <= last, _shown(unit, time)), else_=NOT_A_DATE)
    return sa.case((text.is_(None), None), (text.op("~")(DATE), valid), else_=NOT_A_DATE)


def _shown(unit: str, time: Text) -> Text:
    return sa.func.to_char(sa.func.date_trunc(unit, time), PERIODS[unit][0])


def _folder(connection: sa.Connection, levels: int) -> Text:
    if connection.dialect.name == "sqlite":
        return sa.func.scanfleet_folder(Image.uri, levels)
    return sa.func.substring(Image.uri, folder_pattern(levels))


def folder_pattern(levels: int) -> str:
    """Return the pattern of the scheme or root of a uri and its first folders; s3://ads/2026/ has two."""
    return f"^(?:[a-zA-Z][a-zA-Z0-9+.-]*://|/)?(?:[^/]*/){{0,{levels}}}"


def period_of(unit: str, text: str | None) -> str | None:
    """Return the span that a time lies in, in UTC, or NOT_A_DATE.

    >>> period_of("week", "2026-11-08T23:30:00-05:00"), period_of("month", "2026-02-31"), period_of("day", None)
    ('2026-11-09', 'not a date', None)
    """
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text) if re.match(DATE, text) else None
        if time is None:
            return NOT_A_DATE
        if time.tzinfo is not None:
            time = time.astimezone(UTC)
        if unit == "week":
            time -= timedelta(days=time.weekday())
        return time.strftime(PERIODS[unit][1])
    except (ValueError, OverflowError):
        return NOT_A_DATE


def folder_of(uri: str, levels: int) -> str:
    """
    >>> folder_of("s3://ads/2026/11/a.png", 2), folder_of("/pictures/a.png", 2)
    ('s3://ads/2026/', '/pictures/')
    """
    found = re.match(folder_pattern(levels), uri)
    return found[0] if found else ""


def teach(connection: sa.Connection) -> None:
    """Give this connection the functions that the SQL here calls; for SQLite, before a query with dimensions."""
    if connection.dialect.name == "sqlite":
        driver: Any = connection.connection.dbapi_connection
        driver.create_function("scanfleet_period", 2, period_of, deterministic=True)
        driver.create_function("scanfleet_folder", 2, folder_of, deterministic=True)
