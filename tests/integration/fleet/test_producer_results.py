"""Results read from the ledger of either database: filters, pages, and nothing silently missing."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from scanfleet.checks.check import load_check
from scanfleet.checks.frame_result import FrameResult
from scanfleet.config.settings import Settings, load_settings
from scanfleet.db.engine import connect, reading, transaction
from scanfleet.db.labels.unlabelled import recent_unlabelled
from scanfleet.db.queries.listing import top_results
from scanfleet.db.queries.scan_sums import FrameCounts, sums_of_scan
from scanfleet.db.results import answers, verdicts
from scanfleet.db.results.answers import NewVerdict
from scanfleet.db.results.results import ResultFilter, iter_results
from scanfleet.db.results.scorers import ScorerSpec, scorer_id
from scanfleet.db.results.verdicts import Outcome
from scanfleet.db.scans import batches, new_images, scans
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.tables import Scan, ScorerRow
from scanfleet.errors import ImageError
from scanfleet.messages import score_queue
from scanfleet.producer.reports.contact_sheet import write_report
from scanfleet.producer.reports.summary import measure_agreement, summarise
from scanfleet.producer.scans.session import preview
from scanfleet.producer.sources.base import Candidate
from scanfleet.producer.sources.filters import Filters
from scanfleet.producer.sources.listing import Listing
from tests.helpers.migrated import upgrade

QUEUE = score_queue("fake")
LABELS = ("overlay", "natural", "none")


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return load_settings(database_url=database_url, data_dir=tmp_path, model="fake")


@pytest.fixture
def engine(settings: Settings) -> Iterator[sa.Engine]:
    engine = connect(settings)
    upgrade(engine)
    yield engine
    engine.dispose()


def listed(n: int) -> list[NewImage]:
    """Every third one is truly an overlay."""
    return [
        NewImage(uri=f"s3://B/{number:03}_a%.jpg", etag="1", size=10, meta={"truth": LABELS[number % 3]})
        for number in range(n)
    ]


def answer(image: batches.ClaimedImage, position: int) -> NewVerdict:
    return NewVerdict(
        image_id=image.id,
        identity=image.identity,
        content_sha256=f"sha-{image.uri}",
        width=10,
        height=20,
        label=LABELS[position % 3],
        decision=("flag", "review", "clear")[position % 3],
        score=position / 100,
        margin=position - 10.0,
        mass=1.0,
        logits=(1.0, 0.0, 0.0),
    )


def scored_scan(engine: sa.Engine, *, n: int = 30) -> str:
    """Batch of ten scored but its last image failed, batch of ten pending, batch of ten pending."""
    with transaction(engine) as connection:
        scan, _ = scans.open_scan(
            connection, check=load_check("overlay"), model="fake", sources=["s3://B"], filters={}, fresh=True
        )
        new_images.add_images(connection, scan_id=scan.id, queue=QUEUE, images=listed(n), batch_images=10)
        connection.execute(sa.update(Scan).values(n_listed=n))
        held = batches.claim(connection, model="fake", worker="w", lease_seconds=60)
        assert held is not None
        spec = ScorerSpec(
            check_id=held.check_id,
            base_model="fake",
            base_revision="1",
            precision="fp32",
            adapter_id=None,
            max_pixels=100,
            crop="never",
            calibrator={"a": 1.0},
            thresholds=None,
        )
        *scored, failed = held.images
        outcome = Outcome(
            scorer_id=scorer_id(connection, spec),
            verdicts=[answer(image, position) for position, image in enumerate(scored)],
            failures={failed.id: ImageError(stage="decode", reason="truncated", detail="cut")},
        )
        verdicts.write(connection, held, outcome)
    return scan.id


def test_every_image_is_there_whatever_became_of_it(engine: sa.Engine) -> None:
    scan_id = scored_scan(engine)
    with transaction(engine) as connection:
        scans.cancel(connection, scan_id)
    found = list(iter_results(engine, ResultFilter(scan=scan_id), page_images=7))
    assert [result.uri for result in found] == [image.uri for image in listed(30)]
    states = [result.state for result in found]
    assert (states.count("verdict"), states.count("failed"), states.count("cancelled")) == (9, 1, 20)
    failed = found[9]
    assert failed.failure is not None
    assert (failed.failure.reason, failed.label, failed.scorer) == ("truncated", None, None)
    verdict = found[0]
    assert verdict.scorer is not None
    assert (verdict.scorer.base_model, verdict.scorer.adapter, verdict.calibrated) == ("fake", None, True)
    assert (verdict.score, verdict.content_sha256, verdict.width) == (0.0, "sha-s3://B/000_a%.jpg", 10)


def test_frames_are_stored_counted_and_reused(engine: sa.Engine) -> None:
    scan_id = scored_scan(engine)
    stored = FrameResult(n_frames=9, n_scored=8, frame=3, seconds=0.5, reason="frames")
    second = FrameResult(n_frames=2, n_scored=2, frame=0)
    with transaction(engine) as connection:
        held = batches.claim(connection, model="fake", worker="w", lease_seconds=60)
        assert held is not None
        given = [replace(answer(held.images[0], 0), frames=stored, notes=("on black",))]
        given += [replace(answer(held.images[1], 1), frames=second), answer(held.images[2], 2)]
        scorer = connection.execute(sa.select(ScorerRow.id)).scalar_one()
        verdicts.write(connection, held, Outcome(scorer_id=scorer, verdicts=given, failures={}, waiting_for="x"))
    with reading(engine) as connection:
        assert sums_of_scan(connection, scan_id).frames == FrameCounts(n_files=2, n_partly=1, n_frames=11, n_scored=10)
        sample = recent_unlabelled(connection, "overlay", limit=99, seed=0)
        earlier = answers.answers_by_content(connection, scorer, [given[0].content_sha256, given[2].content_sha256])
    assert {one.frame for one in sample} == {3, 0, None}
    assert (earlier[given[0].content_sha256].frames, earlier[given[0].content_sha256].notes) == (stored, ("on black",))
    assert (earlier[given[2].content_sha256].frames, earlier[given[2].content_sha256].notes) == (None, ())
    found = {each.uri: each for each in iter_results(engine, ResultFilter(scan=scan_id, state="verdict"))}
    several = found[held.images[0].uri]
    assert (several.frames, several.notes, several.calibrated) == (stored, ["on black"], False)


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        (ResultFilter(label="overlay"), [0, 3, 6]),
        (ResultFilter(decision="review"), [1, 4, 7]),
        (ResultFilter(min_score=0.05), [5, 6, 7, 8]),
        (ResultFilter(max_score=0.01), [0, 1]),
        (ResultFilter(min_score=0.02, max_score=0.04, decision="clear"), [2]),
        (ResultFilter(state="failed"), [9]),
        (ResultFilter(prefix="s3://B/00"), list(range(10))),
        (ResultFilter(prefix="s3://b/00"), []),
        (ResultFilter(prefix="s3://B/001_a%"), [1]),
        (ResultFilter(prefix="s3://B/0_1"), []),
        (ResultFilter(uri="s3://B/005_a%.jpg"), [5]),
        (ResultFilter(scan="other"), []),
    ],
)
def test_filters(engine: sa.Engine, wanted: ResultFilter, numbers: list[int]) -> None:
    scored_scan(engine)
    found = [int(result.uri[7:10]) for result in iter_results(engine, wanted, page_images=2)]
    assert found == numbers


@pytest.mark.parametrize("limit", [1, 4, 5, 30, 99])
def test_a_limit_cuts_across_pages(engine: sa.Engine, limit: int) -> None:
    scored_scan(engine)
    assert len(list(iter_results(engine, ResultFilter(), limit=limit, page_images=4))) == min(limit, 30)


def test_the_highest_scores_come_first(engine: sa.Engine) -> None:
    scored_scan(engine)
    with reading(engine) as connection:
        found = top_results(connection, ResultFilter(decision="flag"), limit=2)
    assert [result.score for result in found] == [0.06, 0.03]


def test_a_summary_adds_up_and_compares_with_the_truth(engine: sa.Engine) -> None:
    scan_id = scored_scan(engine)
    summary = summarise(engine, scan_id)
    assert summary.answers == {("clear", "none"): 3, ("flag", "overlay"): 3, ("review", "natural"): 3}
    assert summary.failures == {("decode", "truncated"): 1}
    found = measure_agreement(engine, summary.scan, "truth")
    assert (found.accuracy().k, found.accuracy().n) == (9, 9)
    assert (found.n_unanswered, found.n_unanswered_flags) == (21, 7)
    assert measure_agreement(engine, summary.scan, "nothing").n_unknown == 30


def test_a_preview_knows_what_was_scored(engine: sa.Engine) -> None:
    class Listed:
        name = "s3://B"
        sifts_by_suffix = False
        resumable = False
        root = None
        top = ""

        def candidates(self, *, after: str | None, skip: object) -> Iterator[Candidate]:
            for image in [*listed(12), NewImage(uri="s3://B/0.jpg", etag="other")]:
                yield Candidate(image=image, path=image.uri)

    scored_scan(engine)
    check = load_check("overlay")
    seen = preview(engine, Listing([Listed()], Filters()), checks=[check], model="fake")
    assert (seen.n_images, seen.n_bytes, seen.n_unsized, seen.n_scored[0]) == (13, 120, 1, 9)
    other = preview(engine, Listing([Listed()], Filters()), checks=[check], model="another")
    assert other.n_scored[0] == 0


def test_a_report_shows_what_it_cannot_fetch(engine: sa.Engine, settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "<b>pics"
    folder.mkdir()
    with transaction(engine) as connection:
        scan, _ = scans.open_scan(
            connection, check=load_check("overlay"), model="fake", sources=["<script>x"], filters={}
        )
        image = NewImage(uri=str(folder / "<img src=x>.jpg"), root=str(folder))
        new_images.add_images(connection, scan_id=scan.id, queue=QUEUE, images=[image], batch_images=10)
        held = batches.claim(connection, model="fake", worker="w", lease_seconds=60)
        assert held is not None
        spec = ScorerSpec(
            check_id=held.check_id,
            base_model="fake",
            base_revision="1",
            precision="fp32",
            adapter_id=None,
            max_pixels=100,
            crop="never",
            calibrator=None,
            thresholds=None,
        )
        flagged = [answer(image, 0) for image in held.images]
        scorer = scorer_id(connection, spec)
        verdicts.write(connection, held, Outcome(scorer_id=scorer, verdicts=flagged, failures={}))
    path = tmp_path / "report.html"
    assert write_report(engine, settings, scan.id, path) == 1
    page = path.read_text(encoding="utf-8")
    assert "gone: the file no longer exists" in page
    assert "<script>x" not in page
    assert "<img src=x>" not in page
    assert "&lt;img src=x&gt;.jpg" in page
