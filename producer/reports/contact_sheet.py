"""The contact sheet: the outcome of a scan, and the images that a person should see, in one HTML file.

Whatever comes from outside (names, labels, reasons, manifests) is escaped, and no script runs but the page's own.
"""

from __future__ import annotations

import base64
import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import jinja2
import sqlalchemy as sa

from scanfleet.checks.check import Check
from scanfleet.config.settings import Settings
from scanfleet.db.engine import reading
from scanfleet.db.results.brief import iter_brief, results_of
from scanfleet.db.results.results import Result, ResultFilter
from scanfleet.db.scans.checks import get_check
from scanfleet.decoding.pool import Decoders
from scanfleet.errors import RequestError
from scanfleet.producer.reports.agreement import Agreement
from scanfleet.producer.reports.output import require_place, target
from scanfleet.producer.reports.sheet import charts, wording
from scanfleet.producer.reports.sheet.cards import Card, make_card
from scanfleet.producer.reports.sheet.pictures import Pictures
from scanfleet.producer.reports.sheet.selection import KINDS, Order, Sheet, Wanted
from scanfleet.producer.reports.sheet.truth import labels_by_content
from scanfleet.producer.reports.summary import Summary, summarise
from scanfleet.producer.reports.times import times_in_words

MAX_IMAGES = 200


@dataclass(frozen=True, kw_only=True)
class Section:
    """The images of one kind. n_matching: shown or not."""

    kind: str
    title: str
    meaning: str
    n_matching: int
    cards: list[Card]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Answers against what is known to be true. against: the column of a manifest, or whose labels."""

    against: str
    found: Agreement
    rates: list[charts.Rate]


def write_report(
    engine: sa.Engine,
    settings: Settings,
    scan_id: str,
    path: Path,
    *,
    truth_column: str | None = None,
    max_images: int = MAX_IMAGES,
    wanted: ResultFilter | None = None,
    wrong: bool = False,
    order: Order | None = None,
) -> int:
    """Write the sheet of a scan and return how many images are shown.

    It shows answers that truth or labels contradict, then reviews, then flags, in equal shares of `max_images`;
    `wanted`, `wrong` and `order` choose otherwise. Raises UnknownName, RequestError.
    """
    require_place(path)
    summary = summarise(engine, scan_id)
    chosen = replace(wanted or ResultFilter(), scan=summary.scan.id)
    request = Wanted(filter=chosen, truth=truth_column, wrong=wrong, order=order, limit=max_images)
    with reading(engine) as connection:
        check = get_check(connection, summary.scan.check_id)
    sheet = Sheet(check, request, labels_by_content(engine, check.name))
    for image in iter_brief(engine, request.scope):
        sheet.add(image)
    _require_truth(sheet, summary)
    sections = _sections(engine, settings, sheet, summary)
    page = _page(summary, check, sheet, sections)
    with target(path, form="html") as file:
        file.write(page.encode())
    return sum(len(section.cards) for section in sections)


def _require_truth(sheet: Sheet, summary: Summary) -> None:
    wanted, scan = sheet.wanted, summary.scan.id
    if wanted.truth is not None and summary.progress.n_images and not sheet.by_truth.cells:
        raise RequestError(f"--truth {wanted.truth}: no image of scan {scan} has a label of the check in that column")
    if wanted.wrong and not sheet.by_truth.cells and not sheet.by_label.cells:
        raise RequestError(
            f"--wrong: nothing is known to be true of scan {scan}: name a column of its manifest with --truth, or add "
            "labels (`scanfleet labels add`)"
        )


def _sections(engine: sa.Engine, settings: Settings, sheet: Sheet, summary: Summary) -> list[Section]:
    chosen, matching = sheet.chosen(), sheet.matching()
    ids = [image_id for kind in chosen for image_id in chosen[kind]]
    with reading(engine, long=True) as connection:
        results = results_of(connection, summary.scan.id, ids, as_of=sheet.wanted.filter.as_of)
    cards = _cards(settings, sheet, results, _known(summary))
    return [
        Section(
            kind=kind,
            title=wording.SECTIONS[kind],
            meaning=wording.section_in_words(kind, sheet.tally.faults),
            n_matching=matching[kind],
            cards=[cards[image_id] for image_id in chosen[kind] if image_id in cards],
        )
        for kind in KINDS
        if kind in chosen
    ]


def _cards(settings: Settings, sheet: Sheet, results: list[Result], known: list[str]) -> dict[int, Card]:
    """Return cards by image id. Pictures are fetched and decoded several at once."""
    with Decoders(settings) as decoders, ThreadPoolExecutor(settings.fetch_threads) as pool:
        pictures = Pictures(settings, decoders, n=len(results))
        drawn = pool.map(pictures.drawn, results)
        made: dict[int, Card] = {}
        for result, picture in zip(results, drawn, strict=True):
            said, truth = sheet.said_of(result.content_sha256), sheet.truth_of(result.meta)
            fault = sheet.fault_of(result, said)
            made[result.image_id] = make_card(result, picture, truth=truth, said=said, fault=fault, known=known)
    return made


def _known(summary: Summary) -> list[str]:
    """Return what the page says once, so that no card repeats it."""
    why = None if summary.unexplained is None else summary.unexplained.reason
    return [reason for reason in (summary.no_boxes, why) if reason is not None]


def _page(summary: Summary, check: Check, sheet: Sheet, sections: list[Section]) -> str:
    tally = sheet.tally
    decided = {decision: tally.decided(decision) for decision in reversed(charts.DECISIONS)}
    scored = charts.histogram(tally.scores, low=0, high=1, unit="score")
    style, script = (_source(name) for name in ("report.css", "report.js"))
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            summary=summary,
            check=check,
            tally=tally,
            decided=decided,
            shares=charts.share_bar(decided | {"failed": tally.states["failed"]}),
            narrowed=wording.filters_in_words(sheet.wanted.scope),
            chosen=wording.filters_in_words(sheet.wanted.filter) + (["wrong answers"] if sheet.wanted.wrong else []),
            meanings=wording.decisions_in_words(check, summary.scorers),
            score_meaning=wording.score_in_words(check, summary.scorers),
            comparisons=_comparisons(sheet),
            histogram=scored or charts.histogram(tally.margins, low=-10, high=10, unit="margin"),
            stages=charts.stages(summary.times),
            times=times_in_words(summary.times),
            sections=sections,
            order=sheet.wanted.order,
            made_at=datetime.now(UTC),
            style=style,
            script=script,
            style_hash=_hash(style),
            script_hash=_hash(script),
        )
    )


def _comparisons(sheet: Sheet) -> list[Comparison]:
    """Compare with the manifest, and with the ledger's labels; those drawn at random represent the archive."""
    found = (
        (f"column {sheet.wanted.truth} of the manifest", sheet.by_truth),
        ("people's labels", sheet.by_label),
        ("people's labels of images drawn at random", sheet.by_random_label),
    )
    return [
        Comparison(against=against, found=agreement, rates=wording.rates(agreement))
        for against, agreement in found
        if agreement.cells
    ]


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("scanfleet.producer"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _source(name: str) -> str:
    text: str = (Path(__file__).parents[1] / "templates" / name).read_text(encoding="utf-8")
    return text


def _hash(text: str) -> str:
    """Return what a content security policy calls the source of an inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
