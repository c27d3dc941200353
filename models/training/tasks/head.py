"""The task of recipe `head`: a linear layer over last hidden states, which the frozen model computes once per image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from scanfleet.models import factory
from scanfleet.models.adapters.card import read_card
from scanfleet.models.families import PreparedImage
from scanfleet.models.network.base import BaseModel
from scanfleet.models.recipes import Recipe
from scanfleet.models.scoring.head import Head, initial_head
from scanfleet.models.scoring.prefill import PrefillScorer
from scanfleet.models.training.data.dataset import Data
from scanfleet.models.training.data.feature_cache import FeatureCache, Features
from scanfleet.models.training.data.sampler import SampleId, Step
from scanfleet.models.training.data.samples import Samples
from scanfleet.models.types import Question

HIDDEN = "hidden"


@contextmanager
def frozen_scorer(base: BaseModel, question: Question, base_adapter: Path | None) -> Iterator[PrefillScorer]:
    """Yield the scorer that reads hidden states: the base, or the base under an adapter's LoRA.

    The adapter is loaded if need be, and released at the end if so.

    Raises:
        ModelInvalid: The adapter is damaged or was made for another base or question.
    """
    digest = None if base_adapter is None else read_card(base_adapter).weights_sha256
    loaded = base.holds(digest)
    scorer = factory.scorer(base, question, base_adapter)
    try:
        yield scorer
    finally:
        if digest is not None and not loaded:
            base.release(digest)


def hidden_cache(scorer: PrefillScorer, folder: Path) -> FeatureCache:
    """Return a cache of last hidden states, `[hidden]` fp32 under "hidden" for each image."""
    identity = scorer.identity
    parts = [identity.base_model, identity.revision, identity.precision, str(identity.adapter_sha256), HIDDEN]

    def compute(images: Sequence[PreparedImage]) -> list[Features]:
        with torch.inference_mode():
            hidden = scorer.last_hidden(images).float().cpu()
        return [{HIDDEN: row.clone()} for row in hidden]

    return FeatureCache(folder, [*parts, scorer.prompt.sha256], compute)


class HeadTask:
    """Implements `models.training.loop.Task`: cross entropy over the question's labels.

    Args:
        base: The loaded base model.
        question: Its labels are the classes.
        data: Prepared examples.
        cache: A filled `hidden_cache`.
        recipe: Its dropout applies to the hidden states.
    """

    def __init__(self, base: BaseModel, question: Question, data: Data, cache: FeatureCache, recipe: Recipe) -> None:
        start = initial_head(base, question)
        self._weight = torch.nn.Parameter(start.weight.clone())
        self._bias = torch.nn.Parameter(start.bias.clone())
        self._data, self._recipe = data, recipe
        self._train = _hidden(cache, data.train, data.sizes)
        self._held = _hidden(cache, data.validation, data.validation_sizes)

    @property
    def state(self) -> Mapping[str, torch.Tensor]:
        """weight `[labels, hidden]` and bias `[labels]`, both fp32."""
        return {"weight": self._weight.detach(), "bias": self._bias.detach()}

    @property
    def parameters(self) -> Sequence[torch.nn.Parameter]:
        return [self._weight, self._bias]

    def learn(self, step: Step) -> float:
        """Run one optimiser step's images and leave the gradient; returns the mean loss in nats."""
        sample_ids = [sample_id for part in step for sample_id in part]
        hidden = torch.stack([self._train[sample_id] for sample_id in sample_ids])
        hidden = F.dropout(hidden, self._recipe.dropout)
        logits = F.linear(hidden, self._weight, self._bias)
        loss = F.cross_entropy(logits, _labels(self._data.train, sample_ids))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    @torch.no_grad()
    def validation(self) -> float | None:
        """Return the loss in nats on the held-out examples, with equal weight for every class; None without any."""
        if not self._held:
            return None
        sample_ids = list(self._held)
        labels = _labels(self._data.validation, sample_ids)
        logits = F.linear(torch.stack([self._held[sample_id] for sample_id in sample_ids]), self._weight, self._bias)
        losses = F.cross_entropy(logits, labels, reduction="none")
        return float(torch.stack([losses[labels == label].mean() for label in torch.unique(labels)]).mean())


def trained_head(state: Mapping[str, torch.Tensor]) -> Head:
    """Return the head of a `HeadTask` state: weight `[labels, hidden]`, bias `[labels]`, fp32."""
    return Head(weight=state["weight"], bias=state["bias"])


def _hidden(cache: FeatureCache, samples: Samples, sample_ids: Mapping[SampleId, int]) -> dict[SampleId, torch.Tensor]:
    return {sample_id: cache.features(samples.name(sample_id))[HIDDEN] for sample_id in sample_ids}


def _labels(samples: Samples, sample_ids: Sequence[SampleId]) -> torch.Tensor:
    return torch.tensor([samples.examples[i].label for i, _ in sample_ids])
