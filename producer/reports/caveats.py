"""What keeps answers from being relied on, in one line each: the built-in model, no adapter, labels it rarely gives."""

from __future__ import annotations

from scanfleet.config.model_names import BUILTIN_MODELS

NOTABLE = 0.1  # share of the images


def caveats(
    *, base_model: str, adapter: str | None, calibrated: bool, n_images: int = 0, n_low_mass: int = 0
) -> tuple[str, ...]:
    """Return one line for each reason.

    adapter: digest of its weights; None: the base alone. n_low_mass: images for which the label tokens together are
    improbable answers.
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
    return tuple(found)
