"""The worker's Celery application: the only module that lists tasks."""

from __future__ import annotations

from typing import Any

from celery import Celery

from scanfleet.messages import SCORE_BATCH, score_queue
from scanfleet.queue import make_app
from scanfleet.settings import Settings
from worker import tasks
from worker.pipeline import Pipeline


def make_scoring_app(settings: Settings, pipeline: Pipeline) -> Celery:
    """An application whose tasks run through `pipeline`."""
    app = make_app(settings, queues=(score_queue(settings.model),))
    app.conf.update(
        worker_redirect_stdouts=False,  # stdout and stderr stay ours
        worker_consumer="worker.knocks:KnockConsumer",
    )

    @app.task(name=SCORE_BATCH)
    def score_batch(*args: Any, **fields: Any) -> None:
        tasks.score_batch(pipeline, args, fields)

    return app
