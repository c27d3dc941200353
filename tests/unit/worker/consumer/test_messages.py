"""Messages are notifications: anything else is dropped, and never crashes a worker."""

import json
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu import Message
from structlog.testing import capture_logs

from scanfleet.config.settings import load_settings
from scanfleet.messages import SCORE_BATCH, score_queue
from scanfleet.worker.consumer.app import make_scoring_app
from scanfleet.worker.consumer.message_filter import problem_of


class Recorder:
    """Takes the place of the pipeline."""

    def __init__(self) -> None:
        self.notified: list[int | None] = []

    def run(self, notified: int | None) -> None:
        self.notified.append(notified)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def app(tmp_path: Path, recorder: Recorder) -> Celery:
    return make_scoring_app(load_settings(data_dir=tmp_path, model="fake"), recorder)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("args", "fields"),
    [
        ((), {}),
        ((), {"batch_id": "7"}),
        ((), {"batch_id": None}),
        ((), {"batch_id": 7, "model": "another"}),
        ((7,), {"batch_id": 7}),
        ((), {"batch_id": 7.5}),
        ((), {"batch_id": True}),
        ((), {"batch_id": 2**63}),
        ((), {"batch_id": -1}),
    ],
)
def test_what_is_no_notification_is_logged_and_dropped(
    app: Celery, recorder: Recorder, args: tuple[Any, ...], fields: dict[str, Any]
) -> None:
    with capture_logs() as logs:
        app.tasks[SCORE_BATCH](*args, **fields)
    assert recorder.notified == []
    assert [entry["event"] for entry in logs] == ["message_refused"]


def test_a_notification_under_the_name_the_producer_sends_reaches_the_pipeline(app: Celery, recorder: Recorder) -> None:
    app.tasks[SCORE_BATCH](batch_id=3)
    assert recorder.notified == [3]
    assert score_queue("fake") in {queue.name for queue in app.conf.task_queues}


BODY = json.dumps([[], {"batch_id": 1}, {"callbacks": None}])


def message(**changes: Any) -> Message:
    fields = {"body": BODY, "content_type": "application/json", "content_encoding": "utf-8"}
    headers = {"id": "1", "task": SCORE_BATCH, "eta": None}
    return Message(**(fields | {"headers": headers} | changes), accept=["application/json"])


def test_a_plain_notification_passes_the_filter() -> None:
    assert problem_of(message(), tasks=[SCORE_BATCH]) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"content_type": "application/x-python-serialize"}, "not JSON"),
        ({"body": BODY + " " * 100_000}, "more than 65536 bytes"),
        ({"headers": {}}, "headers"),
        ({"headers": None}, "headers"),
        ({"headers": {"id": "1", "task": "os.system"}}, "no task of this worker"),
        ({"headers": {"id": "1", "task": ["score_batch"]}}, "no task of this worker"),
        ({"headers": {"id": "1", "task": SCORE_BATCH, "eta": "2999-01-01"}}, "more than its task"),
        ({"body": "{"}, "cannot be decoded"),
        ({"body": "[" * 10_000}, "cannot be decoded"),
        ({"body": '{"batch_id": 1}'}, "not that of a task"),
        ({"body": "[[], {}]"}, "not that of a task"),
        ({"body": json.dumps([[], {}, {"callbacks": [{"task": "os.system"}]}])}, "more than its task"),
    ],
)
def test_everything_else_stays_outside(changes: dict[str, Any], words: str) -> None:
    problem = problem_of(message(**changes), tasks=[SCORE_BATCH])
    assert problem is not None
    assert words in problem
    assert "os.system" not in problem
