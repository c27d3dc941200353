"""`scanfleet labels export`: the current labels, in the formats that other tools read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scanfleet.producer.cli.options import Flags, note, require_csv, spreadsheet_option
from scanfleet.producer.cli.tables import count

if TYPE_CHECKING:
    from scanfleet.checks.check import Check


@click.command("export")
@click.option("--check", "check_name", required=True, metavar="NAME", help="A check's name.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE|FOLDER",
    help="Default: stdout. YOLO, VOC: a folder.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "jsonl", "coco", "yolo", "voc", "labelstudio"]),
    default="csv",
    show_default=True,
)
@click.option(
    "--root",
    metavar="DIR|s3://...",
    help="Names start here. Default: whole names; YOLO, VOC: what holds all images; Label Studio: /.",
)
@click.option("--empty", metavar="LABEL", help="YOLO, VOC: label of images without boxes. Default: the harmless one.")
@spreadsheet_option
@click.pass_obj
def export_labels(
    flags: Flags,
    check_name: str,
    output: Path | None,
    form: str,
    root: str | None,
    empty: str | None,
    spreadsheet: bool,
) -> None:
    """Write the current labels, one per image. `labels import` reads them.

    Images in conflict are left out. YOLO and VOC have only boxes: an image whose label does not follow from its boxes
    is left out and counted; one without boxes is a file without any.

    \b
    Example:
      scanfleet labels export --check overlay -o overlay.csv
      scanfleet labels export --check baggage --format yolo -o yolo/
    """
    from scanfleet.db.engine import reading
    from scanfleet.db.labels.history import count_conflicts
    from scanfleet.db.labels.labels import CurrentLabel, iter_current_labels, newest_label
    from scanfleet.producer.labels.exporting import FOLDERS, write_folder, write_labels
    from scanfleet.producer.labels.image_refs import root_of
    from scanfleet.producer.labels.writing.places import common_root
    from scanfleet.producer.labels.writing.said import Sayable
    from scanfleet.producer.reports.output import target
    from scanfleet.producer.scans.session import find_check

    require_csv(form, spreadsheet=spreadsheet)
    if form in FOLDERS and output is None:
        raise click.UsageError(f"--format {form} writes a folder: name it with -o FOLDER")
    place = None if root is None else root_of(root, labels=Path())
    base = None if place is None else place.folder or place.prefix
    with flags.ledger() as engine:
        check: Check = find_check(engine, check_name)
        if empty is not None and empty not in check.labels:
            raise click.UsageError(
                f"--empty {empty}: a label of check {check.name} is one of {', '.join(check.labels)}"
            )
        with reading(engine, long=True) as connection:
            up_to = newest_label(connection, check.name)
            n_conflicts = count_conflicts(connection, check.name)

        def current() -> Iterator[CurrentLabel]:
            return iter_current_labels(engine, check.name, up_to=up_to)

        sayable = Sayable(check=check, empty=empty)
        if form in FOLDERS and output is not None:
            base = base or common_root(one.uri for one in current())
            n, left_out = write_folder(current, sayable, output, form=form, root=base)
        else:
            with target(output, form="json" if form in ("coco", "labelstudio") else form) as file:
                n, left_out = write_labels(current, sayable, file, form=form, root=base, spreadsheet=spreadsheet)
    note(count(n, "label") + (f" in {output}" if output else ""))
    for reason, n_images in left_out.items():
        note(f"left out: {count(n_images, 'image')}: {reason}")
    if n_conflicts:
        note(f"left out: {count(n_conflicts, 'image')} in conflict (`scanfleet labels conflicts --check {check.name}`)")
    if base is not None or form == "labelstudio":
        note(f"names of images start at {base or '/'}: `labels import --root {base or '/'}` reads them")
