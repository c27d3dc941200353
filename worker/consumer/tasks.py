"""The tasks, thin: check the message, call a plain function."""

from __future__ import annotations

from typing import Any, TypeVar

import structlog
from pydantic import BaseModel, ValidationError

from scanfleet.messages import RefreshAdapter, ScoreBatch
from worker.batch.pipeline import Pipeline
from worker.training.trainer import Trainer

log = structlog.get_logger()

MessageT = TypeVar("MessageT", bound=BaseModel)


def score_batch(pipeline: Pipeline, args: tuple[Any, ...], fields: dict[str, Any]) -> None:
    """A knock. What is no knock is logged and dropped: the ledger knows every batch, so nothing is lost with it."""
    message = _read(ScoreBatch, args, fields)
    if message is not None:
        pipeline.run(message.batch_id)


def refresh_adapter(trainer: Trainer, args: tuple[Any, ...], fields: dict[str, Any]) -> None:
    """Likewise for a training."""
    message = _read(RefreshAdapter, args, fields)
    if message is not None:
        trainer.run(message.training_id)


def _read(kind: type[MessageT], args: tuple[Any, ...], fields: dict[str, Any]) -> MessageT | None:
    if args:
        log.warning("message_refused", error="a message has named fields only")
        return None
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        log.warning("message_refused", error=str(error).replace("\n", " ")[:300])
        return None
