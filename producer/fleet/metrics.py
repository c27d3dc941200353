"""The ledger as Prometheus metrics. Every number is read from the ledger, so that it survives every worker.

Labels are bounded: at most MAX_SCANS open scans, the checks and models in use, and words from short lists.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
import structlog
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from scanfleet.db.engine import now, reading
from scanfleet.db.fleet import open_scans, rates, recent, totals
from scanfleet.db.fleet.open_scans import OpenScan
from scanfleet.db.fleet.recent import Answers
from scanfleet.db.scans.crash_isolation import KILLER
from scanfleet.db.tables import Champion
from scanfleet.errors import DatabaseUnavailable
from scanfleet.stats.stage_times import THREAD_STAGES

SILENT_SECONDS = 30.0  # a worker without a heartbeat for longer does not live
FRESH_SECONDS = 5.0  # scrapes within them get the same answer: several servers cost the database no more than one
MAX_CHAMPIONS = 200
SCAN = ("scan", "check", "model")
STAGES = (*THREAD_STAGES, "wait", "device", "boxes", "explaining", "pointing", "write")

log = structlog.get_logger()


class Ledger:
    """A collector of prometheus-client.

    minutes: within which the workers wanted are to finish what is open. models: have such a number even before their
    first scan, as an autoscaler asks for it.
    """

    def __init__(self, engine: sa.Engine, *, minutes: float = 30.0, models: Sequence[str] = ()) -> None:
        self._engine = engine
        self._models = models
        self._minutes = minutes
        self._found: list[Metric] = []
        self._until = 0.0

    def describe(self) -> Iterable[Metric]:
        """Nothing: else registering it would read the ledger."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Read the ledger. One that cannot be read is a metric, too."""
        if time.monotonic() < self._until:
            return self._found
        began = time.monotonic()
        try:
            with reading(self._engine) as connection:
                found = list(read(connection, minutes=self._minutes, models=self._models))
            up = 1
        except DatabaseUnavailable as error:
            log.warning("metrics_not_read", error=str(error))
            found, up = [], 0
        took = time.monotonic() - began
        found.append(_gauge("ledger_up", "1 if the ledger could be read.", {(): up}))
        found.append(_gauge("scrape_seconds", "Seconds that reading the ledger took.", {(): took}))
        self._found, self._until = found, time.monotonic() + FRESH_SECONDS
        return found


def read(connection: sa.Connection, *, minutes: float, models: Sequence[str] = ()) -> Iterator[Metric]:
    """Yield every metric of the ledger."""
    scans = open_scans.open_scans(connection)
    n_open = open_scans.n_open(connection)
    yield _gauge("open_scans", "Scans that have not ended.", {(): n_open})
    yield from _of_scans(scans, at=now(connection).timestamp())
    yield from _failures(connection, scans)
    yield from _workers(connection)
    # What was read is summed, unless some open scans are not told apart.
    left = open_scans.left_of(scans) if n_open == len(scans) else open_scans.images_left(connection)
    yield from _wanted(connection, dict.fromkeys(models, 0) | left, minutes)
    yield from _answers(connection)
    yield from _adapters(connection)


def _of_scans(scans: list[OpenScan], *, at: float) -> Iterator[Metric]:
    outcomes = _empty_gauge("scan_images", "Images of open scans by outcome.", (*SCAN, "outcome"))
    for scan in scans:
        counts = {
            "clear": scan.n_clear, "review": scan.n_review, "flag": scan.n_flagged, "failed": scan.n_failures,
            "pending": scan.n_pending, "leased": scan.n_leased,
        }  # fmt: skip
        for outcome, n in counts.items():
            outcomes.add_metric([*_names(scan), outcome], n)
    yield outcomes
    figures: dict[str, tuple[str, Callable[[OpenScan], float]]] = {
        "scan_reused": ("Images of open scans answered by an earlier scoring.", lambda scan: scan.n_reused),
        "scan_batches_ready": ("Batches that no worker has.", lambda scan: scan.n_batches_ready),
        "scan_batches_leased": ("Batches that a worker has.", lambda scan: scan.n_batches_leased),
        "scan_retries": ("Claims of batches beyond their first.", lambda scan: scan.n_retries),
        "scan_paused": ("1 if the scan is paused.", lambda scan: scan.state == "paused"),
        "scan_waiting": ("1 if the scan waits for its store.", lambda scan: scan.waiting_for is not None),
        "scan_flag_ratio": ("Share of answers that flag.", _flag_ratio),
        "scan_oldest_pending_seconds": (
            "Age of the scan while images of it have no answer, else 0.",
            lambda scan: at - scan.created_at.timestamp() if scan.n_pending + scan.n_leased else 0.0,
        ),
    }
    for name, (words, value) in figures.items():
        yield _gauge(name, words, {_names(scan): float(value(scan)) for scan in scans}, SCAN)


def _names(scan: OpenScan) -> tuple[str, str, str]:
    return scan.id, scan.check, scan.model


def _flag_ratio(scan: OpenScan) -> float:
    answered = scan.n_clear + scan.n_review + scan.n_flagged
    return scan.n_flagged / answered if answered else 0.0


def _failures(connection: sa.Connection, scans: list[OpenScan]) -> Iterator[Metric]:
    names = {scan.id: _names(scan) for scan in scans}
    found = open_scans.failures_by_reason(connection, list(names))
    by_reason = {(*names[scan], stage, reason): n for (scan, stage, reason), n in found.items()}
    yield _gauge("scan_failures", "Failed images of open scans.", by_reason, (*SCAN, "stage", "reason"))
    killers = {names[scan]: n for (scan, _, reason), n in found.items() if reason == KILLER}
    yield _gauge("scan_quarantined", "Images that end the process that reads them.", killers, SCAN)


def _workers(connection: sa.Connection) -> Iterator[Metric]:
    models = totals.models_of_queues(connection)
    alive = totals.living(connection, silent_seconds=SILENT_SECONDS)
    ever = totals.totals(connection)
    name = {queue: (models.get(queue, queue),) for queue in (*ever, *alive)}
    model = ("model",)
    living = {name[queue]: alive[queue].n if queue in alive else 0 for queue in ever}
    yield _gauge("workers", "Workers that live.", living, model)
    waiting = {name[queue]: each.n_waiting for queue, each in alive.items()}
    yield _gauge("workers_waiting", "Of these, those that cannot start.", waiting, model)
    load = {name[queue]: each.load_seconds for queue, each in alive.items() if each.load_seconds is not None}
    yield _gauge("load_seconds", "Longest time from the start of a living worker to its first batch.", load, model)
    counters: dict[str, tuple[str, Mapping[Any, float]]] = {
        "images_scored": ("Images scored.", {name[queue]: each.n_images for queue, each in ever.items()}),
        "workers_started": ("Workers started.", {name[queue]: each.n_started for queue, each in ever.items()}),
        "workers_ended": (
            "Workers that ended themselves.",
            {name[queue]: each.n_ended for queue, each in ever.items()},
        ),
        "worker_seconds": (
            "Seconds of workers with batches under way.",
            {name[queue]: each.seconds["under_way"] for queue, each in ever.items()},
        ),
        "device_idle_seconds": (
            "Of these, seconds without work for the device.",
            {name[queue]: each.seconds["idle"] for queue, each in ever.items()},
        ),
    }
    for counter, (words, values) in counters.items():
        yield _counter(counter, words, values, model)
    seconds = {(*name[queue], stage): each.seconds[stage] for queue, each in ever.items() for stage in STAGES}
    yield _counter("stage_seconds", "Seconds of each stage.", seconds, ("model", "stage"))


def _wanted(connection: sa.Connection, left: Mapping[str, int], minutes: float) -> Iterator[Metric]:
    models = sorted({*totals.models_of_queues(connection).values(), *left})
    measured = {model: rates.last_rate(connection, model) for model in models}
    wanted = {(model,): rates.wanted(left.get(model, 0), rate, minutes=minutes) for model, rate in measured.items()}
    yield _gauge("workers_wanted", "Workers that finish what is open in time.", wanted, ("model",))
    rate_of = {(model,): rate.images_per_second for model, rate in measured.items() if rate is not None}
    yield _gauge("worker_rate", "Images/s of one worker, as last measured.", rate_of, ("model",))


def _answers(connection: sa.Connection) -> Iterator[Metric]:
    answers = recent.newest_answers(connection)
    check = ("check",)
    scores = HistogramMetricFamily(
        "scanfleet_recent_score", "Calibrated scores among the newest answers.", labels=check
    )
    for name, each in answers.items():
        buckets = [(str(edge), float(n)) for edge, n in zip(recent.EDGES, each.up_to, strict=True)]
        scores.add_metric([name], buckets=[*buckets, ("+Inf", float(each.n_scored))], sum_value=each.score_sum)
    yield scores
    figures: dict[str, tuple[str, Callable[[Answers], float]]] = {
        "recent_answers": ("Of the newest answers, those of the check.", lambda each: each.n),
        "recent_flag_ratio": ("Share of these that flag.", lambda each: each.n_flagged / each.n),
        "recent_label_mass": ("Mean probability of all labels together.", lambda each: each.mass),
        "recent_low_mass_ratio": ("Share of answers with improbable labels.", lambda each: each.n_low / each.n),
    }
    for figure, (words, value) in figures.items():
        yield _gauge(figure, words, {(name,): value(each) for name, each in answers.items()}, check)
    people = recent.newest_corrections(connection)
    labelled = {(name,): each.n for name, each in people.items()}
    yield _gauge("recent_labels", "Newest labels of people who saw an answer.", labelled, check)
    corrected = {(name,): each.n_corrected for name, each in people.items()}
    yield _gauge("recent_corrections", "Of these, those that differ from it.", corrected, check)


def _adapters(connection: sa.Connection) -> Iterator[Metric]:
    champions = InfoMetricFamily("scanfleet_champion", "The adapter in use.", labels=("check", "model"))
    since = _empty_gauge("champion_since_seconds", "When it was put in use, in Unix time.", ("check", "model"))
    for row in connection.execute(sa.select(Champion.__table__).order_by(Champion.since.desc()).limit(MAX_CHAMPIONS)):
        names = [row.check_name, row.base_model]
        champions.add_metric(names, {"adapter": "none" if row.adapter_id is None else str(row.adapter_id)})
        since.add_metric(names, row.since.timestamp())
    yield champions
    yield since
    trainings = {(state,): n for state, n in totals.trainings_by_state(connection).items()}
    yield _gauge("trainings", "Trainings by state.", trainings, ("state",))


def _empty_gauge(name: str, words: str, labels: tuple[str, ...]) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"scanfleet_{name}", words, labels=labels)


def _gauge(name: str, words: str, values: Mapping[Any, float], labels: tuple[str, ...] = ()) -> GaugeMetricFamily:
    found = _empty_gauge(name, words, labels)
    for key, value in values.items():
        found.add_metric(key, value)
    return found


def _counter(name: str, words: str, values: Mapping[Any, float], labels: tuple[str, ...]) -> CounterMetricFamily:
    found = CounterMetricFamily(f"scanfleet_{name}", words, labels=labels)
    for key, value in values.items():
        found.add_metric(key, value)
    return found
