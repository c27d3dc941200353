"""Maps the labels of a file to those of a check."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from producer.labels.formats.entries import Entry, Problems, RawBox
from producer.labels.image_refs import Root, image_at
from producer.sources.manifest import MalformedLineError
from scanfleet.checks.check import Check
from scanfleet.db.scans.batches import NewImage
from scanfleet.errors import BadLabels

SHOWN_LABELS = 12


@dataclass(frozen=True, kw_only=True)
class ImageLabel:
    """A person's label of an image, as a label of the check. The image was not read yet."""

    where: str
    image: NewImage
    label: str
    boxes: tuple[RawBox, ...] | None
    who: str
    group: str | None
    note: str | None
    drawn: str | None
    mixed: bool  # its boxes have several labels, one of which is the image's


@dataclass(frozen=True, kw_only=True)
class LabelMapping:
    """How to map a file's labels. mapping: theirs -> ours. empty: the label if nothing was found."""

    check: Check
    mapping: Mapping[str, str]
    empty: str | None

    def __post_init__(self) -> None:
        for label in (*self.mapping.values(), *([] if self.empty is None else [self.empty])):
            if label not in self.check.labels:
                raise BadLabels(f"{label!r} is not a label of check {self.check.name} ({_few(self.check.labels)})")

    def of(self, label: str) -> str:
        return self.mapping.get(label, label)


def parse_map(pairs: Iterable[str]) -> dict[str, str]:
    """Parse `THEIRS=OURS` pairs. Raises BadLabels."""
    found: dict[str, str] = {}
    for pair in pairs:
        theirs, equals, ours = pair.rpartition("=")
        if not equals or not theirs or not ours:
            raise BadLabels(f"--map {pair}: write THEIRS=OURS")
        if found.setdefault(theirs, ours) != ours:
            raise BadLabels(f"--map: {theirs} is mapped to both {found[theirs]} and {ours}")
    return found


def map_labels(
    entries: Sequence[Entry], mapping: LabelMapping, *, who: str, root: Root, problems: Problems
) -> list[ImageLabel]:
    """Return every entry with labels of the check. Raises BadLabels with all problems."""
    check_labels = mapping.check.labels
    unknown: dict[str, list[str]] = {}
    found: list[ImageLabel] = []
    for entry in entries:
        if strange := [label for label in _labels(entry) if mapping.of(label) not in check_labels]:
            for label in strange:
                unknown.setdefault(label, []).append(entry.where)
            continue
        try:
            found.append(_image_label(entry, mapping, who=who, root=root))
        except MalformedLineError as error:
            problems.add(entry.where, str(error))
    for label, places in unknown.items():
        n = f"in {len(places)} entries, first " if len(places) > 1 else ""
        problems.add(
            f"{n}{places[0]}",
            f"{label!r} is not a label of check {mapping.check.name} ({_few(check_labels)}): --map '{label}=OURS'",
        )
    _contradictions(found, problems)
    problems.raise_any()
    return found


def _labels(entry: Entry) -> set[str]:
    return {box.label for box in entry.boxes or ()} | (set() if entry.label is None else {entry.label})


def _image_label(entry: Entry, mapping: LabelMapping, *, who: str, root: Root) -> ImageLabel:
    boxes = None if entry.boxes is None else tuple(_mapped(box, mapping) for box in entry.boxes)
    kinds = {box.label for box in boxes or ()}
    return ImageLabel(
        where=entry.where,
        image=image_at(entry.uri, root),
        label=mapping.of(entry.label) if entry.label is not None else _label_of(kinds, mapping),
        boxes=boxes,
        who=entry.who or who,
        group=entry.group,
        note=entry.note,
        drawn=entry.drawn,
        mixed=entry.label is None and len(kinds) > 1,
    )


def _mapped(box: RawBox, mapping: LabelMapping) -> RawBox:
    return RawBox(x0=box.x0, y0=box.y0, x1=box.x1, y1=box.y1, label=mapping.of(box.label), unit=box.unit)


def _label_of(kinds: set[str], mapping: LabelMapping) -> str:
    """Return the image's label from those of its boxes: a flagging one first, then in the check's order."""
    check = mapping.check
    if kinds:
        return min(kinds, key=lambda label: (label not in check.flags, check.labels.index(label)))
    if mapping.empty is not None:
        return mapping.empty
    harmless = [label for label in check.labels if label not in check.flags]
    if len(harmless) != 1:
        raise MalformedLineError(
            f"nothing was found in the image, and check {check.name} has several labels that could mean it "
            f"({_few(harmless)}): choose one with --empty LABEL"
        )
    return harmless[0]


def _contradictions(given: Sequence[ImageLabel], problems: Problems) -> None:
    first: dict[tuple[str, str], ImageLabel] = {}
    for one in given:
        before = first.setdefault((one.image.uri, one.who), one)
        if before.label != one.label:
            problems.add(one.where, f"{one.who} labels an image {one.label} here and {before.label} at {before.where}")


def _few(labels: Sequence[str]) -> str:
    return ", ".join(labels[:SHOWN_LABELS]) + (", ..." if len(labels) > SHOWN_LABELS else "")
