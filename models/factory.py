"""What is made of a loaded base for one question: a scorer, a refiner, a finder. Starts without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from models.errors import ModelInvalid
from models.types import ModelIdentity, Question

if TYPE_CHECKING:
    from models.crops.policy import CropPolicy
    from models.crops.reader import PolicyCropReader
    from models.network.base import BaseModel
    from models.scoring.boxes import GeneratingFinder
    from models.scoring.prefill import PrefillScorer


def scorer(
    base: BaseModel, question: Question, adapter: Path | None = None, *, policy: CropPolicy | None = None
) -> PrefillScorer:
    """A scorer for one question, by the base alone or by the adapter in a folder.

    policy: of the second looks that follow, if any: what these would have to find out again is recorded in the
    readings. Raises ModelInvalid when the adapter was made for another base or question, is damaged or does not
    fit.
    """
    from models.scoring.head import HeadScorer, read_head
    from models.scoring.prefill import PrefillScorer

    if question.steps:
        raise ModelInvalid(f"question {question.name!r} has steps: ask them in turn (models.scoring.sequential)")
    digest = None if adapter is None else base.load_adapter(adapter, question)
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
        made = PrefillScorer(base=base, question=question, identity=identity)
    if policy is not None:
        made.record_layers = policy.recorded
    return made


def crop_reader(
    base: BaseModel, question: Question, policy: CropPolicy, adapter: Path | None = None
) -> PolicyCropReader:
    """What looks again at images that a scorer of the same question and adapter has answered.

    Raises ModelInvalid as `scorer` does, for a question with steps, and for a look that the model cannot take.
    """
    from models.crops.reader import PolicyCropReader

    if question.steps:
        raise ModelInvalid(
            f"question {question.name!r} has steps, and a second look asks one question: take [crop] out of the "
            "check, or the steps"
        )
    return PolicyCropReader(base=base, scorer=scorer(base, question, adapter), policy=policy)


def finder(base: BaseModel, question: Question, adapter: Path | None = None) -> GeneratingFinder:
    """What says where the flagging labels of a question are to be seen. Raises ModelInvalid as `scorer` does."""
    from models.scoring.boxes import GeneratingFinder

    digest = None if adapter is None else base.load_adapter(adapter, question)
    return GeneratingFinder(base=base, question=question, adapter_sha256=digest)
