"""Reads a file of labels and its images, up to the point where it may be written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa

from scanfleet.config.settings import Settings
from scanfleet.errors import BadLabels
from scanfleet.producer.labels.fetching import fetch_images
from scanfleet.producer.labels.formats.detect import read_labels
from scanfleet.producer.labels.formats.entries import Options, Problems
from scanfleet.producer.labels.image_refs import root_of
from scanfleet.producer.labels.label_names import LabelMapping, map_labels, parse_map, spares_of
from scanfleet.producer.labels.preparing import PreparedLabels, prepare
from scanfleet.producer.labels.sets import entries_for, require_classes
from scanfleet.producer.labels.shown_frames import frame_finder
from scanfleet.producer.scans.session import find_several

Progress = Callable[[int], AbstractContextManager[Callable[[int], None]]]


def _silent(_: int) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda _: None)


def prepare_file(
    engine: sa.Engine,
    settings: Settings,
    file: Path,
    check_name: str,
    *,
    who: str,
    form: str = "auto",
    pairs: Sequence[str] = (),
    empty: str | None = None,
    root: str | None = None,
    uri_column: str = "uri",
    label_column: str | None = None,
    group_column: str | None = None,
    attributes: Sequence[str] = (),
    label_control: str | None = None,
    strict: bool = False,
    split: str | None = None,
    where_possible: bool = False,
    origin: str = "import",
    progress: Progress = _silent,
) -> list[PreparedLabels]:
    """Read the file and its images, up to the summary. The options are those of `scanfleet labels import`.

    Of a check of kind multi, the labels of each of its checks. progress: given the number of images, shows how many are
    read. Raises BadLabels, UnknownName, Retryable.
    """
    checks, mapping = find_several(engine, check_name), parse_map(pairs)
    if len(checks) > 1 and empty is not None:
        raise BadLabels(
            "--empty is not for a check of kind multi: where nothing was found there is none of its classes"
        )
    base = root_of(root, labels=file)
    options = Options(
        uri=uri_column,
        label=label_column or "label",
        label_named=label_column is not None,
        group=group_column,
        control=label_control,
        attributes=tuple(attributes),
        endpoint=settings.s3_endpoint_url,
        images=base.path,
    )
    problems = Problems(str(file), strict=strict)
    entries = read_labels(file, form=form, options=options, problems=problems)
    n_blank = sum(entry.blank for entry in entries)
    filled = [entry for entry in entries if not entry.blank]
    if len(checks) > 1:
        require_classes(filled, checks, mapping, problems)
    told = []  # of each check: its labels, and the problems of the file with them
    for check in checks:
        own = problems.copy()
        about = entries_for(check, filled, mapping) if len(checks) > 1 else filled
        names = LabelMapping(check=check, mapping={} if len(checks) > 1 else mapping, empty=empty)
        told.append((check, map_labels(about, names, who=who, root=base, problems=own), own))
    del entries, filled, about  # a large file has millions of boxes
    images = {one.image.uri: one.image for _, given, _ in told for one in given}
    with progress(len(images)) as done:
        frame_of = frame_finder(engine, checks[0].name)
        spares = spares_of(one for _, given, _ in told for one in given)
        fetched = fetch_images(list(images.values()), settings, frame_of=frame_of, done=done, spares=spares)
    if not fetched.seen:
        uri, error = next(iter(fetched.unread.items()))
        n = len(fetched.unread)
        raise BadLabels(f"{file}: none of the {n} {'image' if n == 1 else 'images'} could be read: {uri}: {error}")
    made = [prepare(given, fetched, check, own, origin=origin, split=split) for check, given, own in told]
    return [replace(one, n_blank=n_blank, where_possible=where_possible) for one in made]
