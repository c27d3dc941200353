"""The Celery application as a factory. Imports no task: the producer sends by name, the worker adds its own.

Each setting has its reason in docs/operations.md; the numbers come from fault trials on Celery 5.6 and 5.7.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kombu.compression
import kombu.exceptions
from celery import Celery
from kombu import Queue
from pydantic import BaseModel

from scanfleet.config.diagnosis import broker_error
from scanfleet.config.settings import Settings
from scanfleet.config.urls import redis_tls
from scanfleet.messages import REFRESH_ADAPTER, SCORE_BATCH, TRAIN_QUEUE, RefreshAdapter, ScoreBatch
from scanfleet.queue import filesystem

REDIS_OPTIONS = {
    "visibility_timeout": 6 * 3600,  # seconds; the reconciler recovers lost work, not the broker
    "socket_timeout": 10,  # a silent connection costs it twice: once to notice, once to close
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    "health_check_interval": 25,
    "global_keyprefix": "scanfleet:",
}
PUBLISH_RETRY = {"max_retries": 2, "interval_start": 0.1, "interval_step": 0.2, "interval_max": 0.5}


def make_app(settings: Settings, queues: tuple[str, ...] = ()) -> Celery:
    """Return a Celery application on the broker of `settings`, with `queues` and the training queue."""
    refuse_compression()
    app = Celery("scanfleet", set_as_current=False)
    app.conf.update(
        broker_url=settings.broker,
        broker_transport_options=_transport_options(settings),
        broker_use_ssl=_tls(settings),
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        task_create_missing_queues=False,
        task_queues=[Queue(name) for name in dict.fromkeys((*queues, TRAIN_QUEUE))],
        task_publish_retry_policy=PUBLISH_RETRY,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=True,  # without it the worker hangs after a Redis restart
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
    )
    return app


def refuse_compression() -> None:
    """Make kombu refuse compressed messages, which it would unpack before anything checks them. Ours are not.

    466 bytes may unpack to 600 MB.
    """
    kombu.compression._decoders.clear()
    kombu.compression._aliases.clear()


def notify(app: Celery, *, queue: str, batch_id: int) -> None:
    """Notify about one batch. Raises BrokerUnavailable; the batch is safe in the ledger either way."""
    _send(app, SCORE_BATCH, ScoreBatch(batch_id=batch_id), queue)


def notify_training(app: Celery, training_id: int) -> None:
    """Notify about one training. Raises BrokerUnavailable; the training is safe in the ledger either way."""
    _send(app, REFRESH_ADAPTER, RefreshAdapter(training_id=training_id), TRAIN_QUEUE)


def n_waiting(app: Celery, queue: str) -> int:
    """Return how many messages a queue holds that nobody has taken; 0 where the broker does not say."""
    with app.connection_for_write() as connection:
        try:
            with connection.channel() as channel:
                return int(channel.queue_declare(queue, passive=True).message_count)
        except (*connection.connection_errors, *connection.channel_errors):
            return 0  # there is no such queue, or sending will tell what is wrong


def _send(app: Celery, task: str, message: BaseModel, queue: str) -> None:
    try:
        app.send_task(task, kwargs=message.model_dump(), queue=Queue(queue))
    except (kombu.exceptions.OperationalError, OSError) as error:
        raise broker_error(error) from error


def _tls(settings: Settings) -> dict[str, object] | None:
    if not settings.broker.startswith("rediss:"):
        return None
    return redis_tls(
        ca_file=settings.broker_ca_file, cert_file=settings.broker_cert_file, key_file=settings.broker_key_file
    )


def _transport_options(settings: Settings) -> dict[str, Any]:
    if settings.broker.startswith("redis"):
        return dict(REDIS_OPTIONS)
    if settings.broker.startswith("filesystem"):
        filesystem.install()
        return _folder_options(settings)
    return {}


def _folder_options(settings: Settings) -> dict[str, Any]:
    """Return options of kombu's filesystem transport: messages are files, taken by an atomic rename.

    The taken files go to a folder beside the others: kombu's default, the system's temporary folder, may lie on
    another file system, where a move is a copy and a kill during it loses the message.
    """
    names = {
        "data_folder_in": "messages",
        "data_folder_out": "messages",
        "control_folder": "control",
        "processed_folder": "taken",
    }
    folders = {option: settings.make_folder("broker", name) for option, name in names.items()}
    options: dict[str, Any] = {name: str(folder) for name, folder in folders.items()}
    # 50 ms instead of kombu's second: a notification is picked up at once.
    return options | {"polling_interval": 0.05, "store_processed": True}


def broker_folder(settings: Settings) -> Path:
    """Return the folder of the embedded broker's messages."""
    return settings.data_dir / "broker"


def clear_taken(settings: Settings) -> None:
    """Delete delivered messages of the embedded broker, and files that a kill left unfinished."""
    for message in (broker_folder(settings) / "taken").glob("*.msg"):
        message.unlink(missing_ok=True)
    filesystem.clear_unfinished(broker_folder(settings))
