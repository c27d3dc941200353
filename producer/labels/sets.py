"""Labels of a check of kind multi: the set of an image's classes is one label for each of its checks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace

from scanfleet.checks.check import Check
from scanfleet.checks.multi import NONE, class_of, set_name, split_classes
from scanfleet.errors import BadLabels
from scanfleet.producer.labels.formats.entries import Entry, Problems
from scanfleet.producer.labels.importing import Summary
from scanfleet.producer.labels.label_names import add_unknown


def require_classes(
    entries: Iterable[Entry], checks: Sequence[Check], mapping: Mapping[str, str], problems: Problems
) -> None:
    """Raises BadLabels for labels that are no class of the multi check, and for a mapping to such."""
    name, known = set_name(checks) or checks[0].name, (*map(class_of, checks), NONE)
    for label in mapping.values():
        if label not in known:
            raise BadLabels(f"{label!r} is not a class of check {name} ({', '.join(known)})")
    unknown: dict[str, list[str]] = {}
    for entry in entries:
        for label in _labels(entry):
            if mapping.get(label, label) not in known:
                unknown.setdefault(label, []).append(entry.where)
    add_unknown(unknown, name, known, problems)
    problems.raise_any()


def entries_for(check: Check, entries: Iterable[Entry], mapping: Mapping[str, str]) -> list[Entry]:
    """Return what the entries say about one class: it is there or not, and where."""
    return [_about(class_of(check), entry, mapping) for entry in entries]


def _about(label: str, entry: Entry, mapping: Mapping[str, str]) -> Entry:
    def is_it(theirs: str) -> bool:
        return mapping.get(theirs, theirs) == label

    said = None
    if entry.label is not None:
        said = label if any(map(is_it, split_classes(entry.label))) else NONE
    boxes = None
    if entry.boxes is not None:
        boxes = tuple(replace(box, label=label) for box in entry.boxes if is_it(box.label))
        if said == label and not boxes:  # it is there, and nobody says where
            boxes = None
    regions, dropped = (tuple(label for each in some if is_it(each)) for some in (entry.regions, entry.dropped))
    return replace(entry, label=said, boxes=boxes, regions=regions, dropped=dropped)


def _labels(entry: Entry) -> set[str]:
    whole = set() if entry.label is None else set(split_classes(entry.label))
    return whole | {box.label for box in entry.boxes or ()} | {*entry.regions, *entry.dropped}


def joint(summaries: Sequence[Summary]) -> Summary:
    """Return one summary of the labels of several classes, with a row for each class that images show.

    Labels are added up. Each image counts once, for the class that concerns most of them.
    """
    if len(summaries) == 1:
        return summaries[0]
    counts = {
        field.name: max(getattr(one, field.name) for one in summaries)
        for field in fields(Summary)
        if field.name.startswith("n_")
    }
    for name in ("n_labels", "n_present", "n_repeated"):  # these count labels, the others images
        counts[name] = sum(getattr(one, name) for one in summaries)
    return replace(
        summaries[0],
        **counts,
        table={label: row for one in summaries for label, row in one.table.items() if label != NONE},
        boxes={label: n for one in summaries for label, n in one.boxes.items()},
        changes={label: row for one in summaries for label, row in one.changes.items() if label != NONE},
        left_out=list(dict.fromkeys(words for one in summaries for words in one.left_out)),
        reasons={name: max(one.reasons.get(name, 0) for one in summaries) for one in summaries for name in one.reasons},
    )
