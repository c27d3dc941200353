"""`scanfleet score`: score a few images, or a stream of them, without queue, ledger and broker."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scanfleet.producer.cli.options import SOURCE, Flags, complete_check, note
from scanfleet.producer.cli.tables import StreamedTable, count

if TYPE_CHECKING:
    from scanfleet.producer.sources.named import NamedImages

HEADER = ("file", "decision", "label", "score", "margin", "mass")


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMG...", type=SOURCE)
@click.option(
    "--check",
    "check_name",
    default="overlay",
    show_default=True,
    metavar="NAME",
    help="A check's name or .toml file.",
    shell_complete=complete_check,
)
@click.option("--model", metavar="MODEL", help="Built-in name, hub id, folder or endpoint:NAME. Default: the setting.")
@click.option("--adapter", type=click.Path(path_type=Path), metavar="FOLDER", help="Use the adapter in this folder.")
@click.option("--json", "--jsonl", "as_json", is_flag=True, help="Same as --format jsonl.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "jsonl"]),
    default="table",
    help="jsonl: one object per line; json: one list.",
)
@click.pass_obj
def score(
    flags: Flags,
    /,
    images: tuple[str, ...],
    *,
    check_name: str,
    model: str | None,
    adapter: Path | None,
    as_json: bool,
    form: str,
) -> None:
    """Score a few images now, without a queue.

    IMG is what `scan` takes as SRC, or `-` for a list on stdin. Images are scored and decided as in a scan, but nothing
    is kept. Without --adapter, the built-in model uses the adapter that ships with it, and any other model answers
    without one; adapters in a ledger are not used. If an image cannot be scored, the error goes to stderr, the others
    are scored, and the exit code is 20.

    \b
    Example:
      scanfleet score photo.jpg scans/ --check overlay
      find . -name '*.jpg' | scanfleet score - --check overlay --json | jq .margin
    """
    from scanfleet.errors import ScanfleetError
    from scanfleet.producer.local.scoring import find_check, score_named
    from scanfleet.producer.sources.named import NamedImages

    settings = flags.settings(model=model)
    check = find_check(settings, check_name)
    named = NamedImages(images, settings)
    output = _Output(named, form="jsonl" if as_json and form == "table" else form)
    try:
        for message in score_named(named, settings, check=check, adapter=adapter):
            output.take(message)
    except ScanfleetError as error:
        output.report_errors(but=error)
        raise
    output.end()


class _Output:
    """Prints answers on stdout, everything else on stderr."""

    def __init__(self, named: NamedImages, *, form: str) -> None:
        self._named = named
        self._form = form
        self._table = StreamedTable(HEADER, numbers=("score", "margin", "mass"))
        self._n_reported = 0  # errors of sources
        self._n_scored = 0
        self._n_failed = 0

    def take(self, message: dict[str, Any]) -> None:
        """Take one message of the child."""
        self.report_errors()
        kind = message.pop("kind")
        if kind == "ready" and self._form == "table":
            _report_scorer(message)
        elif kind == "result":
            self._result(message)

    def end(self) -> None:
        """Print the rest. Raises Retryable if a source was unavailable, ScanIncomplete if anything failed."""
        from scanfleet.errors import Retryable, ScanIncomplete

        if self._form == "json":
            click.echo("\n]" if self._n_scored + self._n_failed else "[]")
        self._table.end()
        self.report_errors()
        if any(isinstance(error, Retryable) for error in self._named.errors):
            raise Retryable("not every image could be listed: try again")
        if self._n_failed:
            n = self._n_scored + self._n_failed
            raise ScanIncomplete(f"{self._n_failed} of {count(n, 'image')} could not be scored")
        if self._named.errors:
            raise ScanIncomplete(f"{count(len(self._named.errors), 'source')} could not be read")

    def report_errors(self, *, but: Exception | None = None) -> None:
        """Note the new errors of sources. but: the one that ends the command."""
        for error in self._named.errors[self._n_reported :]:
            self._n_reported += 1
            if error is not but:
                note(" ".join(str(error).split()))

    def _result(self, record: dict[str, Any]) -> None:
        failure = record["failure"]
        self._n_failed += failure is not None
        self._n_scored += failure is None
        if failure is not None:
            note(f"{_shown(record['uri'])}: {failure['stage']}: {failure['reason']}: {failure['detail']}")
        if self._form == "json":
            begin = "[\n" if self._n_scored + self._n_failed == 1 else ",\n"
            click.echo(begin + json.dumps(record, ensure_ascii=False), nl=False)
        elif self._form == "jsonl":
            click.echo(json.dumps(record, ensure_ascii=False))
        elif failure is None:
            self._table.add((_shown(record["uri"]), *(record[name] for name in HEADER[1:])))


def _report_scorer(ready: dict[str, Any]) -> None:
    from scanfleet.producer.reports.caveats import caveats

    scorer = ready["scorer"]
    adapter = f"adapter {scorer['adapter'][:12]}" if scorer["adapter"] else "no adapter"
    score = "" if ready["calibrated"] else ": margins are not calibrated, there is no score"
    note(f"{scorer['base_model']} ({scorer['precision']}), {adapter}{score}")
    for words in caveats(base_model=scorer["base_model"], adapter=scorer["adapter"], calibrated=True):  # else: said
        note(words)


def _shown(uri: str) -> str:
    """Return the path relative to the working folder if the file lies below it."""
    return uri.removeprefix(os.path.join(os.getcwd(), ""))
