"""The tasks, thin: check the message, call a plain function."""

from __future__ import annotations

from typing import Any

import structlog
from pydantic import ValidationError

from scanfleet.messages import ScoreBatch
from worker.pipeline import Pipeline

log = structlog.get_logger()


def score_batch(pipeline: Pipeline, args: tuple[Any, ...], fields: dict[str, Any]) -> None:
    """A knock. What is no knock is logged and dropped: the ledger knows every batch, so nothing is lost with it."""
    if args:
        log.warning("message_refused", error="a message has named fields only")
        return
    try:
        message = ScoreBatch.model_validate(fields)
    except ValidationError as error:
        log.warning("message_refused", error=str(error).replace("\n", " ")[:300])
        return
    pipeline.run(message.batch_id)
