"""The worker's Celery application: the only module that lists tasks. They check their message and call the worker."""

from __future__ import annotations

from typing import Any, TypeVar

import structlog
from celery import Celery
from pydantic import BaseModel, ValidationError

from scanfleet.config.settings import Settings
from scanfleet.messages import REFRESH_ADAPTER, SCORE_BATCH, RefreshAdapter, ScoreBatch, score_queue
from scanfleet.queue.app import make_app
from scanfleet.worker.batch.pipeline import Pipeline
from scanfleet.worker.training.trainer import Trainer

log = structlog.get_logger()

MessageT = TypeVar("MessageT", bound=BaseModel)


def make_scoring_app(settings: Settings, pipeline: Pipeline) -> Celery:
    """Return an application whose tasks run batches through `pipeline`."""
    app = _app(settings, score_queue(settings.model))

    @app.task(name=SCORE_BATCH, shared=False)  # or every later application gets this pipeline's
    def score_batch(*args: Any, **fields: Any) -> None:
        message = _read(ScoreBatch, args, fields)
        if message is not None:
            pipeline.run(message.batch_id)

    return app


def make_training_app(settings: Settings, trainer: Trainer) -> Celery:
    """Return an application whose tasks run trainings through `trainer`."""
    app = _app(settings)

    @app.task(name=REFRESH_ADAPTER, shared=False)
    def refresh_adapter(*args: Any, **fields: Any) -> None:
        message = _read(RefreshAdapter, args, fields)
        if message is not None:
            trainer.run(message.training_id)

    return app


def _app(settings: Settings, *queues: str) -> Celery:
    app = make_app(settings, queues=queues)
    app.conf.update(
        worker_redirect_stdouts=False,  # stdout and stderr stay ours
        worker_consumer="scanfleet.worker.consumer.message_filter:FilteringConsumer",
    )
    return app


def _read(kind: type[MessageT], args: tuple[Any, ...], fields: dict[str, Any]) -> MessageT | None:
    """Log and drop anything but a notification. The database holds every batch, so nothing is lost."""
    if args:
        log.warning("message_refused", error="a message has named fields only")
        return None
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        log.warning("message_refused", error=str(error).replace("\n", " ")[:300])
        return None
