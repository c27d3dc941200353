"""Shared by all commands: global options, the ledger, common options and output helpers."""

from __future__ import annotations

import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from scanfleet.producer.reports.failures import REASONS, STAGES

if TYPE_CHECKING:
    import sqlalchemy as sa
    from click.shell_completion import CompletionItem

    from scanfleet.config.settings import Settings

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
SOURCE = click.Path(readable=False)  # shells complete files; the listing checks whether it can be read


class ScanfleetGroup(click.Group):
    """Lists its commands in the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Answer an unknown command with the list of commands."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            ctx.fail(f"No such command {args[0]!r}; commands: {', '.join(self.commands)}.")
        return super().resolve_command(ctx, args)


@dataclass(frozen=True, kw_only=True)
class Flags:
    """The global options; None where one was not given."""

    data_dir: Path | None
    database_url: str | None
    broker_url: str | None
    log_level: str | None

    def settings(self, **more: Any) -> Settings:
        """Load settings (flag > environment > scanfleet.toml > default) and configure the log. Raises BadSettings."""
        from scanfleet.config.settings import load_settings
        from scanfleet.log import configure_logging

        settings = load_settings(**asdict(self), **more)
        configure_logging(level=settings.log_level, json=settings.log_json)
        return settings

    @contextmanager
    def ledger(self, *, only_reads: bool = False) -> Iterator[sa.Engine]:
        """Open the database after a check of its schema. Raises SchemaOutdated, DatabaseUnavailable.

        only_reads: a SQLite file that may not be written will do.
        """
        from scanfleet.db.schema import ledger

        with ledger(self.settings(), only_reads=only_reads) as engine:
            yield engine


def note(text: str) -> None:
    """Print one line for people on stderr."""
    click.echo(folded(f"scanfleet: {printable(text)}", hang=2, stream=sys.stderr), err=True)


def echo_line(text: str, *, hang: int = 2) -> None:
    """Print one line of prose on stdout, folded to the terminal."""
    click.echo(folded(text, hang=hang))


def columns(stream: TextIO) -> int | None:
    """Return the width of a terminal; None for other streams, which get whole lines."""
    return (os.get_terminal_size(stream.fileno()).columns or 80) if stream.isatty() else None


def folded(text: str, *, hang: int = 0, stream: TextIO | None = None) -> str:
    """Return a line, folded if the stream (default: stdout) is a terminal. hang: indent of further lines."""
    width = columns(stream or sys.stdout)
    if width is None or len(text) <= width:
        return text
    return textwrap.fill(
        text, width, subsequent_indent=" " * hang, break_long_words=False, break_on_hyphens=False, tabsize=1
    )


@contextmanager
def if_stopped(text: str) -> Iterator[None]:
    """On Ctrl-C or SIGTERM, print what is kept and how to continue."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        note(text)
        raise


def complete_check(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the names of built-in checks, else files. Added checks would need the database, which is not opened."""
    from click.shell_completion import CompletionItem

    from scanfleet.checks.check import builtin_names

    names = [CompletionItem(name) for name in builtin_names() if name.startswith(incomplete)]
    return names or [CompletionItem(incomplete, type="file")]


notify_option = click.option(
    "--notify", metavar="URL", help="Tell this address when the scan has ended (docs/webhooks.md)."
)


def filter_options(command: FunctionT) -> FunctionT:
    """Add the options that choose images, for scan and run."""
    for option in reversed(
        (
            click.option(
                "--check",
                "check_names",
                multiple=True,
                metavar="NAME",
                help="A check's name or .toml file. Several make one scan each.",
                shell_complete=complete_check,
            ),
            click.option(
                "--pack",
                type=click.Path(path_type=Path),
                metavar="FILE",
                help="A TOML file with a list of them, `checks`.",
            ),
            click.option(
                "--model",
                metavar="MODEL",
                help="Built-in name, hub id, folder or endpoint:NAME. Default: the setting.",
            ),
            click.option(
                "--include", multiple=True, metavar="GLOB", help="Take only these files, whatever their suffix."
            ),
            click.option("--exclude", multiple=True, metavar="GLOB", help="Skip these files or folders."),
            click.option("--members", is_flag=True, help="Take the images in the .tar and .zip files of SRC, too."),
            click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Take at most N images."),
            click.option("--sample", metavar="N|0.05", help="Take a random sample: a number of images or a fraction."),
            click.option("--seed", type=int, default=0, show_default=True, help="Seed of the sample."),
            click.option("--fresh", is_flag=True, help="Start a new scan even if the same one exists."),
            notify_option,
        )
    ):
        command = option(command)
    return command


def require_checks(chosen: Mapping[str, Any]) -> None:
    """Raise UsageError if neither a check nor a pack was chosen."""
    if not chosen["check_names"] and chosen["pack"] is None:
        raise click.UsageError("Missing option '--check' (or '--pack').")


def failure_options(command: FunctionT) -> FunctionT:
    """Add the options that choose failures, for errors and retry."""
    for name, words in (("reason", REASONS), ("stage", STAGES)):
        help_text = f"Only failures with this {name}: {', '.join(words)}."
        command = click.option(f"--{name}", metavar=name.upper(), help=help_text)(command)
    return command


AGO = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def read_time(_: click.Context, param: click.Parameter, value: str | None) -> datetime | None:
    """Read a time: ISO 8601, local without a zone, or how long ago: 30m, 24h, 7d, 2w. For `callback`."""
    from scanfleet.errors import RequestError

    if value is None:
        return None
    try:
        if ago := re.fullmatch(r"(\d{1,5})([mhdw])", value):
            return datetime.now(UTC) - timedelta(**{AGO[ago[2]]: int(ago[1])})
        return datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, OverflowError):
        words = "write 2026-05-01, 2026-05-01T13:30, 2026-05-01T13:30:00Z, or how long ago: 24h, 7d"
        raise RequestError(f"{param.opts[0]} {value}: is no time: {words}") from None


def spreadsheet_option(command: FunctionT) -> FunctionT:
    """--spreadsheet, which `require_csv` refuses for other formats."""
    words = "CSV for a spreadsheet: no cell runs as a formula (a ' before = + - @), UTF-8 with a byte order mark."
    return click.option("--spreadsheet", is_flag=True, help=words)(command)


def require_csv(form: str, *, spreadsheet: bool) -> None:
    if spreadsheet and form != "csv":
        raise click.UsageError("--spreadsheet needs --format csv")


def printable(text: str) -> str:
    """Escape control characters: file names and labels are untrusted."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
