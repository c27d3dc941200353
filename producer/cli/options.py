"""What every command shares: the global options, the way to the ledger, the words of the help."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from producer.reports.failures import REASONS, STAGES

if TYPE_CHECKING:
    import sqlalchemy as sa
    from click.shell_completion import CompletionItem

    from scanfleet.config.settings import Settings

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
SOURCE = click.Path(readable=False)  # shells complete files; whether it can be read is the listing's to say


class ScanfleetGroup(click.Group):
    """Lists its commands in the order they were added, which is the order people meet them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """A word that is no command is answered with those there are."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            ctx.fail(f"No such command {args[0]!r}; commands: {', '.join(self.commands)}.")
        return super().resolve_command(ctx, args)


@dataclass(frozen=True, kw_only=True)
class Flags:
    """The global options as given; None: not given."""

    data_dir: Path | None
    database_url: str | None
    broker_url: str | None
    log_level: str | None

    def settings(self, **more: Any) -> Settings:
        """Flag > environment > scanfleet.toml > default. Sets up the log on the way. Raises BadSettings."""
        from scanfleet.config.settings import load_settings
        from scanfleet.log import configure_logging

        settings = load_settings(**asdict(self), **more)
        configure_logging(level=settings.log_level, json=settings.log_json)
        return settings

    @contextmanager
    def ledger(self) -> Iterator[sa.Engine]:
        """The database, its schema checked. Raises SchemaOutdated, DatabaseUnavailable."""
        from scanfleet.db.schema import ledger

        with ledger(self.settings()) as engine:
            yield engine


def note(text: str) -> None:
    """One line for the person, on stderr."""
    click.echo(folded(f"scanfleet: {printable(text)}", hang=2, stream=sys.stderr), err=True)


def say(text: str, *, hang: int = 2) -> None:
    """A line of prose on stdout."""
    click.echo(folded(text, hang=hang))


def columns(stream: TextIO) -> int | None:
    """How wide a terminal is; None: it is none, and nothing is to be folded or shortened."""
    return (os.get_terminal_size(stream.fileno()).columns or 80) if stream.isatty() else None


def folded(text: str, *, hang: int = 0, stream: TextIO | None = None) -> str:
    """A line as it is, or on a terminal (default: stdout) broken between words; further lines `hang` letters in."""
    width = columns(stream or sys.stdout)
    if width is None or len(text) <= width:
        return text
    return textwrap.fill(
        text, width, subsequent_indent=" " * hang, break_long_words=False, break_on_hyphens=False, tabsize=1
    )


@contextmanager
def if_stopped(words: str) -> Iterator[None]:
    """Ctrl-C or SIGTERM: say what is not lost by it."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        note(words)
        raise


def complete_check(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The built-in checks whose names begin so, else files. No database is opened for those that were added."""
    from click.shell_completion import CompletionItem

    from scanfleet.checks.check import builtin_names

    names = [CompletionItem(name) for name in builtin_names() if name.startswith(incomplete)]
    return names or [CompletionItem(incomplete, type="file")]


def filter_options(command: FunctionT) -> FunctionT:
    """The options that choose images: the same for scan and run."""
    for option in reversed(
        (
            click.option(
                "--check",
                "check_name",
                required=True,
                metavar="NAME",
                help="A check's name or .toml file.",
                shell_complete=complete_check,
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
            click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Take at most N images."),
            click.option("--sample", metavar="N|0.05", help="Take a random sample: a number of images or a fraction."),
            click.option("--seed", type=int, default=0, show_default=True, help="Seed of the sample."),
            click.option("--fresh", is_flag=True, help="Start a new scan even if the same one exists."),
        )
    ):
        command = option(command)
    return command


def failure_options(command: FunctionT) -> FunctionT:
    """The options that choose failures: the same for errors and retry."""
    for name, words in (("reason", REASONS), ("stage", STAGES)):
        help_text = f"Only failures with this {name}: {', '.join(words)}."
        command = click.option(f"--{name}", metavar=name.upper(), help=help_text)(command)
    return command


def printable(text: str) -> str:
    """Text that does nothing to a terminal: file names and labels come from strangers."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
