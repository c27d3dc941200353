"""Two parts of the labelled images: settings are chosen on one and measured on the other. Groups stay together."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from scanfleet.errors import BadLabels
from scanfleet.models.training.data.types import Example
from scanfleet.models.types import Question

SEARCH_SHARE = 0.5
MIN_GROUPS = 3  # groups of each side in each part; fewer cannot be resampled


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Positions in the list of examples."""

    search: tuple[int, ...]
    held_out: tuple[int, ...]


def splits_of(examples: Sequence[Example], question: Question, *, seed: int) -> Splits:
    """Split by groups, in the order of a hash, and for each side of the question separately.

    Raises BadLabels if a part would lack one side.
    """
    sides: dict[str, list[str]] = {}
    seen: set[str] = set()
    for example in examples:
        if example.cluster not in seen:
            seen.add(example.cluster)
            sides.setdefault(_side(example.label, question), []).append(example.cluster)
    _require(sides, question)
    chosen: set[str] = set()
    for clusters in sides.values():
        ordered = sorted(clusters, key=lambda cluster: _order(cluster, seed))
        chosen.update(ordered[: round(len(ordered) * SEARCH_SHARE)])
    of_search = [example.cluster in chosen for example in examples]
    return Splits(
        search=tuple(at for at, mine in enumerate(of_search) if mine),
        held_out=tuple(at for at, mine in enumerate(of_search) if not mine),
    )


def halves(positions: Sequence[int], examples: Sequence[Example], *, seed: int) -> tuple[list[int], list[int]]:
    """Split one part in two by groups, so that a calibrator is not judged on the images it was fitted to."""
    clusters = sorted({examples[at].cluster for at in positions}, key=lambda cluster: _order(f"half {cluster}", seed))
    chosen = set(clusters[: (len(clusters) + 1) // 2])
    first = [at for at in positions if examples[at].cluster in chosen]
    return first, [at for at in positions if examples[at].cluster not in chosen]


def counts(examples: Sequence[Example], positions: Sequence[int], question: Question) -> dict[str, int]:
    """Images by label, in the order of the question."""
    found = Counter(question.labels[examples[at].label] for at in positions)
    return {label: found[label] for label in question.labels if found[label]}


def _side(label: int, question: Question) -> str:
    """ "flag" or "other" for a check with flags; the label itself for a plain classification."""
    name = question.labels[label]
    return name if not question.flags else "flag" if name in question.flags else "other"


def _require(sides: dict[str, list[str]], question: Question) -> None:
    if question.flags:
        flagging = [label for label in question.labels if label in question.flags]
        others = [label for label in question.labels if label not in question.flags]
        for side, labels in (("flag", flagging), ("other", others)):
            n = len(sides.get(side, []))
            if n < 2 * MIN_GROUPS:
                shown = "no image" if not n else f"images of {n} group{'s' if n > 1 else ''}"
                raise BadLabels(
                    f"{shown} labelled {' or '.join(labels[:6])}: label {2 * MIN_GROUPS} or more that do not look alike"
                )
    elif len(sides) < 2 or sum(map(len, sides.values())) < 4 * MIN_GROUPS:
        n = sum(map(len, sides.values()))
        raise BadLabels(
            f"{n} group{'' if n == 1 else 's'} of images with {len(sides)} of the labels of {question.name}: "
            f"label {4 * MIN_GROUPS} or more that do not look alike, with two labels at least"
        )


def _order(cluster: str, seed: int) -> bytes:
    return hashlib.sha256(f"tune {seed} {cluster}".encode()).digest()
