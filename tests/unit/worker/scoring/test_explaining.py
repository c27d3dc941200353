"""Explanations through a worker: flagged images have one, answers are those without, and no error reaches an image."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from scanfleet.checks.check import Check
from scanfleet.checks.explanation import Explanation
from scanfleet.db.engine import reading
from scanfleet.db.queries.scan_sums import sums_of_scan
from scanfleet.db.results.results import ResultFilter, iter_results, known_identities
from scanfleet.db.tables import Batch, CheckRow, Image, ScorerRow, Verdict
from scanfleet.errors import DeviceUnavailable
from scanfleet.models.fake import FakeExplainer, FakePrepared
from scanfleet.models.inputs.sources import POCKET
from scanfleet.models.types import Explainer, Question, Reading, Written
from scanfleet.producer.reports.export import as_record
from scanfleet.worker.scoring.explanations import EMPTY, LONGEST, UNTAUGHT, explanation_of
from scanfleet.worker.scoring.model import FakeModel
from tests.rigs.many_questions import ManyModel, question_named
from tests.rigs.worker_rig import Rig, add_scan, png, rig

PLAIN = Check(name="guns", prompt="Is there a gun?", labels=("gun", "none"), flags=("gun",))
CHECK = PLAIN.model_copy(update={"explain": True})
PICTURES = {f"mem://a/{n:02}.png": png(n) for n in range(12)}


class Speaking(FakeModel):
    """Explains by `says`, and counts the images; an Exception is raised."""

    def __init__(self, says: Written | Exception | None = None) -> None:
        super().__init__()
        self.says = says
        self.tokens: set[int] = set()
        self.n = 0

    def explainer(self, question: Question, adapter: Path | None, *, tokens: int) -> Explainer:
        model, real = self, FakeExplainer()
        self.tokens.add(tokens)

        class Speaker:
            def job(self, prepared: FakePrepared, reading: Reading) -> FakePrepared:
                return real.job(prepared, reading)

            def explain(self, jobs: Sequence[FakePrepared], *, heartbeat: Any) -> list[Written]:
                model.n += len(jobs)
                if isinstance(model.says, Exception):
                    raise model.says
                return real.explain(jobs, heartbeat=heartbeat) if model.says is None else [model.says] * len(jobs)

        return cast("Explainer", Speaker())


def answers(worker: Rig, scan: str) -> dict[str, dict[str, Any]]:
    """What the verdicts of a scan say, without their explanations, by uri."""
    uris = {row.id: row.uri for row in worker.rows(Image, Image.scan_id == scan)}
    names = ("label", "decision", "score", "margin", "mass", "logits", "scorer_id", "content_sha256")
    rows = worker.rows(Verdict, Verdict.scan_id == scan)
    return {uris[row.image_id]: {name: getattr(row, name) for name in names} for row in rows}


def explanations(worker: Rig, scan: str) -> dict[str, Explanation | None]:
    """By uri."""
    uris = {row.id: row.uri for row in worker.rows(Image, Image.scan_id == scan)}
    rows = worker.rows(Verdict, Verdict.scan_id == scan)
    return {uris[row.image_id]: Explanation.read(row.explanation) for row in rows}


def flagged(worker: Rig, scan: str) -> set[str]:
    found = {uri for uri, answer in answers(worker, scan).items() if answer["decision"] == "flag"}
    assert 0 < len(found) < len(PICTURES)
    return found


def scanned(worker: Rig, check: Check = CHECK) -> str:
    scan = worker.scan(PICTURES, check=check)
    worker.drain()
    assert worker.progress(scan).n_verdicts == len(PICTURES)
    return scan


def test_flagged_images_are_explained_and_answers_are_those_without(tmp_path: Path) -> None:
    with rig(tmp_path / "on", model=(model := Speaking())) as worker:
        scan = scanned(worker)
        with_them, found, flags = answers(worker, scan), explanations(worker, scan), flagged(worker, scan)
        records = {each.uri: as_record(each) for each in iter_results(worker.engine, ResultFilter(scan=scan))}
        seconds = [batch.seconds["explaining"] for batch in worker.rows(Batch)]
    with rig(tmp_path / "off") as worker:
        assert answers(worker, scanned(worker, PLAIN)) == with_them
    assert {uri for uri, each in found.items() if each is not None} == flags
    for uri in flags:
        text = str(records[uri]["explanation"])
        assert text.startswith("The picture reads ")
        assert found[uri] == Explanation(text=text)
    assert {records[uri]["explanation"] for uri in records.keys() - flags} == {None}
    assert (model.n, model.tokens) == (len(flags), {48})
    assert sum(seconds) > 0  # of a quick batch little more than nothing is left by rounding


def test_both_versions_of_a_check_have_one_scorer_which_names_the_one_without(tmp_path: Path) -> None:
    with rig(tmp_path, model=(model := Speaking())) as worker:
        plain, asked = scanned(worker, PLAIN), scanned(worker)
        (scorer,) = worker.rows(ScorerRow)
        names = {row.id: Check.model_validate(row.body) for row in worker.rows(CheckRow)}
        assert names[scorer.check_id] == PLAIN
        # Flags that nobody explained are read again, the others are taken over.
        flags = flagged(worker, plain)
        assert flagged(worker, asked) == flags
        reused = {row.image_id for row in worker.rows(Verdict, Verdict.reused_from.is_not(None))}
        assert {row.uri for row in worker.rows(Image, Image.id.in_(reused))} == PICTURES.keys() - flags
        assert model.n == len(flags)
        # What was explained is taken over, with its text.
        again = scanned(worker)
        assert explanations(worker, again) == explanations(worker, asked)
        assert worker.progress(again).n_reused == len(PICTURES)
        assert model.n == len(flags)
        identities = [row.identity for row in worker.rows(Image, Image.scan_id == plain)]
        with reading(worker.engine) as connection:
            known = known_identities(connection, check_hash=CHECK.scored_hash, model="fake", identities=identities)
        assert known == set(identities)


def test_flags_without_an_explanation_do_not_count_as_known(tmp_path: Path) -> None:
    with rig(tmp_path, model=Speaking()) as worker:
        plain = scanned(worker, PLAIN)
        images = worker.rows(Image, Image.scan_id == plain)
        found = {}
        with reading(worker.engine) as connection:
            for explained in (False, True):
                found[explained] = known_identities(
                    connection,
                    check_hash=CHECK.scored_hash,
                    model="fake",
                    identities=[row.identity for row in images],
                    explained=explained,
                )
        flags = flagged(worker, plain)
    assert found[False] == {row.identity for row in images}
    assert found[True] == {row.identity for row in images if row.uri not in flags}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (DeviceUnavailable("the server is away"), "the server is away"),
        (KeyError("a\n\0bug"), "unexpected KeyError: 'a\\n\\x00bug'"),
    ],
)
def test_an_error_is_noted_and_the_image_has_its_answer(tmp_path: Path, error: Exception, words: str) -> None:
    with rig(tmp_path, model=(model := Speaking(error))) as worker:
        scan = scanned(worker)
        flags = flagged(worker, scan)
        assert {uri: explanations(worker, scan)[uri] for uri in flags} == dict.fromkeys(
            flags, Explanation(problem=words)
        )
        assert worker.progress(scan).n_failures == 0
        with reading(worker.engine) as connection:
            missing = sums_of_scan(connection, scan).unexplained
        assert missing is not None
        assert (missing.n, missing.reason) == (len(flags), words)
        # A later scan tries again.
        model.says = None
        later = scanned(worker)
        assert all(each is None or each.text for each in explanations(worker, later).values())
        with reading(worker.engine) as connection:
            assert sums_of_scan(connection, later).unexplained is None


def test_a_model_that_cannot_write_says_so_once_and_is_not_asked_again(tmp_path: Path) -> None:
    class Pocket(Speaking):
        def __init__(self) -> None:
            super().__init__()
            self.identity = type(self.identity)(**vars(self.identity) | {"base_model": POCKET})

    with rig(tmp_path, model=(model := Pocket())) as worker:
        first = scanned(worker)
        flags = flagged(worker, first)
        assert {explanations(worker, first)[uri] for uri in flags} == {Explanation(problem=UNTAUGHT, lasting=True)}
        assert worker.progress(scanned(worker)).n_reused == len(PICTURES)
    assert model.n == 0


def test_what_is_stored_of_a_text() -> None:
    assert explanation_of(Written(text="  a sign\n", cut=False)) == Explanation(text="a sign")
    assert explanation_of(Written(text="a sign ", cut=True)) == Explanation(text="a sign…")
    assert explanation_of(Written(text="a\0b\ud800", cut=False)) == Explanation(text="ab?")
    assert explanation_of(Written(text=" \n", cut=False)) == Explanation(problem=EMPTY, lasting=True)
    long = explanation_of(Written(text="x" * 10_000, cut=False))
    assert long.text == "x" * LONGEST + "…"
    assert Explanation.read(json.loads(json.dumps(long.record()))) == long
    assert explanation_of(RuntimeError("y" * 10_000)).complete is False


def test_in_a_pass_flagged_images_are_read_again_by_the_scan_that_explains(tmp_path: Path) -> None:
    logo, knife = question_named("logo"), question_named("knife", explain=True)
    with rig(tmp_path, model=(model := ManyModel())) as worker:
        images = worker.put(PICTURES)
        _, explained = [add_scan(worker.engine, images, check=check, pass_id="p") for check in (logo, knife)]
        worker.drain()
        flags = flagged(worker, explained)
        assert {uri for uri, each in explanations(worker, explained).items() if each is not None} == flags
    assert model.n_images() == {("logo", "knife"): len(PICTURES), ("knife",): len(flags)}
