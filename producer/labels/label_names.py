"""From a file's words to a check's labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from producer.labels.formats.entries import Entry, Faults, RawBox
from producer.labels.image_refs import Root, image_at
from producer.sources.manifest import MalformedLineError
from scanfleet.checks.check import Check
from scanfleet.db.scans.batches import NewImage
from scanfleet.errors import BadLabels

SHOWN_LABELS = 12


@dataclass(frozen=True, kw_only=True)
class Said:
    """What somebody says of an image, in the check's words; the image was not looked at yet."""

    where: str
    image: NewImage
    label: str
    boxes: tuple[RawBox, ...] | None
    who: str
    group: str | None
    note: str | None
    drawn: str | None
    mixed: bool  # its boxes have several labels, of which one was taken for the image


@dataclass(frozen=True, kw_only=True)
class Words:
    """How to understand a file. mapping: its labels -> ours. empty: the label where nothing was found."""

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
    """`THEIRS=OURS` ... Raises BadLabels."""
    found: dict[str, str] = {}
    for pair in pairs:
        theirs, equals, ours = pair.rpartition("=")
        if not equals or not theirs or not ours:
            raise BadLabels(f"--map {pair}: write THEIRS=OURS")
        if found.setdefault(theirs, ours) != ours:
            raise BadLabels(f"--map: {theirs} is mapped to both {found[theirs]} and {ours}")
    return found


def understand(entries: Sequence[Entry], words: Words, *, who: str, root: Root, faults: Faults) -> list[Said]:
    """Every entry in the check's words. Raises BadLabels with all that is wrong."""
    unknown: dict[str, list[str]] = {}
    found: list[Said] = []
    for entry in entries:
        if strange := [label for label in _labels(entry) if words.of(label) not in words.check.labels]:
            for label in strange:
                unknown.setdefault(label, []).append(entry.where)
            continue
        try:
            found.append(_said(entry, words, who=who, root=root))
        except MalformedLineError as error:
            faults.add(entry.where, str(error))
    for label, places in unknown.items():
        n = f"in {len(places)} entries, first " if len(places) > 1 else ""
        faults.add(
            f"{n}{places[0]}",
            f"{label!r} is not a label of check {words.check.name} ({_few(words.check.labels)}): --map '{label}=OURS'",
        )
    _contradictions(found, faults)
    faults.raise_any()
    return found


def _labels(entry: Entry) -> set[str]:
    return {box.label for box in entry.boxes or ()} | (set() if entry.label is None else {entry.label})


def _said(entry: Entry, words: Words, *, who: str, root: Root) -> Said:
    boxes = None if entry.boxes is None else tuple(_in_our_words(box, words) for box in entry.boxes)
    kinds = {box.label for box in boxes or ()}
    return Said(
        where=entry.where,
        image=image_at(entry.uri, root),
        label=words.of(entry.label) if entry.label is not None else _label_of(kinds, words),
        boxes=boxes,
        who=entry.who or who,
        group=entry.group,
        note=entry.note,
        drawn=entry.drawn,
        mixed=entry.label is None and len(kinds) > 1,
    )


def _in_our_words(box: RawBox, words: Words) -> RawBox:
    return RawBox(x0=box.x0, y0=box.y0, x1=box.x1, y1=box.y1, label=words.of(box.label), unit=box.unit)


def _label_of(kinds: set[str], words: Words) -> str:
    """The image's label by what was found in it: one that flags before others, then in the check's order."""
    check = words.check
    if kinds:
        return min(kinds, key=lambda label: (label not in check.flags, check.labels.index(label)))
    if words.empty is not None:
        return words.empty
    harmless = [label for label in check.labels if label not in check.flags]
    if len(harmless) != 1:
        raise MalformedLineError(
            f"nothing was found in the image, and check {check.name} has several labels that could mean it "
            f"({_few(harmless)}): choose one with --empty LABEL"
        )
    return harmless[0]


def _contradictions(said: Sequence[Said], faults: Faults) -> None:
    first: dict[tuple[str, str], Said] = {}
    for one in said:
        before = first.setdefault((one.image.uri, one.who), one)
        if before.label != one.label:
            faults.add(one.where, f"{one.who} labels an image {one.label} here and {before.label} at {before.where}")


def _few(labels: Sequence[str]) -> str:
    return ", ".join(labels[:SHOWN_LABELS]) + (", ..." if len(labels) > SHOWN_LABELS else "")
