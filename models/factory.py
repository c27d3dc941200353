"""Make scorers, crop readers, finders and explainers from a loaded base. Imports without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from scanfleet.models.errors import ModelInvalid
from scanfleet.models.types import ModelIdentity, Question

if TYPE_CHECKING:
    from scanfleet.models.crops.policy import CropPolicy
    from scanfleet.models.crops.reader import PolicyCropReader
    from scanfleet.models.network.base import BaseModel
    from scanfleet.models.scoring.boxes import GeneratingFinder
    from scanfleet.models.scoring.explaining import GeneratingExplainer
    from scanfleet.models.scoring.prefill import PrefillScorer
    from scanfleet.models.scoring.together import Together


def scorer(
    base: BaseModel,
    question: Question,
    adapter: Path | None = None,
    *,
    policy: CropPolicy | None = None,
    rotated: bool = False,
) -> PrefillScorer:
    """Make a scorer for one question.

    Args:
        base: The loaded base model.
        question: A question without steps.
        adapter: Folder of the adapter to score with; None: the base alone.
        policy: Crop policy of the pass that follows. The scorer then records the attention that the policy needs.
        rotated: Read the menu in several orders where the base answers alone, as workers serve it. False: in the
            question's own order, which adapters are compared with and trained from.

    Returns:
        A scorer whose identity names base, precision and adapter.

    Raises:
        ModelInvalid: The question has steps, or the adapter is damaged or was made for another base or question.
        ModelUnavailable: The adapter's folder cannot be read now.
    """
    from scanfleet.models.adapters.card import read_card
    from scanfleet.models.adapters.likeness import read_likeness
    from scanfleet.models.scoring.head import HeadScorer, read_head
    from scanfleet.models.scoring.prefill import PrefillScorer
    from scanfleet.models.scoring.rotated import RotatedScorer

    if question.steps:
        raise ModelInvalid(f"question {question.name!r} has steps: use scanfleet.models.scoring.sequential")
    digest = None if adapter is None else base.load_adapter(adapter, question)
    likeness = None
    if adapter is None:
        question = _ordered(base, question)
    else:
        card = read_card(adapter)
        question = card.asked(question)
        if question.as_read() == card.learnt.as_read():  # at another pixel budget the tower gives other features
            likeness = read_likeness(adapter, card, features=base.n_features)
    identity = ModelIdentity(
        base_model=base.checkpoint.name,
        revision=base.checkpoint.revision,
        precision=base.precision,
        adapter_sha256=digest,
    )
    if digest in base.heads:
        head = read_head(base.heads[digest], question=question, features=base.n_features, where=str(adapter))
        made: PrefillScorer = HeadScorer(base=base, question=question, identity=identity, head=head)
    else:
        kind = RotatedScorer if rotated and digest is None else PrefillScorer
        made = kind(base=base, question=question, identity=identity)
    made.likeness = likeness
    if policy is not None:
        made.record_layers = policy.recorded
    return made


def together(base: BaseModel, scorers: Sequence[PrefillScorer]) -> Together:
    """Return how to answer several questions in one pass over the images.

    Args:
        base: The loaded base model.
        scorers: From `scorer`, on this base, with equal pixel budgets.

    Raises:
        ValueError: The questions read images of different sizes.
    """
    from scanfleet.models.scoring.together import Together

    return Together(base=base, scorers=scorers)


def _ordered(base: BaseModel, question: Question) -> Question:
    return question if question.order else replace(question, order=base.order)


def crop_reader(
    base: BaseModel, question: Question, policy: CropPolicy, adapter: Path | None = None
) -> PolicyCropReader:
    """Make the reader of the crop pass, which follows a scorer of the same question and adapter.

    Args:
        base: The loaded base model.
        question: A question without steps.
        policy: Crop mode and its settings.
        adapter: Folder of the adapter to score with; None: the base alone.

    Raises:
        ModelInvalid: As for `scorer`, and for a crop mode that the model cannot take.
        ModelUnavailable: The adapter's folder cannot be read now.
    """
    from scanfleet.models.crops.reader import PolicyCropReader

    if question.steps:
        raise ModelInvalid(
            f"question {question.name!r} has steps, which a crop pass cannot read: remove [crop] or the steps from "
            "the check"
        )
    return PolicyCropReader(base=base, scorer=scorer(base, question, adapter), policy=policy)


def finder(base: BaseModel, question: Question, adapter: Path | None = None) -> GeneratingFinder:
    """Make the finder that locates the flagging labels of a question.

    Args:
        base: The loaded base model.
        question: A question with flagging labels.
        adapter: Folder of the adapter to generate with; None: the base alone.

    Raises:
        ModelInvalid: The model's family was not taught boxes, or the adapter does not fit.
        ModelUnavailable: The adapter's folder cannot be read now.
    """
    from scanfleet.models.adapters.card import read_card
    from scanfleet.models.scoring.boxes import GeneratingFinder

    digest = None if adapter is None else base.load_adapter(adapter, question)
    question = _ordered(base, question) if adapter is None else read_card(adapter).asked(question)
    return GeneratingFinder(base=base, question=question, adapter_sha256=digest)


def explainer(
    base: BaseModel, question: Question, adapter: Path | None = None, *, max_new_tokens: int
) -> GeneratingExplainer:
    """Make the explainer of flags, which follows a scorer of the same question and adapter.

    Args:
        base: The loaded base model.
        question: A question with flagging labels. Of one with steps, its own prompt is continued.
        adapter: Folder of the adapter to generate with; None: the base alone.
        max_new_tokens: Tokens after which an explanation is cut off.

    Raises:
        ModelInvalid: As for `scorer`, and for a model that writes no second turn.
        ModelUnavailable: The adapter's folder cannot be read now.
    """
    from scanfleet.models.scoring.explaining import GeneratingExplainer

    asked = scorer(base, replace(question, steps=()), adapter)
    return GeneratingExplainer(base=base, scorer=asked, max_new_tokens=max_new_tokens)
