"""`python -m scanfleet.worker.tuning.serve`: the computing half of `scanfleet tune`. Reads and writes JSON lines.

Input, first line: the fields of `TuneRequest`. Each further line is a labelled image: {"content_sha256", "uri", "root",
"label", "cluster", "width", "height"}. Output: {"kind": "progress", "done", "total", "seconds_left", "what"} during the
search, {"kind": "report", "record"} at the end, and {"kind": "fault", "words", "exit_code"} after an error. SIGINT ends
the search; its results so far are measured and reported. Nothing is written to a ledger.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from scanfleet.checks.check import Check
from scanfleet.config.settings import Settings
from scanfleet.errors import BadLabels, BadSettings, DeviceUnavailable, ScanfleetError
from scanfleet.models.errors import ModelInvalid, ModelUnavailable
from scanfleet.models.training.data.types import Example
from scanfleet.models.types import Question
from scanfleet.worker.device.probe import UNPROBED_TOKENS
from scanfleet.worker.evaluation.images import Labelled, example_of, fetch_images
from scanfleet.worker.runtime.child_protocol import Reports, serve_request
from scanfleet.worker.scoring.factory import asked_alone, question_of
from scanfleet.worker.scoring.model import load_model
from scanfleet.worker.tuning.adapter import adapter_folder, fixed_parts
from scanfleet.worker.tuning.report import write_report
from scanfleet.worker.tuning.run import Plan, Tuning
from scanfleet.worker.tuning.score_cache import ScoreCache
from scanfleet.worker.tuning.search import SearchStopped

PROGRESS_SECONDS = 0.5
MAX_THREADS = 8  # for preparing images; the device takes them one window at a time
MAX_LISTED = 5  # unreadable images in an error


class StoppedTooEarly(ScanfleetError):
    """The user stopped the search before it had any result."""

    exit_code = 128 + signal.SIGINT


@dataclass(frozen=True, kw_only=True)
class TuneRequest:
    """The first line. adapter: a folder, "shipped" or None for the base alone. registered: an adapter of the
    ledger, used instead. out: the folder to create; None: the report is only sent."""

    check: dict[str, Any]
    name: str
    adapter: str | None
    registered: dict[str, Any] | None
    max_cost: float
    trials: int
    seed: int
    at_fpr: float
    skip_unreadable: bool
    out: str | None


def serve(settings: Settings, fields: dict[str, Any], lines: IO[str], reports: Reports) -> None:
    """Raises ScanfleetError, which `answer` turns into one line and an exit code."""
    request = TuneRequest(**fields)
    check = Check.model_validate(request.check)
    question = question_of(check)
    out = None if request.out is None else Path(request.out)
    progress = _Progress(reports)
    signal.signal(signal.SIGINT, lambda *_: progress.stop())
    with tempfile.TemporaryDirectory(prefix="tune-", dir=settings.make_folder("tmp")) as folder:
        try:
            rows = [json.loads(line) for line in lines]
            images = _images(settings, rows, Path(folder), question, request, progress)
            record = _tune(settings, request, check, question, images, progress)
        except ModelInvalid as error:
            raise BadSettings(f"check {check.name}: {error}") from error
        except ModelUnavailable as error:
            raise DeviceUnavailable(f"check {check.name}: {error}") from error
        except SearchStopped as error:
            raise StoppedTooEarly("stopped before any setting was tried: there is nothing to report") from error
    if out is not None:
        write_report(out, record)
    reports.send("report", record=record)


@dataclass(frozen=True, kw_only=True)
class _Images:
    """left_out: uri -> reason."""

    examples: list[Example]
    sizes: list[tuple[int, int]]
    left_out: dict[str, str]


def _images(
    settings: Settings,
    rows: Sequence[dict[str, Any]],
    folder: Path,
    question: Question,
    request: TuneRequest,
    progress: _Progress,
) -> _Images:
    """Raises BadLabels for images that cannot be read, unless the request leaves them out."""
    labelled = [
        Labelled(**{name: row[name] for name in ("content_sha256", "uri", "root", "label", "cluster")}, boxes=None)
        for row in rows
    ]
    failures = fetch_images(settings, labelled, folder, watch=progress.counter("reading images"))
    left_out = {one.uri: reason for one, reason in zip(labelled, failures, strict=True) if reason is not None}
    if left_out and not request.skip_unreadable:
        first = "; ".join(f"{uri}: {reason}" for uri, reason in list(left_out.items())[:MAX_LISTED])
        more = f"; and {len(left_out) - MAX_LISTED} more" if len(left_out) > MAX_LISTED else ""
        images, them = ("image", "it") if len(left_out) == 1 else ("images", "them")
        hint = f"(--skip-unreadable leaves {them} out)"
        raise BadLabels(f"{len(left_out)} labelled {images} cannot be read: {first}{more} {hint}")
    readable = [at for at, reason in enumerate(failures) if reason is None]
    return _Images(
        examples=[example_of(labelled[at], folder, question, settings) for at in readable],
        sizes=[(rows[at]["width"], rows[at]["height"]) for at in readable],
        left_out=left_out,
    )


def _tune(
    settings: Settings, request: TuneRequest, check: Check, question: Question, images: _Images, progress: _Progress
) -> dict[str, Any]:
    model = load_model(settings)
    folder, notes = adapter_folder(settings, model, check, given=request.adapter, registered=request.registered)
    scores = ScoreCache(
        model=model,
        question=question,
        adapter=folder,
        examples=images.examples,
        sizes=images.sizes,
        layers=() if isinstance(check.crop, str) else check.crop.layers,
        token_budget=UNPROBED_TOKENS if settings.token_budget == "auto" else settings.token_budget,  # noqa: S105
        watch=progress.read,
        threads=min(MAX_THREADS, os.cpu_count() or 1),
    )
    fixed = fixed_parts(question, folder)
    if fixed.words and request.name != check.name:
        raise BadSettings(
            f"--as {request.name}: the adapter is used for check {check.name} by that name: leave --as out"
        )
    plan = Plan(
        check=check,
        name=request.name,
        max_cost=request.max_cost,
        trials=request.trials,
        seed=request.seed,
        at_fpr=request.at_fpr,
    )
    tuning = Tuning(
        plan,
        question=question,
        identity=model.scorer(question, folder).identity,
        order=None if folder else model.order,
        asked=lambda asked: "" if folder else asked_alone(model, asked),
        fixed=fixed,
        examples=images.examples,
        scores=scores,
    )
    record = tuning.run(progress.trials, searched=progress.search_ended)
    record["notes"] = [*notes, *record["notes"]]
    return record | {"images": tuning.images_record(images.left_out)}


class _Progress:
    """Reports progress from time to time; raises SearchStopped during the search once the user stopped it."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports
        self._sent_at = 0.0
        self._stopping = self._search_ended = False
        self._done = self._total = 0
        self._seconds_left: float | None = None
        self._readings = 0

    def stop(self) -> None:
        """Safe in a signal handler."""
        self._stopping = True

    def counter(self, activity: str) -> Any:
        """Counts images before the search; there is no result yet, so a stop ends the tuning."""

        def watch(done: int, total: int) -> None:
            if self._stopping:
                raise SearchStopped
            self._send(activity, done, total, None, at_once=done >= total)

        return watch

    def read(self, readings: int) -> None:
        self._readings += readings
        if self._stopping and not self._search_ended:
            raise SearchStopped
        activity = "measuring" if self._search_ended else "searching"
        self._send(f"{activity}, {self._readings} readings", self._done, self._total, self._seconds_left)

    def trials(self, done: int, total: int, seconds_left: float) -> None:
        self._done, self._total, self._seconds_left = done, total, seconds_left
        self._send(f"searching, {self._readings} readings", done, total, seconds_left, at_once=done >= total)

    def search_ended(self) -> None:
        """From now on a stop has no effect: the results are measured and reported."""
        self._search_ended, self._seconds_left = True, None

    def _send(self, activity: str, done: int, total: int, seconds_left: float | None, *, at_once: bool = False) -> None:
        now = time.monotonic()
        if at_once or now - self._sent_at >= PROGRESS_SECONDS:
            self._sent_at = now
            self._reports.send("progress", what=activity, done=done, total=total, seconds_left=seconds_left)


if __name__ == "__main__":
    serve_request(serve)
