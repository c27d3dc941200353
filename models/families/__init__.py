"""The supported model families: every `Family` in a module here.

To add one, add a small file here and its tiny checkpoint to the tests.
"""

from __future__ import annotations

import importlib
import pkgutil

from scanfleet.models.errors import ModelInvalid
from scanfleet.models.families.family import Family, ImageReader, PreparedImage, PreparedRow, Row, images_of

__all__ = ["FAMILIES", "Family", "ImageReader", "PreparedImage", "PreparedRow", "Row", "family_of", "images_of"]


def _find() -> dict[str, Family]:
    modules = (importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__))
    families = [found for module in modules for found in vars(module).values() if isinstance(found, Family)]
    return {family.model_type: family for family in sorted(families, key=lambda family: family.model_type)}


FAMILIES = _find()


def family_of(model_type: str | None, *, name: str) -> Family:
    """Return the family of a checkpoint.

    Args:
        model_type: as in its config.json; None: it names none.
        name: the checkpoint's name, for the message.

    Raises:
        ModelInvalid: the family is not supported; the message lists those that are.
    """
    if model_type not in FAMILIES:
        supported = ", ".join(FAMILIES)
        raise ModelInvalid(f"{name} is a {model_type} model; supported families: {supported}")
    return FAMILIES[model_type]
