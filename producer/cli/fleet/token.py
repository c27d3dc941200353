"""`scanfleet token`: who may use the HTTP API."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

import click

from scanfleet.producer.cli.options import Flags, ScanfleetGroup, note
from scanfleet.producer.cli.tables import echo_table

_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


@click.group(cls=ScanfleetGroup)
def token() -> None:
    """Make, list and revoke tokens of `scanfleet serve`.

    \b
    Example:
      scanfleet token create --name ci --scopes read,score --expires 90d
    """


def _lasts(_: click.Context, __: click.Parameter, text: str | None) -> timedelta | None:
    if text is None:
        return None
    found = re.fullmatch(r"([1-9]\d{0,4})([hdw])", text)
    if found is None:
        raise click.BadParameter("write a number and h, d or w: 90d")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


@token.command()
@click.option("--name", required=True, help="Who acts: it stands in labels and in the audit.")
@click.option("--scopes", default="read", show_default=True, metavar="A,B", help="Of read, score, review, admin.")
@click.option("--expires", "lasts", callback=_lasts, metavar="TIME", help="90d, 12h or 4w from now. Default: never.")
@click.pass_obj
def create(flags: Flags, name: str, scopes: str, lasts: timedelta | None) -> None:
    """Make a token and print it once; the database has its hash only.

    \b
    Example:
      scanfleet token create --name ci --scopes read,score --expires 90d
    """
    from scanfleet.config.user import user_name
    from scanfleet.db.access.audit import record
    from scanfleet.db.access.tokens import create_token
    from scanfleet.db.engine import transaction

    wanted = {scope for scope in scopes.replace(" ", "").split(",") if scope}
    with flags.ledger() as engine, transaction(engine) as connection:
        made, secret = create_token(connection, name=name, scopes=wanted, lasts=lasts)
        who = user_name() or "unknown"
        record(connection, who=who, action="token.create", subject=name, detail={"scopes": list(made.scopes)})
    note("keep it: it is shown once")
    click.echo(secret)


@token.command("ls")
@click.pass_obj
def list_all(flags: Flags) -> None:
    """List tokens, without their secrets.

    \b
    Example:
      scanfleet token ls
    """
    from scanfleet.db.access.tokens import list_tokens
    from scanfleet.db.engine import reading

    with flags.ledger(only_reads=True) as engine, reading(engine) as connection:
        found = list_tokens(connection)
    rows = [(t.name, ",".join(t.scopes), *map(_day, (t.created_at, t.expires_at, t.revoked_at))) for t in found]
    echo_table(("name", "scopes", "created", "expires", "revoked"), rows)


def _day(time: datetime | None) -> str | None:
    return None if time is None else f"{time:%Y-%m-%d}"


@token.command()
@click.argument("name")
@click.pass_obj
def revoke(flags: Flags, name: str) -> None:
    """End a token and its browser sessions now.

    \b
    Example:
      scanfleet token revoke ci
    """
    from scanfleet.config.user import user_name
    from scanfleet.db.access.audit import record
    from scanfleet.db.access.tokens import revoke_token
    from scanfleet.db.engine import transaction

    with flags.ledger() as engine, transaction(engine) as connection:
        revoke_token(connection, name)
        record(connection, who=user_name() or "unknown", action="token.revoke", subject=name)
    click.echo(f"revoked {name}")
