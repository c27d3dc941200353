"""`python -m scanfleet.worker.commands.compare`: the computing half of `scanfleet adapters compare`.

It reads and writes JSON lines.

Input, one line: {"adapter": ID, "against": ID, or null for the base alone}. Output: {"kind": "progress", "done",
"total"} during the comparison, {"kind": "report", "record", "lines", "notes"} at the end, and {"kind": "fault",
"words", "exit_code"} after an error. Nothing is written to the ledger.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa

from scanfleet.checks.check import Check
from scanfleet.config.settings import Settings
from scanfleet.db.engine import reading
from scanfleet.db.labels.labels import iter_current_labels
from scanfleet.db.scans.checks import resolve_check
from scanfleet.db.schema import ledger
from scanfleet.db.training.adapters import AdapterInfo, get_adapter
from scanfleet.errors import BadLabels, BadSettings, BadSource, DeviceUnavailable
from scanfleet.models.adapters.card import read_card
from scanfleet.models.errors import ModelInvalid, ModelUnavailable
from scanfleet.models.promotion import GateReport
from scanfleet.models.training.data.types import Example
from scanfleet.models.types import Question
from scanfleet.worker.evaluation.calibrate import SHARED
from scanfleet.worker.evaluation.compare import compare
from scanfleet.worker.evaluation.held_out import FITTED, HELD_OUT, SHARED_WORDS, is_shared, learnt_from
from scanfleet.worker.evaluation.images import materialise
from scanfleet.worker.evaluation.inputs import Contender, Inputs, newest_label_of
from scanfleet.worker.evaluation.readings import Watch
from scanfleet.worker.runtime.child_protocol import Reports, serve_request
from scanfleet.worker.scoring.adapters import AdapterFolders
from scanfleet.worker.scoring.factory import question_of
from scanfleet.worker.scoring.model import Model, load_model

PROGRESS_SECONDS = 0.5


def main() -> None:
    serve_request(_serve)


def _serve(settings: Settings, request: dict[str, Any], _: IO[str], reports: Reports) -> None:
    adapter, against = request["adapter"], request["against"]
    with (
        ledger(settings) as engine,
        tempfile.TemporaryDirectory(prefix="compare-", dir=settings.make_folder("tmp")) as folder,
    ):
        try:
            comparison = Comparison(settings, engine, Path(folder), adapter=adapter, against=against)
            report = comparison.run(_send_progress(reports))
        except ModelInvalid as error:
            raise BadSettings(str(error)) from error
        except ModelUnavailable as error:
            raise DeviceUnavailable(str(error)) from error
    reports.send("report", record=report.record(), lines=report.lines(), notes=comparison.notes)


class Comparison:
    """Two adapters of one check, or one and the base alone, on the current labels and images."""

    def __init__(self, settings: Settings, engine: sa.Engine, folder: Path, *, adapter: int, against: int | None):
        """Raises UnknownName, BadSettings, BadLabels, ModelInvalid."""
        self._settings, self._engine, self._folder = settings, engine, folder
        self.notes: list[str] = []
        with reading(engine) as connection:
            self._info = info = get_adapter(connection, adapter)
            self._rival_info = None if against is None else get_adapter(connection, against)
            self._check: Check = resolve_check(connection, info.check_name)
        _require_comparable(info, self._rival_info)
        self._question: Question = question_of(self._check)
        self._labels = list(iter_current_labels(engine, self._check.name))
        if not any(label.split == "golden" for label in self._labels):
            raise BadLabels(
                f"check {self._check.name} has no golden images: `scanfleet labels import --split golden` pins some"
            )
        self._model: Model = load_model(settings)
        self._challenger = self._load(info)
        self._rival = None if self._rival_info is None else self._load(self._rival_info)

    def run(self, watch: Watch) -> GateReport:
        """Raises Retryable while a store is unavailable or the device fails."""
        inputs = Inputs(
            settings=self._settings,
            engine=self._engine,
            check=self._check,
            question=self._question,
            folder=self._folder,
            base=lambda question: self._model.scorer(question, None),
            plain=self._model.plain,
            revision=self._model.identity.revision,
        )
        with reading(self._engine) as connection:
            n_golden = sum(label.split == "golden" for label in self._labels)
            shared = is_shared(connection, self._check.name, n_golden)
        judges = self._examples(*(HELD_OUT if shared else ("golden",)))
        golden = inputs.golden(judges, self._labels, self._rival_info)
        if self._rival is not None:
            champion = self._rival.candidate()
        else:
            champion = inputs.base_alone(judges if shared else self._examples(*FITTED), cross_fitted=shared)
        if shared:
            self.notes.append(SHARED_WORDS)
        shadow, _ = inputs.shadow(seed=0)
        return compare(
            question=self._question,
            golden=golden,
            champion=champion,
            challenger=self._challenger.candidate(cross_fitted=self._saw(judges)),
            shadow=shadow,
            facts=inputs.facts(self._challenger, self._learnt_from(learnt_from(shared=shared))),
            watch=watch,
        )

    def _saw(self, judges: Sequence[Example]) -> bool:
        """Whether the challenger's calibrator may be fitted on images among these."""
        if newest_label_of(self._engine, self._info) is None:
            return False  # trained elsewhere
        splits = HELD_OUT if self._challenger.card.metrics.get("split") == SHARED else FITTED
        fitted_on = {label.content_sha256 for label in self._labels if label.split in splits}
        return any(example.key in fitted_on for example in judges)

    def _load(self, info: AdapterInfo) -> Contender:
        """Raises BadSettings naming the adapter."""
        try:
            return self._loaded(info)
        except (ModelInvalid, BadSource) as error:
            raise BadSettings(f"adapter {info.id} cannot be compared: {error}") from error

    def _loaded(self, info: AdapterInfo) -> Contender:
        folder = AdapterFolders(self._settings).find(info)
        card = read_card(folder)
        if (card.question.labels, card.question.flags) != (self._question.labels, self._question.flags):
            raise BadSettings(f"adapter {info.id} answers other labels than check {self._check.name} has now")
        # With its own prompt: the gate decides whether that is the prompt of the check.
        scorer = self._model.scorer(card.question, folder)
        prevalence = self._check.prevalence
        return Contender(name=f"adapter {info.id}", folder=folder, card=card, scorer=scorer, prevalence=prevalence)

    def _examples(self, *splits: str) -> list[Example]:
        labels = [label for label in self._labels if label.split in splits]
        examples, left_out = materialise(self._settings, labels, self._folder, self._question)
        if left_out:
            reasons = ", ".join(f"{n} {reason}" for reason, n in left_out.items())
            self.notes.append(f"{' and '.join(splits)} images left out: {reasons}")
        return examples

    def _learnt_from(self, splits: Sequence[str]) -> dict[str, str]:
        newest = newest_label_of(self._engine, self._info)
        if newest is None:
            self.notes.append(
                f"{self._challenger.name} was trained elsewhere: whether it learnt from golden images is not known here"
            )
            return {}
        labels = iter_current_labels(self._engine, self._check.name, up_to=newest)
        return {label.content_sha256: label.cluster for label in labels if label.split in splits}


def _require_comparable(info: AdapterInfo, rival: AdapterInfo | None) -> None:
    if rival is not None and (rival.check_name, rival.base_model) != (info.check_name, info.base_model):
        raise BadSettings(
            f"adapter {rival.id} is for check {rival.check_name} on {rival.base_model}, adapter {info.id} for check "
            f"{info.check_name} on {info.base_model}: compare adapters of one check and base model"
        )


def _send_progress(reports: Reports) -> Watch:
    """Report the count at most once every PROGRESS_SECONDS, and always at the end."""
    sent_at = 0.0

    def watch(done: int, total: int) -> None:
        nonlocal sent_at
        if done >= total or time.monotonic() - sent_at >= PROGRESS_SECONDS:
            sent_at = time.monotonic()
            reports.send("progress", done=done, total=total)

    return watch


if __name__ == "__main__":
    main()
