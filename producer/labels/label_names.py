"""Maps the labels of a file to those of a check."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path

from scanfleet.checks.check import Check
from scanfleet.db.scans.new_images import NewImage
from scanfleet.errors import BadLabels
from scanfleet.producer.labels.formats.entries import Attributes, Entry, Problems, RawBox, Reason, Size
from scanfleet.producer.labels.image_refs import Root, image_at
from scanfleet.producer.labels.map_file import SUFFIXES, read_map
from scanfleet.producer.sources.manifest import MalformedLineError

SHOWN_LABELS = 12
SEVERAL = 3  # unknown labels that are listed one by one
MOST_LABELS = 100  # unknown labels in one message


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageLabel:
    """A person's label of an image, as a label of the check. The image was not read yet.

    given: the label was given for the whole image; else it follows from the boxes and `regions`, the labels of regions
    without a box. size: of the image when it was labelled. spare: the image if there is none of that name.
    """

    where: str
    image: NewImage
    label: str
    boxes: tuple[RawBox, ...] | None
    who: str
    group: str | None
    note: str | None
    drawn: str | None
    mixed: bool  # its boxes have several labels, one of which is the image's
    given: bool = True
    regions: frozenset[str] = frozenset()
    size: Size | None = None
    spare: NewImage | None = None
    attributes: Attributes | None = None


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
    """Parse `THEIRS=OURS` pairs, and files of them. Raises BadLabels, SourceNotFound, AccessDenied."""
    found: dict[str, str] = {}
    for pair in pairs:
        path = Path(pair)
        for theirs, ours in read_map(path) if path.suffix.lower() in SUFFIXES and _is_file(pair) else [_pair(pair)]:
            if found.setdefault(theirs, ours) != ours:
                raise BadLabels(f"--map: {theirs} is mapped to both {found[theirs]} and {ours}")
    return found


def _is_file(pair: str) -> bool:
    return "=" not in pair or Path(pair).is_file()


def _pair(pair: str) -> tuple[str, str]:
    theirs, equals, ours = pair.rpartition("=")
    if not equals or not theirs or not ours:
        raise BadLabels(f"--map {pair}: write THEIRS=OURS, or name a file ({', '.join(SUFFIXES)})")
    return theirs, ours


def map_labels(
    entries: Sequence[Entry], mapping: LabelMapping, *, who: str, root: Root, problems: Problems
) -> list[ImageLabel]:
    """Return every entry with labels of the check. Raises BadLabels with all problems."""
    check_labels = mapping.check.labels
    unknown: dict[str, list[str]] = {}
    found: list[ImageLabel] = []
    doubted: set[tuple[str, str]] = set()
    for entry in entries:
        try:
            image_at(entry.uri, root)
        except MalformedLineError as error:
            problems.leave_out(entry.where, str(error))
            continue
        if strange := [label for label in _labels(entry) if mapping.of(label) not in check_labels]:
            for label in strange:
                unknown.setdefault(label, []).append(entry.where)
            continue
        try:
            one = _image_label(entry, mapping, who=who, root=root)
        except MalformedLineError as error:
            problems.add(entry.where, str(error))
            continue
        if reason := doubt_of(one, {mapping.of(label) for label in entry.dropped}, mapping.check):
            problems.leave_out(entry.where, f"{entry.uri}: {reason}", Reason.DOUBT)
            doubted.add((one.image.uri, one.who))
        found.append(one)
    add_unknown(unknown, mapping.check.name, mapping.check.labels, problems)
    found = _without_contradictions(found, doubted, problems)
    problems.raise_any()
    problems.require_some(found)
    return found


def add_unknown(
    unknown: Mapping[str, Sequence[str]], check_name: str, known: Sequence[str], problems: Problems
) -> None:
    """Add the labels that the check does not know, each with its number and first place."""
    if len(unknown) > SEVERAL:
        names = ", ".join(f"{label} ({len(places)})" for label, places in list(unknown.items())[:MOST_LABELS])
        problems.add(
            f"{len(unknown)} labels",
            f"not labels of check {check_name} ({_few(known)}), with their number of entries: {names}: map each "
            "with --map FILE or --map 'THEIRS=OURS'",
        )
        return
    for label, places in unknown.items():
        n = f"in {len(places)} entries, first " if len(places) > 1 else ""
        problems.add(
            f"{n}{places[0]}",
            f"{label!r} is not a label of check {check_name} ({_few(known)}): --map '{label}=OURS'",
        )


def _labels(entry: Entry) -> set[str]:
    boxes = {box.label for box in entry.boxes or ()}
    return boxes | {*entry.regions, *entry.dropped} | (set() if entry.label is None else {entry.label})


def _image_label(entry: Entry, mapping: LabelMapping, *, who: str, root: Root) -> ImageLabel:
    boxes = None if entry.boxes is None else tuple(_mapped(box, mapping) for box in entry.boxes)
    regions = frozenset(mapping.of(label) for label in entry.regions)
    kinds = {box.label for box in boxes or ()} | regions
    if entry.label is not None:
        label = mapping.of(entry.label)
    else:  # an image without any region that could be kept is left out below, whatever its label
        label = label_of(kinds or {mapping.of(label) for label in entry.dropped}, mapping)
    return ImageLabel(
        where=entry.where,
        image=image_at(entry.uri, root),
        spare=_spare(entry.uri, root),
        label=label,
        boxes=boxes,
        who=entry.who or who,
        group=entry.group,
        note=entry.note,
        drawn=entry.drawn,
        mixed=entry.label is None and len(kinds) > 1,
        given=entry.label is not None,
        regions=regions,
        size=entry.size,
        attributes=entry.attributes,
    )


def _spare(uri: str, root: Root) -> NewImage | None:
    """Return the image to take if there is none of this name: without spaces around it, by the folders of Windows."""
    name = uri.strip()
    if "\\" in name and "/" not in name:
        name = name.replace("\\", "/")
    try:
        return image_at(name, root) if name != uri else None
    except MalformedLineError:  # it leads out of the root
        return None


def doubt_of(one: ImageLabel, dropped: AbstractSet[str], check: Check) -> str | None:
    """Return why a label cannot be relied on, if it cannot. dropped: labels of boxes that were left out."""
    kinds = {box.label for box in one.boxes or ()} | one.regions
    flagging = sorted((kinds | dropped) & set(check.flags))
    if one.given:
        if one.label not in check.flags and flagging:
            return f"the image is labelled {one.label}, but a region in it {flagging[0]}"
        return None
    if dropped and not kinds:
        return "all its regions were left out"
    if dropped and most_telling(kinds | dropped, check) != most_telling(kinds, check):
        return f"its label would follow from a region that was left out ({', '.join(sorted(dropped))})"
    return None


def most_telling(kinds: AbstractSet[str], check: Check) -> str:
    """Return the label of an image with regions of these labels: a flagging one first, then in the check's order."""
    return min(kinds, key=lambda label: (label not in check.flags, check.labels.index(label)))


def _mapped(box: RawBox, mapping: LabelMapping) -> RawBox:
    label = mapping.of(box.label)
    return box if label == box.label else replace(box, label=label)


def label_of(kinds: AbstractSet[str], mapping: LabelMapping) -> str:
    """Return the image's label from those of its regions. Raises MalformedLineError."""
    check = mapping.check
    if kinds:
        return most_telling(kinds, check)
    if mapping.empty is not None:
        return mapping.empty
    harmless = [label for label in check.labels if label not in check.flags]
    if len(harmless) != 1:
        raise MalformedLineError(
            f"nothing was found in the image, and check {check.name} has several labels that could mean it "
            f"({_few(harmless)}): choose one with --empty LABEL"
        )
    return harmless[0]


def _without_contradictions(
    given: Sequence[ImageLabel], doubted: AbstractSet[tuple[str, str]], problems: Problems
) -> list[ImageLabel]:
    """Leave out the images that one person labels in two ways. doubted: name and person of others to leave out."""
    first: dict[tuple[str, str], ImageLabel] = {}
    refused = set(doubted)
    for one in given:
        key = one.image.uri, one.who
        before = first.setdefault(key, one)
        if before.label != one.label:
            problems.leave_out(
                one.where,
                f"{one.who} labels an image {one.label} here and {before.label} at {before.where}",
                Reason.CONTRADICTION,
            )
            refused.add(key)
    return [one for one in given if (one.image.uri, one.who) not in refused]


def spares_of(given: Iterable[ImageLabel]) -> dict[str, NewImage]:
    """Return by uri the images to take if there is none of that name."""
    return {one.image.uri: one.spare for one in given if one.spare is not None}


def _few(labels: Sequence[str]) -> str:
    return ", ".join(labels[:SHOWN_LABELS]) + (", ..." if len(labels) > SHOWN_LABELS else "")
