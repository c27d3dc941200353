"""Prepare examples for a fit: their crops, whether the model can take them, and their number of tokens."""

from __future__ import annotations

from dataclasses import dataclass

from scanfleet.models.errors import ModelInvalid
from scanfleet.models.network.base import BaseModel
from scanfleet.models.training.data.feature_cache import OnRead
from scanfleet.models.training.data.features import Fillable
from scanfleet.models.training.data.request import TrainingRequest
from scanfleet.models.training.data.sampler import Plan, SampleId
from scanfleet.models.training.data.samples import Samples, n_crops, open_image


@dataclass(frozen=True, kw_only=True)
class Data:
    """The prepared examples of a fit.

    Attributes:
        train: Training images and their crops.
        validation: Held-out images.
        plan: The images of each step.
        sizes: Tokens of each training image and crop.
        validation_sizes: Tokens of each held-out image.
        figures: Counts for the adapter's card.
    """

    train: Samples
    validation: Samples
    plan: Plan
    sizes: dict[SampleId, int]
    validation_sizes: dict[SampleId, int]
    figures: dict[str, int]


def collect_data(base: BaseModel, request: TrainingRequest, source: Fillable, *, on_read: OnRead) -> Data:
    """Read every image once; those that the model cannot take are left out and counted.

    Args:
        base: The loaded base model.
        request: Examples, question and recipe.
        source: Prepares the images, and caches what it can.
        on_read: Called while images are read.

    Raises:
        ModelInvalid: Fewer than two labels are left.
        Exception: Whatever opening an image raises.
    """
    recipe, question, train, validation = request.recipe, request.question, request.train, request.validation
    below = recipe.small_below if recipe.small_share else 0.0
    crops = [n_crops(e, open_image(e).size, below) if e.boxes and below else 0 for e in train]
    samples = Samples(list(train), base.processor, question, factor=recipe.pixel_factor, below=below)
    every = [(i, variant) for i, count in enumerate(crops) for variant in range(count + 1)]
    found = source.fill(samples, every, on_read)
    kept = [i for i in range(len(train)) if (i, 0) in found]
    small = [crops[i] if all((i, v) in found for v in range(crops[i] + 1)) else 0 for i in kept]
    plan = Plan(
        labels=[train[i].label for i in kept],
        small=small,
        seed=request.seed,
        batch=recipe.batch,
        accumulation=recipe.accumulation,
        balanced=recipe.balanced,
        small_share=recipe.small_share,
    )
    if len(set(plan.labels)) < 2:
        raise ModelInvalid(f"the model can take {len(kept)} of {len(train)} training images: too few to train on")
    samples.examples = [train[i] for i in kept]
    sizes = {(new, v): found[old, v] for new, old in enumerate(kept) for v in range(small[new] + 1)}
    held = Samples(list(validation), base.processor, question, factor=1.0, below=0.0)
    held_sizes = source.fill(held, [(i, 0) for i in range(len(validation))], on_read)
    figures = {
        "train_images": len(kept),
        "validation_images": len(held_sizes),
        "left_out": len(train) - len(kept) + len(validation) - len(held_sizes),
        "enlarged_crops": sum(small),
    }
    return Data(train=samples, validation=held, plan=plan, sizes=sizes, validation_sizes=held_sizes, figures=figures)
