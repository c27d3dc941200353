"""The models that a sceptic asks first: what does a vision-language model add to them?

Each is fitted on pictures and labels, and gives log-odds of its classes for others. The same pictures, labels, options
and seed give the same answers on one machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from PIL import Image

from scanfleet.models.baselines.detector import fit_detector
from scanfleet.models.baselines.fitted import Fitted, Task
from scanfleet.models.baselines.hog import fit_hog_forest
from scanfleet.models.baselines.ocr import fit_ocr_resnet
from scanfleet.models.baselines.resnet import fit_resnet
from scanfleet.models.errors import ModelInvalid

__all__ = ["NAMES", "Fitted", "fit"]

_FITS: Mapping[str, Callable[[Task], Fitted]] = {
    "hog-forest": fit_hog_forest,
    "resnet": fit_resnet,
    "ocr-resnet": fit_ocr_resnet,
    "detector": fit_detector,
}
NAMES: tuple[str, ...] = tuple(_FITS)


def fit(
    name: str,
    pictures: Sequence[Image.Image],
    labels: Sequence[str],
    *,
    names: Sequence[str],
    seed: int,
    options: Mapping[str, object],
) -> Fitted:
    """Fit a baseline.

    Args:
        name: One of `NAMES`.
        pictures: RGB, of any sizes.
        labels: `[pictures]`, each one of `names`; two classes at least.
        names: The classes, in the order of the answers. A class without pictures is never likely.
        seed: Of all that is drawn.
        options: Of this baseline; docs/baselines.md has them with their defaults.

    Raises:
        ModelInvalid: The name, an option or the labels are wrong, or the package of an extra is missing.
    """
    if name not in _FITS:
        raise ModelInvalid(f"no baseline is named {name!r}; there are {', '.join(NAMES)}")
    task = Task(name=name, pictures=pictures, labels=labels, names=tuple(names), seed=seed, options=options)
    return _FITS[name](task)
