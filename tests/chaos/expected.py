"""The rows that the ledger must hold at the end, although objects of the bucket changed while they were scanned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tests.chaos.archive import Answer, Item, Reference, ScanSpec

Key = tuple[str, str, str, str]  # check, model, uri, etag
ChangeKind = Literal["deleted", "overwritten", "denied"]
FAILURES: dict[ChangeKind, Answer] = {
    "deleted": Answer(stage="fetch", reason="gone"),
    "overwritten": Answer(stage="fetch", reason="changed"),
    "denied": Answer(stage="fetch", reason="denied"),
}


@dataclass(frozen=True, kw_only=True)
class Change:
    """What happened to an object, once. began, ended: time.monotonic() around it. item: the new version, if any."""

    kind: ChangeKind
    began: float
    ended: float
    item: Item | None = None


@dataclass(frozen=True, kw_only=True)
class Listed:
    """The last complete listing of a scan, after which nothing was lost. began, ended: time.monotonic()."""

    scan: ScanSpec
    began: float
    ended: float


@dataclass(frozen=True, kw_only=True)
class Expected:
    """One version of an object in one scan.

    answers: the right ones; several where it depends on whether the object was read before it changed.
    required: whether the ledger must know it; not if it may have changed before it was listed.
    change: what happened to this version.
    """

    answers: tuple[Answer, ...]
    required: bool = True
    change: ChangeKind | None = None


def expected_rows(
    listed: Sequence[Listed], items: Iterable[Item], changes: Mapping[str, Change], *, max_pixels: int
) -> dict[Key, Expected]:
    """Return what each scan must hold. changes: by key of the object."""
    items = list(items)
    return {
        (listing.scan.check.name, listing.scan.model, item.uri, item.etag): row
        for listing in listed
        for item, row in _of_scan(listing, items, changes, Reference(listing.scan, max_pixels=max_pixels))
    }


def _of_scan(
    listing: Listed, items: Sequence[Item], changes: Mapping[str, Change], reference: Reference
) -> Iterator[tuple[Item, Expected]]:
    for item in items:
        if not item.key.startswith(listing.scan.prefixes):
            continue
        change = changes.get(item.key)
        if change is None:
            yield item, Expected(answers=(reference.answer(item),))
            continue
        answers = (reference.answer(item), FAILURES[change.kind])
        required = change.kind == "denied" or change.began > listing.ended
        yield item, Expected(answers=answers, required=required, change=change.kind)
        if change.item is not None and change.began <= listing.ended:
            required = change.ended < listing.began
            yield change.item, Expected(answers=(reference.answer(change.item),), required=required)
