"""`scanfleet db`: the schema and the roles of the database."""

from __future__ import annotations

import click

from scanfleet.producer.cli.options import Flags, ScanfleetGroup

WAIT_SECONDS = 2.0  # between two looks at the schema


@click.group(cls=ScanfleetGroup)
def db() -> None:
    """Upgrade and check the database schema.

    The embedded database upgrades itself.

    \b
    Example:
      scanfleet --database-url postgresql://scanfleet@db/scanfleet db upgrade
    """


@db.command()
@click.pass_obj
def upgrade(flags: Flags) -> None:
    """Run the missing migrations, all or none. Safe to run twice at a time.

    \b
    Example:
      scanfleet db upgrade
    """
    from scanfleet.db import schema

    with schema.connect_at_start(flags.settings()) as engine:
        click.echo(schema.upgrade(engine))


@db.command()
@click.pass_obj
def check(flags: Flags) -> None:
    """Print the revision and check that rows fit together.

    Exit 18 if this version of scanfleet needs another revision, 28 if rows point to rows that are gone. Reads
    all images and verdicts.

    \b
    Example:
      scanfleet db check
    """
    from scanfleet.db import pointers, schema

    with schema.connect_at_start(flags.settings()) as engine:
        click.echo(schema.check_schema(engine))
        pointers.check_pointers(engine)


@db.command()
@click.option("--seconds", type=click.FloatRange(min=0), default=600.0, show_default=True, help="At most.")
@click.pass_obj
def wait(flags: Flags, seconds: float) -> None:
    """Wait until the schema is one that this version works with.

    For what starts beside a migration, as an init container does. Exit 18 if it is not upgraded in time, 75 if the
    database cannot be reached in time.

    \b
    Example:
      scanfleet db wait --seconds 300
    """
    import time

    from scanfleet.db import schema
    from scanfleet.errors import DatabaseUnavailable, SchemaOutdated, SchemaTooNew

    settings, deadline = flags.settings(), time.monotonic() + seconds
    while True:
        try:
            with schema.connect_at_start(settings) as engine:
                found = schema.check_schema(engine, newer=True)
        except SchemaTooNew:
            raise
        except (SchemaOutdated, DatabaseUnavailable):
            if time.monotonic() >= deadline:
                raise
        else:
            click.echo(found)
            return
        time.sleep(min(WAIT_SECONDS, max(0.0, deadline - time.monotonic())))


@db.command()
@click.option("--producer", default="scanfleet_producer", show_default=True, help="Role that enqueues and manages.")
@click.option("--worker", default="scanfleet_worker", show_default=True, help="Role that scores.")
@click.option("--reader", default="scanfleet_reader", show_default=True, help="Role that only reads.")
@click.option("--keeper", default="scanfleet_keeper", show_default=True, help="Role that deletes.")
def roles(producer: str, worker: str, reader: str, keeper: str) -> None:
    """Print SQL for four PostgreSQL roles of least privilege. Changes nothing.

    Run the SQL as the owner of the tables, and again after every `db upgrade`. Then admit your users with
    GRANT scanfleet_worker TO alice.

    \b
    Example:
      scanfleet db roles | psql postgresql://owner@db/scanfleet
    """
    from scanfleet.db.roles import RoleNames, role_statements

    for line in role_statements(RoleNames(producer=producer, worker=worker, reader=reader, keeper=keeper)):
        click.echo(line)
