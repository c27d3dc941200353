"""Stage compare: the gate judges the new adapter against the one in use, on images that neither learnt from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scanfleet.db.engine import reading
from scanfleet.db.training import champions
from scanfleet.db.training.adapters import AdapterInfo
from scanfleet.errors import BadSource
from scanfleet.models.adapters.card import read_card
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.promotion import GateReport
from scanfleet.stats.proportions import calibration_text
from scanfleet.worker.evaluation.compare import Candidate
from scanfleet.worker.evaluation.compare import compare as compare_on
from scanfleet.worker.evaluation.held_out import FITTED, HELD_OUT, SHARED_WORDS, learnt_from
from scanfleet.worker.evaluation.inputs import Contender, Inputs
from scanfleet.worker.scoring.factory import knows
from scanfleet.worker.training.context import Context
from scanfleet.worker.training.snapshot import EXAMPLES, IMAGES, examples_of, is_shared_here, labelled_of


def compare(context: Context) -> dict[str, Any]:
    """The gate's report on the published adapter, and the champion it is compared with. Raises Retryable."""
    training, published = context.training, context.results["publish"]
    with reading(context.engine) as connection:
        in_use = champions.champion(connection, training.check_name, training.base_model)
    if in_use is not None and in_use.id == published["adapter_id"]:
        # The same labels, recipe and seed give the same weights.
        reason = f"the training produced the same weights as adapter {in_use.id}, which is in use"
        return _result(_held(in_use, published["adapter_id"], reason), in_use)
    inputs = Inputs(
        settings=context.settings,
        engine=context.engine,
        check=context.check,
        question=context.question,
        folder=context.work.path / IMAGES,
        base=lambda _: context.scorer(),
        plain=lambda _: context.plain(),
        revision=context.base.checkpoint.revision,
    )
    try:
        champion, problem = _champion(context, inputs, in_use)
    except (ModelInvalid, BadSource) as error:
        if in_use is None:
            raise
        # Never compared with the base alone instead: that would be an easier test than the one it was spared.
        problem = (
            f"adapter {in_use.id}, which is in use, cannot be loaded here: {error}. Restore it, or put another one in "
            f"use (scanfleet adapters rollback --check {context.check.name}); then compare the new one with that"
        )
        return _result(_held(in_use, published["adapter_id"], problem), in_use) | {"problem": problem}
    shadow, n_missing = inputs.shadow(seed=training.seed, watch=context.progress.count)
    challenger = _load(context, published["adapter_id"], Path(published["folder"]))
    shared = is_shared_here(context)
    used = {one.key: one.cluster for one in examples_of(context, *learnt_from(shared=shared))}
    golden = examples_of(context, *(HELD_OUT if shared else ("golden",)))
    report = compare_on(
        question=context.question,
        golden=inputs.golden(golden, labelled_of(context.work.read(EXAMPLES)), in_use),
        champion=champion,
        challenger=challenger.candidate(cross_fitted=shared),
        shadow=shadow,
        facts=inputs.facts(challenger, used),
        seed=training.seed,
        watch=context.progress.count,
    )
    counts = {"drawn": len(shadow) + n_missing, "left_out": n_missing}
    result = _result(report, in_use) | {"problem": problem, "shadow": counts}
    if problem is not None:
        result["lines"].insert(1, problem)
    if shared:
        result["lines"].append(SHARED_WORDS)
    calibrator = challenger.card.calibrator
    if calibrator is not None:
        result["lines"].append(f"the challenger's score is fitted on {calibration_text(calibrator.n)}")
    return result


def _result(report: GateReport, champion: AdapterInfo | None) -> dict[str, Any]:
    champion_id = None if champion is None else champion.id
    figures = {"gate": report.record(), "lines": report.lines()}
    return figures | {"champion_id": champion_id, "problem": None, "shadow": None}


def _held(champion: AdapterInfo, challenger_id: int, reason: str) -> GateReport:
    """A comparison that did not take place."""
    return GateReport(
        verdict="hold",
        reason=reason,
        champion=f"adapter {champion.id}",
        challenger=f"adapter {challenger_id}",
        n_golden=0,
        results=(),
        power="",
    )


def _load(context: Context, adapter_id: int | None, folder: Path) -> Contender:
    card = read_card(folder)
    return Contender(
        name=f"adapter {adapter_id}",
        folder=folder,
        card=card,
        scorer=context.scorer(folder),
        prevalence=context.check.prevalence,
    )


def _champion(context: Context, inputs: Inputs, in_use: AdapterInfo | None) -> tuple[Candidate, str | None]:
    """The model that a worker would use now, and why that is not the champion.

    Raises ModelInvalid or BadSource if the champion cannot be loaded.
    """
    problem = None
    if in_use is not None:
        folder = context.folders.find(in_use)
        card = read_card(folder)
        if knows(card, context.question):
            scorer, prevalence = context.scorer(folder), context.check.prevalence
            return Candidate.of_card(f"adapter {in_use.id}", scorer, card, prevalence=prevalence), None
        problem = (
            f"adapter {in_use.id} was trained on another question than the check asks now, so scans use the base "
            "alone: compared with that"
        )
    shared = is_shared_here(context)
    fitted_on = examples_of(context, *(HELD_OUT if shared else FITTED))
    return inputs.base_alone(fitted_on, cross_fitted=shared), problem
