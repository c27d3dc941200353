"""What keeps answers from being relied on, in one line each: the built-in model, no adapter, labels it rarely gives."""

from __future__ import annotations

from scanfleet.config.model_names import BUILTIN_MODELS
from scanfleet.stats.unlike import is_lost

NOTABLE = 0.1  # share of the images
NOTABLE_DOUBTS = 0.05  # likewise; up to .01 is chance


def caveats(
    *,
    base_model: str,
    adapter: str | None,
    calibrated: bool,
    n_images: int = 0,
    n_low_mass: int = 0,
    n_far: int = 0,
    n_compared: int = 0,
    n_doubted: int = 0,
) -> tuple[str, ...]:
    """Return one line for each reason.

    adapter: digest of its weights; None: the base alone. n_low_mass: images for which the label tokens together are
    improbable answers. n_far of n_compared: far from the calibration images. n_doubted: a person decides for that.
    """
    found = []
    if base_model in BUILTIN_MODELS:
        found.append(
            f"the built-in model {base_model} has seen generated pictures only: do not judge real images by it"
        )
    if adapter is None and not calibrated:
        found.append("no adapter answered (zero-shot): scores are not calibrated, and no threshold is certified")
    if n_low_mass > NOTABLE * n_images:
        found.append(
            f"the labels are improbable answers for {n_low_mass} of {n_images} images (mass under .9): the prompt "
            "or the adapter does not fit"
        )
    decides = f", so a person decides about {n_doubted} images" if n_doubted else ""
    if is_lost(n_far, n_compared):
        found.append(
            f"{n_far} of {n_compared} images are unlike those that the adapter was calibrated on: what was certified "
            f"with those does not hold here{decides}"
        )
    elif n_doubted > NOTABLE_DOUBTS * n_images:
        found.append(
            f"{n_doubted} of {n_images} images are unlike those that the adapter was calibrated on: a person decides "
            "about them"
        )
    return tuple(found)
