"""Queue names, task names and messages. A message carries ids only: everything that must not be lost is a row."""

from __future__ import annotations

import hashlib
import re

from pydantic import BaseModel, ConfigDict, Field

SCORE_BATCH = "score_batch"
REFRESH_ADAPTER = "refresh_adapter"
TRAIN_QUEUE = "train"
MAX_SLUG = 100  # characters: the embedded broker makes it part of a file name


class ScoreBatch(BaseModel):
    """A notification that there is, or was, a batch to score. Unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    batch_id: int = Field(ge=1, lt=2**63)  # the range of row ids


class RefreshAdapter(BaseModel):
    """A notification that there is, or was, a training to run. Unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    training_id: int = Field(ge=1, lt=2**63)


def score_queue(model: str) -> str:
    """The queue of one base model: its slug, and a hash of the exact name where the slug is not the name itself.

    No two models share a queue: a slug holds no dot.

    >>> score_queue("pocket"), score_queue("Qwen/Qwen3-VL-4B")
    ('score.pocket', 'score.qwen-qwen3-vl-4b.5d850c09d79b')
    """
    slug = _slug(model)
    if slug == model and len(slug) <= MAX_SLUG:
        return f"score.{slug}"
    digest = hashlib.sha256(model.encode()).hexdigest()
    return f"score.{slug[:MAX_SLUG] or '-'}.{digest[:12]}"


def old_score_queue(model: str) -> str:
    """The queue of a model in releases that left the hash out. Its batches are claimed for one more release."""
    return f"score.{_slug(model)}"


def _slug(model: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
