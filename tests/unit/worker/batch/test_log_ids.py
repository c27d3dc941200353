"""What a worker logs about a batch names its scan, batch, scorer and adapter, also where the event names none."""

import json
from pathlib import Path

import pytest
import structlog

from scanfleet.worker.batch.results import BatchResults
from tests.rigs.worker_rig import png, rig

log = structlog.get_logger()


def test_json_logs_name_scan_batch_scorer_and_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = BatchResults.outcome

    def logging(results: BatchResults, *given: object) -> object:
        log.info("inside_a_batch")
        return outcome(results, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(BatchResults, "outcome", logging)
    before = structlog.get_config()
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(),
        cache_logger_on_first_use=False,
    )
    try:
        with rig(tmp_path) as worker:
            scan_id = worker.scan({"mem://1": png(1)})
            worker.drain()
    finally:
        structlog.configure(**before)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    inside = [event for event in events if event["event"] == "inside_a_batch"]
    assert inside
    for event in inside:
        assert event["scan"] == scan_id
        assert (event["batch"], event["scorer"], event["adapter"]) == (1, 1, None)
    assert structlog.contextvars.get_contextvars() == {}
