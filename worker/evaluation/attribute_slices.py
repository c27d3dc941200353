"""Attributes that people gave with labels (words, size, material) as dimensions of the gate's slices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from scanfleet.db.labels.labels import CurrentLabel
from scanfleet.models.promotion import Limits

DIMENSION = "attribute "  # before the name, which may be that of another dimension


def attribute_slices(labels: Iterable[CurrentLabel]) -> dict[str, dict[str, str]]:
    """Return dimension -> content hash -> value, for values that enough images share to be a slice.

    An image has its own attributes and those of its boxes; several values of one name are joined.
    """
    found: dict[str, dict[str, str]] = {}
    for one in labels:
        values: dict[str, set[str]] = {}
        for attributes in (one.attributes, *(box.get("attributes") for box in one.boxes or ())):
            for name, value in (attributes or {}).items():
                values.setdefault(name, set()).add(value)
        for name, several in values.items():
            found.setdefault(f"{DIMENSION}{name}", {})[one.content_sha256] = " + ".join(sorted(several))
    return {name: shared for name, by_image in found.items() if (shared := _shared(by_image))}


def _shared(by_image: dict[str, str]) -> dict[str, str]:
    n_images = Counter(by_image.values())
    return {image: value for image, value in by_image.items() if n_images[value] >= Limits().least_slice}
