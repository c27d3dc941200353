"""Checks as rows: every version that was ever used stays, under its hash."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from scanfleet.checks.check import Check, builtin_names, load_check
from scanfleet.checks.multi import BETWEEN, is_member, load_checks, require_one
from scanfleet.db.engine import now
from scanfleet.db.tables import CheckRow
from scanfleet.errors import UnknownName


def save_check(connection: sa.Connection, check: Check, *, added: bool = False) -> int:
    """The id of this very version of the check; stores it when it is new.

    With a version that asks for explanations the one without them is stored, which its scorers name (`scored_check`).
    `added`: from now on this version is what the check's name stands for.
    """
    if check.explain:
        save_check(connection, check.unexplained())
    at = now(connection)
    where = (CheckRow.name == check.name, CheckRow.hash == check.hash)
    existing = connection.execute(sa.select(CheckRow.id).where(*where)).scalar_one_or_none()
    if existing is None:
        row = {
            "name": check.name,
            "hash": check.hash,
            "body": check.model_dump(mode="json"),
            "created_at": at,
        }
        existing = connection.execute(sa.insert(CheckRow).values(row).returning(CheckRow.id)).scalar_one()
    if added:
        connection.execute(sa.update(CheckRow).where(CheckRow.id == existing).values(added_at=at))
    return existing


def add_checks(connection: sa.Connection, checks: Sequence[Check]) -> None:
    """Let the names of these checks stand for these versions from now on. Those of a multi check are added at once."""
    ids = [save_check(connection, check) for check in checks]
    connection.execute(sa.update(CheckRow).where(CheckRow.id.in_(ids)).values(added_at=now(connection)))


def resolve_checks(connection: sa.Connection, name_or_path: str) -> list[Check]:
    """Return the checks of a file or a name: several for one of kind multi. Raises UnknownName, BadCheck."""
    if name_or_path.endswith(".toml"):
        return load_checks(name_or_path)
    members = [] if name_or_path in list_checks(connection) else _members(connection, name_or_path)
    return members or [resolve_check(connection, name_or_path)]


def _members(connection: sa.Connection, name: str) -> list[Check]:
    """Return the checks of a multi check, as it was added last."""
    query = (
        sa.select(CheckRow.body, CheckRow.added_at)
        .where(CheckRow.name.startswith(name + BETWEEN, autoescape=True), CheckRow.added_at.is_not(None))
        .order_by(CheckRow.id)
    )
    rows = [(Check.model_validate(row.body), row.added_at) for row in connection.execute(query)]
    rows = [(check, at) for check, at in rows if is_member(check, name)]
    newest = max((at for _, at in rows), default=None)
    return [check for check, at in rows if at == newest]


def get_check(connection: sa.Connection, check_id: int) -> Check:
    body = connection.execute(sa.select(CheckRow.body).where(CheckRow.id == check_id)).scalar_one()
    return Check.model_validate(body)


def scored_check(connection: sa.Connection, check_id: int) -> int:
    """Return the id of the version that a check's scorers name: the one without explanations."""
    check = get_check(connection, check_id)
    return save_check(connection, check.unexplained()) if check.explain else check_id


def find_version(connection: sa.Connection, name: str, version: str) -> Check | None:
    """Return a version of a check by its hash: a stored one, or the built-in one; None: it is not known here."""
    stored = sa.select(CheckRow.body).where(CheckRow.name == name, CheckRow.hash == version)
    body = connection.execute(stored).scalar_one_or_none()
    if body is not None:
        return Check.model_validate(body)
    check = load_check(name) if name in builtin_names() else None
    return check if check is not None and check.hash == version else None


def list_checks(connection: sa.Connection) -> dict[str, Check]:
    """The newest version of each check by name: the built-in ones, and over them those that were added."""
    checks = {name: load_check(name) for name in builtin_names()}
    added = sa.select(CheckRow.body).where(CheckRow.added_at.is_not(None)).order_by(CheckRow.added_at)
    rows = connection.execute(added).scalars()
    return checks | {check.name: check for check in map(Check.model_validate, rows)}


def resolve_check(connection: sa.Connection, name_or_path: str) -> Check:
    """A check by file (ends in .toml), or by name: added ones first, then built-in. Raises UnknownName, BadCheck."""
    if name_or_path.endswith(".toml"):
        return require_one(load_checks(name_or_path), name=name_or_path)
    checks = list_checks(connection)
    if name_or_path not in checks and (members := _members(connection, name_or_path)):
        return require_one(members, name=name_or_path)
    if name_or_path not in checks:
        raise UnknownName(
            f"no check {name_or_path!r} (there are {', '.join(sorted(checks))}); "
            "name a .toml file, or add one with `scanfleet checks add`"
        )
    return checks[name_or_path]
