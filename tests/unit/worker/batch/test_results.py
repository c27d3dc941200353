"""Odd answers and odd error messages on their way into the ledger."""

import pytest
from structlog.testing import capture_logs

from scanfleet.db.scans.batches import ClaimedImage
from scanfleet.errors import ImageError
from scanfleet.models.types import Question, Reading
from scanfleet.redaction import storable
from scanfleet.worker.batch.results import BatchResults
from scanfleet.worker.batch.timing import Stopwatch
from scanfleet.worker.scoring.decisions import Policy
from scanfleet.worker.scoring.factory import Resolved

QUESTION = Question(name="q", prompt="Is it?", labels=("yes", "no"), flags=frozenset({"yes"}))
IMAGE = ClaimedImage(id=1, uri="mem://a", root=None, etag="1", identity="i")


@pytest.fixture
def results() -> BatchResults:
    return BatchResults(Resolved(scorer_id=1, scorer=None, policy=Policy(question=QUESTION)))  # type: ignore[arg-type]


def reading(margin: float, *, mass: float = 0.99) -> Reading:
    return Reading(margin=margin, logits=(margin, 0.0), mass=mass, visual_tokens=1)


@pytest.mark.parametrize("margin", [float("nan"), float("inf"), float("-inf")])
def test_an_answer_that_is_not_a_number_is_no_verdict_and_no_failure(results: BatchResults, margin: float) -> None:
    results.add_reading(IMAGE, reading(margin), sha256="s", width=1, height=1)
    outcome = results.outcome(Stopwatch())
    assert (list(outcome.verdicts), dict(outcome.failures)) == ([], {})
    assert "not a number" in str(outcome.waiting_for)


def test_an_error_message_with_any_characters_can_be_stored(results: BatchResults) -> None:
    results.add_error(IMAGE, ImageError(stage="decode", reason="truncated", detail="bad\0chunk \ud800 é"))
    assert results.outcome(Stopwatch()).failures[1].detail == "badchunk ? é"


def test_a_signature_does_not_reach_the_ledger() -> None:
    assert storable("cannot read https://bucket/key?X-Amz-Signature=secret") == "cannot read https://bucket/key"


def test_a_low_label_mass_logs_one_warning_per_batch(results: BatchResults) -> None:
    for _ in range(3):
        results.add_reading(IMAGE, reading(-2.0, mass=0.4), sha256="s", width=1, height=1)
    with capture_logs() as logs:
        outcome = results.outcome(Stopwatch())
    assert [(entry["event"], entry["images"]) for entry in logs] == [("label_mass_low", 3)]
    assert {verdict.decision for verdict in outcome.verdicts} == {"review"}
