"""The worker's Celery application: the only module that lists tasks."""

from __future__ import annotations

from typing import Any

from celery import Celery

from scanfleet.config.settings import Settings
from scanfleet.messages import REFRESH_ADAPTER, SCORE_BATCH, score_queue
from scanfleet.queue.app import make_app
from worker.batch.pipeline import Pipeline
from worker.consumer import tasks
from worker.training.trainer import Trainer


def make_scoring_app(settings: Settings, pipeline: Pipeline) -> Celery:
    """An application whose tasks run through `pipeline`."""
    app = _app(settings, score_queue(settings.model))

    @app.task(name=SCORE_BATCH)
    def score_batch(*args: Any, **fields: Any) -> None:
        tasks.score_batch(pipeline, args, fields)

    return app


def make_training_app(settings: Settings, trainer: Trainer) -> Celery:
    """An application whose tasks are seen through by `trainer`."""
    app = _app(settings)

    @app.task(name=REFRESH_ADAPTER)
    def refresh_adapter(*args: Any, **fields: Any) -> None:
        tasks.refresh_adapter(trainer, args, fields)

    return app


def _app(settings: Settings, *queues: str) -> Celery:
    app = make_app(settings, queues=queues)
    app.conf.update(
        worker_redirect_stdouts=False,  # stdout and stderr stay ours
        worker_consumer="worker.consumer.message_filter:FilteringConsumer",
    )
    return app
