"""Queue names, task names and messages. A message carries ids only: everything that must not be lost is a row."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, Field

SCORE_BATCH = "score_batch"
REFRESH_ADAPTER = "refresh_adapter"
TRAIN_QUEUE = "train"


class ScoreBatch(BaseModel):
    """A notification that there is, or was, a batch to score. Unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    batch_id: int = Field(ge=1, lt=2**63)  # the range of row ids


class RefreshAdapter(BaseModel):
    """A notification that there is, or was, a training to run. Unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    training_id: int = Field(ge=1, lt=2**63)


def score_queue(model: str) -> str:
    """The queue of one base model: `Qwen/Qwen3-VL-4B` -> `score.qwen-qwen3-vl-4b`.

    >>> score_queue("pocket")
    'score.pocket'
    """
    slug = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
    return f"score.{slug}"
