"""Collects the outcome of a scan from the ledger."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from scanfleet.db.engine import reading
from scanfleet.db.queries.listing import first_results
from scanfleet.db.queries.scan_sums import FrameCounts, Unexplained, sums_of_scan
from scanfleet.db.results.results import ResultFilter, count_failures, iter_results
from scanfleet.db.results.scorers import ScorerUse
from scanfleet.db.scans import scans
from scanfleet.db.scans.checks import get_check
from scanfleet.db.scans.scans import Progress, ScanInfo
from scanfleet.db.tallies.scan_sums import times_of_scan
from scanfleet.producer.reports.agreement import Agreement
from scanfleet.producer.reports.explanations import Entry, entry
from scanfleet.producer.scans.wait import progress_of
from scanfleet.stats.stage_times import StageTimes


@dataclass(frozen=True, kw_only=True)
class Summary:
    scan: ScanInfo
    progress: Progress
    answers: dict[tuple[str, str], int]  # (decision, label) -> images
    failures: dict[tuple[str, str], int]  # (stage, reason) -> images
    scorers: list[ScorerUse]
    explanations: list[Entry]  # the scorers, for people
    times: StageTimes  # of the attempts that completed its batches
    flags: tuple[str, ...]  # labels of the check that flag
    frames: FrameCounts  # files with several pictures
    no_boxes: str | None  # why the boxes that the check asks for are missing
    unexplained: Unexplained | None = None  # flags without the explanation that the check asks for

    @property
    def warnings(self) -> list[str]:
        """The distinct warnings of all scorers."""
        return warnings_of(self.explanations)


def warnings_of(explanations: list[Entry]) -> list[str]:
    """Return each warning once."""
    return list(dict.fromkeys(warning for entry in explanations for warning in entry.warnings))


def summarise(engine: sa.Engine, scan_id: str) -> Summary:
    with reading(engine, long=True) as connection:
        scan = scans.get_scan(connection, scan_id)
        sums = sums_of_scan(connection, scan.id)
        check = get_check(connection, scan.check_id)
        return Summary(
            scan=scan,
            progress=progress_of(connection, scan),
            answers=sums.answers,
            failures=count_failures(connection, scan.id),
            scorers=sums.scorers,
            explanations=[
                entry(scorer, has_flags=bool(check.flags), check=scan.check, prevalence=check.prevalence)
                for scorer in sums.scorers
            ],
            times=times_of_scan(connection, scan.id),
            flags=check.flags,
            frames=sums.frames,
            no_boxes=_why_no_boxes(engine, scan.id),
            unexplained=sums.unexplained,
        )


def _why_no_boxes(engine: sa.Engine, scan_id: str) -> str | None:
    """Return the reason of the first flagged image: all have the same."""
    for result in first_results(engine, ResultFilter(scan=scan_id, decision="flag"), limit=1):
        if result.boxes is None and result.box_problems:
            return str(result.box_problems[0])
    return None


def measure_agreement(engine: sa.Engine, scan: ScanInfo, truth_column: str) -> Agreement:
    """Compare every answer with the column `truth_column` of the manifest."""
    with reading(engine, long=True) as connection:
        check = get_check(connection, scan.check_id)
    found = Agreement(check.labels, check.flags)
    for result in iter_results(engine, ResultFilter(scan=scan.id)):
        found.add((result.meta or {}).get(truth_column), label=result.label, decision=result.decision)
    return found
