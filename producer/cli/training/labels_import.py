"""`scanfleet labels import`: check a whole file and read its images before anything is written."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scanfleet.config.user import user_name
from scanfleet.producer.cli.options import Flags, note
from scanfleet.producer.cli.tables import count
from scanfleet.producer.cli.training.labels_summary import echo_summary

if TYPE_CHECKING:
    from collections.abc import Callable


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE|FOLDER")
@click.option("--check", "check_name", required=True, metavar="NAME", help="A check's name or .toml file.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["auto", "csv", "jsonl", "coco", "yolo", "voc", "cvat", "labelstudio", "groundtruth"]),
    default="auto",
    show_default=True,
)
@click.option(
    "--map",
    "pairs",
    multiple=True,
    metavar="THEIRS=OURS|FILE",
    help="Rename a label of the file to the check's; or a TOML, JSON or CSV file of such pairs.",
)
@click.option("--empty", metavar="LABEL", help="Label for images in which nothing was found.")
@click.option("--who", metavar="NAME", help="Who labelled, unless the file tells. Default: your user name.")
@click.option("--root", metavar="DIR|s3://...", help="Base of relative names. Default: the folder of FILE.")
@click.option("--uri-column", default="uri", show_default=True, metavar="COL", help="Column with the image's name.")
@click.option(
    "--label-column", metavar="COL", help="Column with the label, or label attribute of Ground Truth. Default: label."
)
@click.option("--group-column", metavar="COL", help="Column that tells which images belong together. Default: group.")
@click.option(
    "--attribute-column",
    "attributes",
    multiple=True,
    metavar="COL",
    help="Column to keep as an attribute of the image.",
)
@click.option("--label-control", metavar="NAME", help="Label Studio: the control whose choice is the label.")
@click.option("--strict", is_flag=True, help="Refuse the file if any image or box would be left out.")
@click.option(
    "--split", type=click.Choice(["train", "calibration", "threshold", "golden"]), help="Where new images go."
)
@click.option("--where-possible", is_flag=True, help="With --split: accept images that lie in another split.")
@click.option("--dry-run", is_flag=True, help="Check, read and summarise; write nothing.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.pass_obj
def import_labels(flags: Flags, /, file: Path, *, check_name: str, dry_run: bool, yes: bool, **more: Any) -> None:
    """Import labels that other tools wrote.

    FILE is CSV, TSV, JSONL, COCO, CVAT, Label Studio (JSON, JSON-MIN) or Ground Truth (Rekognition); FOLDER holds YOLO
    or Pascal VOC. Files may be packed by gzip.

    The whole file is checked, all images are read, and tables of what would be added, changed and left out are printed
    before anything is written. Then a terminal asks, and either everything is written or nothing. Importing the same
    file again adds nothing. Images and boxes that cannot be used are left out and listed; with --strict they refuse
    the file.

    --split golden makes these images the golden set of the check: from then on, no other image enters it. Images that
    lie in another split stay there; an import with such images is refused without --where-possible.

    \b
    Example:
      scanfleet labels import truth.csv --check overlay --label-column truth
      scanfleet labels import coco.json --check baggage --map Pistol=gun
    """
    from scanfleet.checks.multi import set_name
    from scanfleet.producer.labels.file_import import prepare_file
    from scanfleet.producer.labels.importing import require_split, summarise, write
    from scanfleet.producer.labels.sets import joint
    from scanfleet.retry import retry_database

    if more["where_possible"] and more["split"] is None:
        raise click.UsageError("--where-possible needs --split")
    settings = flags.settings()
    with flags.ledger() as engine:
        more["who"] = more["who"] or user()
        prepared = prepare_file(engine, settings, file, check_name, progress=_progress, **more)
        summary = joint([retry_database(partial(summarise, engine, each)) for each in prepared])
        echo_summary(summary, more["split"])
        require_split(prepared[0], summary.n_refused)
        n_unread, n_named = len(prepared[0].unread), prepared[0].n_named
        most = n_unread > n_named
        if most:
            note(f"warning: {n_unread} of {n_unread + n_named} images could not be read: is --root right?")
        if dry_run:
            note("nothing was written (--dry-run)")
            return
        if summary.n_labels == 0:
            note("nothing was written: the file holds no new label")
            return
        if not confirm(f"add {count(summary.n_labels, 'label')}?", yes=yes, needed=most):
            return
        n = len(retry_database(lambda: write(engine, prepared)))
    checks = [each.check for each in prepared]
    note(f"{count(n, 'label')} added to check {set_name(checks) or checks[0].name}")


@contextmanager
def _progress(n_images: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=n_images, label="reading images", file=sys.stderr) as bar:
        yield bar.update


def confirm(question: str, *, yes: bool, needed: bool = False) -> bool:
    """Ask on a terminal. Elsewhere continue; if an answer is needed, refuse without --yes."""
    if yes:
        return True
    if not sys.stdin.isatty():
        if needed:
            raise click.UsageError(f"{question} There is no terminal to answer on: add --yes")
        return True
    if click.confirm(f"scanfleet: {question}", err=True):
        return True
    note("nothing was written")
    return False


def user() -> str:
    """Return the name of the user. Raises BadLabels if the machine has none."""
    from scanfleet.errors import BadLabels

    name = user_name()
    if name is None:
        raise BadLabels("this machine has no user name for you: give one with --who")
    return name
