"""`scanfleet adapters push` and `pull`: copy an adapter's files to and from a shared place."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scanfleet.producer.cli.options import Flags

if TYPE_CHECKING:
    import sqlalchemy as sa

    from scanfleet.config.settings import Settings
    from scanfleet.db.training.adapters import AdapterInfo


@click.command()
@click.argument("adapter_id", metavar="ID", type=int)
@click.argument("destination", metavar="[DEST]", required=False)
@click.pass_obj
def push(flags: Flags, /, *, adapter_id: int, destination: str | None) -> None:
    """Copy an adapter's files to where all workers can read them.

    DEST is a folder or s3://bucket/prefix. Default: the setting adapters_url. Prints the new place; workers load the
    adapter from there.

    \b
    Example:
      scanfleet adapters push 7 s3://models/adapters
    """
    from scanfleet.db.engine import transaction
    from scanfleet.db.schema import ledger
    from scanfleet.db.training.adapters import move_adapter
    from scanfleet.errors import BadSettings
    from scanfleet.storage import adapter_files

    settings = flags.settings()
    if destination is None and settings.adapters_url is None:
        raise BadSettings("adapters_url is not set: name a folder or s3://bucket/prefix after the id, or set it")
    with ledger(settings) as engine:
        adapter = _get(engine, adapter_id)
        with _files(adapter, settings) as folder:
            place = destination or adapter_files.shared_place(settings)
            uri = adapter_files.push(folder, place, settings)
        with transaction(engine) as connection:
            move_adapter(connection, adapter_id, uri)
    click.echo(uri)


@click.command()
@click.argument("adapter_id", metavar="ID", type=int)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.pass_obj
def pull(flags: Flags, /, *, adapter_id: int, folder: Path) -> None:
    """Copy an adapter's files into a new folder and check their digest.

    \b
    Example:
      scanfleet adapters pull 7 overlay-7/
      scanfleet score photos/ --check overlay --adapter overlay-7/
    """
    from scanfleet.db.schema import ledger
    from scanfleet.storage import adapter_files

    settings = flags.settings()
    with ledger(settings) as engine:
        adapter = _get(engine, adapter_id)
    _require_files(adapter)
    adapter_files.pull(adapter.uri, folder.absolute(), settings, digest=adapter.weights_sha256)
    click.echo(folder)


def _get(engine: sa.Engine, adapter_id: int) -> AdapterInfo:
    from scanfleet.db.engine import reading
    from scanfleet.db.training.adapters import get_adapter

    with reading(engine) as connection:
        return get_adapter(connection, adapter_id)


def _require_files(adapter: AdapterInfo) -> None:
    from scanfleet.errors import BadSource

    if adapter.uri.startswith("builtin://"):
        raise BadSource(f"adapter {adapter.id} ships with scanfleet: every worker already has its files")


@contextmanager
def _files(adapter: AdapterInfo, settings: Settings) -> Iterator[Path]:
    """Yield a temporary copy of the adapter's files, checked against the registered digest."""
    from scanfleet.storage import adapter_files

    _require_files(adapter)
    with tempfile.TemporaryDirectory(prefix="scanfleet-adapter-") as folder:
        copy = Path(folder) / "adapter"
        adapter_files.pull(adapter.uri, copy, settings, digest=adapter.weights_sha256)
        yield copy
