"""Messages are knocks: anything else is dropped, and never crashes a worker."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from scanfleet.messages import SCORE_BATCH, score_queue
from scanfleet.settings import load_settings
from worker import tasks
from worker.app import make_scoring_app


class Recorder:
    """In the place of the pipeline."""

    def __init__(self) -> None:
        self.rung: list[int | None] = []

    def run(self, rung: int | None) -> None:
        self.rung.append(rung)


def test_a_knock_reaches_the_pipeline() -> None:
    recorder = Recorder()
    tasks.score_batch(recorder, (), {"batch_id": 7})  # type: ignore[arg-type]
    assert recorder.rung == [7]


@pytest.mark.parametrize(
    ("args", "fields"),
    [
        ((), {}),
        ((), {"batch_id": "7"}),
        ((), {"batch_id": None}),
        ((), {"batch_id": 7, "model": "another"}),
        ((7,), {}),
        ((), {"batch_id": 7.5}),
        ((), {"batch_id": True}),
    ],
)
def test_what_is_no_knock_is_logged_and_dropped(args: tuple[Any, ...], fields: dict[str, Any]) -> None:
    recorder = Recorder()
    with capture_logs() as logs:
        tasks.score_batch(recorder, args, fields)  # type: ignore[arg-type]
    assert recorder.rung == []
    assert [entry["event"] for entry in logs] == ["message_refused"]


def test_the_application_lists_the_task_under_the_name_the_producer_sends(tmp_path: Any) -> None:
    recorder = Recorder()
    app = make_scoring_app(load_settings(data_dir=tmp_path, model="fake"), recorder)  # type: ignore[arg-type]
    app.tasks[SCORE_BATCH](batch_id=3)
    assert recorder.rung == [3]
    assert score_queue("fake") in {queue.name for queue in app.conf.task_queues}
