"""The process of a tuning: images onto the local disk, the model, the search, the folder of the report.

`python -m worker.tuning.serve`: the computing half of `scanfleet tune`. Speaks JSON, one object a line, on both sides.

In, first line: what `Asked` holds. Each further line is a labelled image: {"content_sha256", "uri", "root", "label",
"cluster", "width", "height"}. Out: {"kind": "progress", "done", "total", "seconds_left", "what"} while it goes on,
{"kind": "report", "record"} at the end, and {"kind": "fault", "words", "exit_code"} when it ends before its time.
SIGINT ends the search; what it has found by then is judged and reported. Nothing is written to a ledger.

Which adapter answers while a check is tuned: the one that a scan would use, or the one that was named.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from models import pocket
from models.adapters.canary import try_canary
from models.adapters.card import read_card
from models.errors import ModelInvalid, ModelUnavailable
from models.training.data.types import Example
from models.types import Question
from scanfleet.checks.check import Check
from scanfleet.config.settings import Settings
from scanfleet.db.training.adapters import AdapterInfo
from scanfleet.errors import BadLabels, BadSettings, DeviceUnavailable, ScanfleetError
from worker.commands.standalone import resolve_alone
from worker.device.probe import UNPROBED_TOKENS
from worker.evaluation.images import Labelled, bring, example_of
from worker.runtime.child_protocol import Reports, serve_request
from worker.scoring.adapters import AdapterFolders
from worker.scoring.factory import matches, question_of
from worker.scoring.model import Model, load_model
from worker.tuning.report import write_report
from worker.tuning.run import Plan, Tuning
from worker.tuning.score_cache import ScoreCache
from worker.tuning.search import Stopped
from worker.tuning.search_space import Kept

SHIPPED = "shipped"


def adapter_folder(
    settings: Settings, model: Model, check: Check, *, given: str | None, registered: dict[str, Any] | None
) -> tuple[Path | None, list[str]]:
    """The folder of the adapter, tried by its canary, and notes for the report. None: the base alone.

    given: a folder, SHIPPED or None. Raises BadSettings, ModelInvalid for one that must not be used.
    """
    if registered is not None:
        return _registered(settings, model, check, AdapterInfo(**registered))
    if given is None:
        return None, []
    folder = None if given == SHIPPED else Path(given)
    made = resolve_alone(model, check.model_copy(update={"crop": "never"}), folder).scorer.identity.adapter_sha256
    return (pocket.adapter_folder(check.name) if folder is None and made is not None else folder), []


def _registered(settings: Settings, model: Model, check: Check, info: AdapterInfo) -> tuple[Path | None, list[str]]:
    folder = AdapterFolders(settings).find(info)
    card, question = read_card(folder), question_of(check)
    if not matches(card, question):
        return None, [
            f"adapter {info.id} answers other words than the check has now: the base answers alone, as in scans"
        ]
    scorer, base = model.scorer(card.question, folder), model.scorer(card.question, None)
    problem = None if card.canary is None else try_canary(card.canary, folder, adapter=scorer, base=base).problem()
    if problem is not None:
        raise ModelInvalid(f"adapter {folder.name}: {problem}")
    return folder, []


def kept_of(question: Question, folder: Path | None) -> Kept:
    """What of a question must stay as an adapter learnt it, so that scans go on using that adapter."""
    if folder is None:
        return Kept(words=False, budget=False)
    larger = replace(question, max_pixels=question.max_pixels + 1)
    return Kept(words=True, budget=not matches(read_card(folder), larger))


TELL_SECONDS = 0.5
MOST_THREADS = 8  # that prepare images; the device takes them one window at a time
SHOWN = 5  # unreadable images


class NothingYet(ScanfleetError):
    """It was stopped before the search had found anything."""

    exit_code = 128 + signal.SIGINT


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The first line. adapter: a folder, "shipped" or None for the base alone; registered: an adapter of the ledger
    instead. out: a folder that is to appear; None: no report but the one that is sent."""

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


def serve(settings: Settings, asked: dict[str, Any], lines: IO[str], reports: Reports) -> None:
    """Raises what becomes one line and an exit code."""
    request = Asked(**asked)
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
        except Stopped as error:
            raise NothingYet("stopped before anything was tried: nothing is reported") from error
    if out is not None:
        write_report(out, record)
    reports.send("report", record=record)


@dataclass(frozen=True, kw_only=True)
class _Images:
    """left_out: uri -> why."""

    examples: list[Example]
    sizes: list[tuple[int, int]]
    left_out: dict[str, str]


def _images(
    settings: Settings,
    rows: Sequence[dict[str, Any]],
    folder: Path,
    question: Question,
    request: Asked,
    progress: _Progress,
) -> _Images:
    """Raises BadLabels for images that cannot be read, unless those are to be left out."""
    labelled = [
        Labelled(**{name: row[name] for name in ("content_sha256", "uri", "root", "label", "cluster")}, boxes=None)
        for row in rows
    ]
    faults = bring(settings, labelled, folder, watch=progress.counter("reading images"))
    left_out = {one.uri: fault for one, fault in zip(labelled, faults, strict=True) if fault is not None}
    if left_out and not request.skip_unreadable:
        first = "; ".join(f"{uri}: {fault}" for uri, fault in list(left_out.items())[:SHOWN])
        more = f"; and {len(left_out) - SHOWN} more" if len(left_out) > SHOWN else ""
        images, them = ("image", "it") if len(left_out) == 1 else ("images", "them")
        hint = f"(--skip-unreadable leaves {them} out)"
        raise BadLabels(f"{len(left_out)} labelled {images} cannot be read: {first}{more} {hint}")
    there = [at for at, fault in enumerate(faults) if fault is None]
    return _Images(
        examples=[example_of(labelled[at], folder, question, settings) for at in there],
        sizes=[(rows[at]["width"], rows[at]["height"]) for at in there],
        left_out=left_out,
    )


def _tune(
    settings: Settings, request: Asked, check: Check, question: Question, images: _Images, progress: _Progress
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
        threads=min(MOST_THREADS, os.cpu_count() or 1),
    )
    kept = kept_of(question, folder)
    if kept.words and request.name != check.name:
        raise BadSettings(f"--as {request.name}: the adapter answers check {check.name} by its name: leave --as out")
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
        kept=kept,
        examples=images.examples,
        scores=scores,
    )
    record = tuning.run(progress.trials, searched=progress.judging)
    record["notes"] = [*notes, *record["notes"]]
    return record | {"images": tuning.images_record(images.left_out)}


class _Progress:
    """Progress now and then; raises Stopped out of the search once it was asked to end."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports
        self._last = 0.0
        self._stopping = self._judging = False
        self._done = self._total = 0
        self._seconds_left: float | None = None
        self._readings = 0

    def stop(self) -> None:
        """For a signal handler."""
        self._stopping = True

    def counter(self, what: str) -> Any:
        """Counts something before the search; nothing is known yet, so that a stop ends it all."""

        def watch(done: int, total: int) -> None:
            if self._stopping:
                raise Stopped
            self._tell(what, done, total, None, at_once=done >= total)

        return watch

    def read(self, readings: int) -> None:
        self._readings += readings
        if self._stopping and not self._judging:
            raise Stopped
        what = "judging" if self._judging else "searching"
        self._tell(f"{what}, {self._readings} readings", self._done, self._total, self._seconds_left)

    def trials(self, done: int, total: int, seconds_left: float) -> None:
        self._done, self._total, self._seconds_left = done, total, seconds_left
        self._tell(f"searching, {self._readings} readings", done, total, seconds_left, at_once=done >= total)

    def judging(self) -> None:
        """The search is over: from now on a stop changes nothing but the time until the end."""
        self._judging, self._seconds_left = True, None

    def _tell(self, what: str, done: int, total: int, seconds_left: float | None, *, at_once: bool = False) -> None:
        now = time.monotonic()
        if at_once or now - self._last >= TELL_SECONDS:
            self._last = now
            self._reports.send("progress", what=what, done=done, total=total, seconds_left=seconds_left)


if __name__ == "__main__":
    serve_request(serve)
