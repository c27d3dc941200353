"""`python -m worker.commands.compare`: the computing half of `scanfleet adapters compare`. Speaks JSON, one object a
line.

In, one line: {"adapter": ID, "against": ID, or null for the base alone}. Out: {"kind": "progress", "done", "total"}
while it goes on, {"kind": "report", "record", "lines", "notes"} at the end, and {"kind": "fault", "words", "exit_code"}
when it ends before its time. Nothing is written to the ledger.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa

from models.adapters.canary import try_canary
from models.adapters.card import AdapterCard, read_card
from models.errors import ModelInvalid, ModelUnavailable
from models.promotion import Facts, GateReport
from models.training.data.types import Example
from models.types import Question, Scorer
from scanfleet.checks.check import Check
from scanfleet.config.settings import Settings
from scanfleet.db.engine import reading
from scanfleet.db.labels.labels import CurrentLabel, iter_current_labels
from scanfleet.db.labels.unlabelled import recent_unlabelled
from scanfleet.db.scans.checks import resolve_check
from scanfleet.db.schema import ledger
from scanfleet.db.training import trainings
from scanfleet.db.training.adapters import AdapterInfo, get_adapter
from scanfleet.errors import BadLabels, BadSettings, DeviceUnavailable
from worker.evaluation.calibrate import calibrated
from worker.evaluation.compare import Candidate, GoldenSet, compare
from worker.evaluation.images import OpenChecked, bring, materialise
from worker.evaluation.slices import STYLE, styles
from worker.runtime.child_protocol import Reports, serve_request
from worker.scoring.adapters import AdapterFolders
from worker.scoring.factory import question_of
from worker.scoring.model import Model, load_model
from worker.training.compare_stage import LEARNT_FROM, Unlabelled, source_of

TELL_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    info: AdapterInfo
    folder: Path
    card: AdapterCard
    scorer: Scorer
    newest_label: int | None  # that its training knew of; None: it was made elsewhere

    @property
    def name(self) -> str:
        return f"adapter {self.info.id}"


def main() -> None:
    serve_request(_serve)


def _serve(settings: Settings, asked: dict[str, Any], _: IO[str], reports: Reports) -> None:
    with (
        ledger(settings) as engine,
        tempfile.TemporaryDirectory(prefix="compare-", dir=settings.make_folder("tmp")) as folder,
    ):
        try:
            comparison = Comparison(settings, engine, Path(folder), adapter=asked["adapter"], against=asked["against"])
            report = comparison.run(_Told(reports))
        except ModelInvalid as error:
            raise BadSettings(str(error)) from error
        except ModelUnavailable as error:
            raise DeviceUnavailable(str(error)) from error
    reports.send("report", record=report.record(), lines=report.lines(), notes=comparison.notes)


class Comparison:
    """Two adapters of one check, or one and the base alone, on the labels and images of now."""

    def __init__(self, settings: Settings, engine: sa.Engine, folder: Path, *, adapter: int, against: int | None):
        """Raises UnknownName, BadSettings, BadLabels, ModelInvalid."""
        self._settings, self._engine, self._folder = settings, engine, folder
        self.notes: list[str] = []
        with reading(engine) as connection:
            info = get_adapter(connection, adapter)
            rival = None if against is None else get_adapter(connection, against)
            self._check: Check = resolve_check(connection, info.check_name)
        if rival is not None and (rival.check_name, rival.base_model) != (info.check_name, info.base_model):
            raise BadSettings(
                f"adapter {against} is for check {rival.check_name} on {rival.base_model}, adapter {adapter} for check "
                f"{info.check_name} on {info.base_model}: compare adapters of one check and base model"
            )
        self._question: Question = question_of(self._check)
        self._labels = list(iter_current_labels(engine, info.check_name))
        if not any(label.split == "golden" for label in self._labels):
            raise BadLabels(
                f"check {info.check_name} has no golden images: `scanfleet labels import --split golden` pins some"
            )
        self._model: Model = load_model(settings)
        self._challenger = self._load(info)
        self._rival = None if rival is None else self._load(rival)

    def run(self, told: _Told) -> GateReport:
        """Raises Retryable while a store is away or the device fails."""
        golden = self._examples("golden")
        challenger = Candidate.of_card(self._challenger.name, self._challenger.scorer, self._challenger.card)
        return compare(
            question=self._question,
            golden=GoldenSet(examples=golden, recent=self._recent(), slices=self._slices(golden)),
            champion=self._champion(),
            challenger=challenger,
            shadow=self._shadow(),
            facts=self._facts(),
            watch=told,
        )

    def _load(self, info: AdapterInfo) -> _Loaded:
        folder = AdapterFolders(self._settings).find(info)
        known = None
        if info.training_id is not None:
            with reading(self._engine) as connection:
                training = trainings.find(connection, info.training_id)
            known = None if training is None else training.newest_label
        card = read_card(folder)
        if (card.question.labels, card.question.flags) != (self._question.labels, self._question.flags):
            raise BadSettings(f"adapter {info.id} answers other labels than check {self._check.name} has now")
        # Asked in its own words: whether they are the check's is the gate's affair.
        scorer = self._model.scorer(card.question, folder)
        return _Loaded(info=info, folder=folder, card=card, scorer=scorer, newest_label=known)

    def _champion(self) -> Candidate:
        if self._rival is not None:
            return Candidate.of_card(self._rival.name, self._rival.scorer, self._rival.card)
        scorer = self._model.scorer(self._question, None)
        found = calibrated(
            scorer,
            self._examples("calibration"),
            self._examples("threshold"),
            self._question,
            target_recall=self._check.target_recall,
            target_precision=self._check.target_precision,
        )
        return Candidate.of_base(scorer, found)

    def _examples(self, split: str) -> list[Example]:
        standing = [label for label in self._labels if label.split == split]
        examples, left_out = materialise(self._settings, standing, self._folder, self._question)
        if left_out:
            reasons = ", ".join(f"{n} {reason}" for reason, n in left_out.items())
            self.notes.append(f"{split} images left out: {reasons}")
        return examples

    def _recent(self) -> set[str] | None:
        known = None if self._rival is None else self._rival.newest_label
        if known is None:
            return None
        return {label.content_sha256 for label in self._labels if label.label_id > known}

    def _slices(self, golden: list[Example]) -> dict[str, dict[str, str]]:
        sources = {label.content_sha256: source_of(label.uri, label.root) for label in self._labels}
        with reading(self._engine) as connection:
            return {"source": sources, STYLE: styles(connection, self._check.name, [one.key for one in golden])}

    def _shadow(self) -> list[Unlabelled]:
        with reading(self._engine, long=True) as connection:
            drawn = recent_unlabelled(connection, self._check.name, limit=self._settings.train_shadow_images, seed=0)
        faults = bring(self._settings, drawn, self._folder)
        opens = OpenChecked(max_pixels=self._settings.max_image_pixels)
        return [
            Unlabelled(key=image.content_sha256, path=self._folder / image.content_sha256, open=opens)
            for image, fault in zip(drawn, faults, strict=True)
            if fault is None
        ]

    def _facts(self) -> Facts:
        made, card = self._challenger, self._challenger.card
        problem = None
        if card.canary is not None:
            base = self._model.scorer(card.question, None)
            problem = try_canary(card.canary, made.folder, adapter=made.scorer, base=base).problem()
        learnt = self._learnt_from(made.newest_label)
        return Facts(
            canary_problem=problem,
            canary_asked=card.canary is not None,
            same_question=card.question == self._question,
            same_base=card.base_revision == self._model.identity.revision,
            train_keys=frozenset(label.content_sha256 for label in learnt),
            train_clusters=frozenset(label.cluster for label in learnt),
        )

    def _learnt_from(self, newest_label: int | None) -> list[CurrentLabel]:
        if newest_label is None:
            self.notes.append(
                f"{self._challenger.name} was trained elsewhere: whether it saw golden images is not known here"
            )
            return []
        known = iter_current_labels(self._engine, self._check.name, up_to=newest_label)
        return [label for label in known if label.split in LEARNT_FROM]


class _Told:
    """Progress now and then."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports
        self._last = 0.0

    def __call__(self, done: int, total: int) -> None:
        if done >= total or time.monotonic() - self._last >= TELL_SECONDS:
            self._last = time.monotonic()
            self._reports.send("progress", done=done, total=total)


if __name__ == "__main__":
    main()
