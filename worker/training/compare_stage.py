"""Stage compare: the new adapter against what is in use, on images that neither learnt from; the gate's word on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from models.adapters.canary import try_canary
from models.adapters.card import AdapterCard, read_card
from models.errors import ModelInvalid
from models.promotion import Facts, GateReport
from scanfleet.db.engine import reading
from scanfleet.db.labels.unlabelled import recent_unlabelled
from scanfleet.db.training import champions, trainings
from scanfleet.db.training.adapters import AdapterInfo
from scanfleet.errors import BadSource
from worker.evaluation.calibrate import calibrated
from worker.evaluation.compare import BASE_ALONE, Candidate, GoldenSet
from worker.evaluation.compare import compare as compare_on
from worker.evaluation.images import OpenChecked, bring
from worker.evaluation.slices import STYLE, styles
from worker.scoring.factory import matches
from worker.training.context import Context
from worker.training.snapshot import EXAMPLES, IMAGES, examples_of

if TYPE_CHECKING:
    from PIL import Image

LEARNT_FROM = ("train", "calibration", "threshold")


@dataclass(frozen=True, kw_only=True)
class Unlabelled:
    """An image of the shadow set."""

    key: str
    path: Path
    open: Callable[[Path], Image.Image]


def compare(context: Context) -> dict[str, Any]:
    """The gate's report on the published adapter, and which champion it is about. Raises Retryable."""
    held = context.held
    with reading(context.engine) as connection:
        in_use = champions.champion(connection, held.check_name, held.base_model)
    published = context.results["publish"]
    champion_id = None if in_use is None else in_use.id
    if in_use is not None and champion_id == published["adapter_id"]:
        return _result(_the_same(in_use), champion_id)
    champion, problem = _champion(context, in_use)
    shadow, drawn = _shadow(context)
    folder = Path(published["folder"])
    card = read_card(folder)
    scorer = context.scorer(folder)
    report = compare_on(
        question=context.question,
        golden=_golden(context, in_use),
        champion=champion,
        challenger=Candidate.of_card(f"adapter {published['adapter_id']}", scorer, card),
        shadow=shadow,
        facts=_facts(context, folder, card),
        seed=held.seed,
        watch=context.tell.count,
    )
    result = _result(report, champion_id) | {"problem": problem, "shadow": drawn}
    if problem is not None:
        result["lines"].insert(1, problem)
    return result


def _result(report: GateReport, champion_id: int | None) -> dict[str, Any]:
    said = {"gate": report.record(), "lines": report.lines()}
    return said | {"champion_id": champion_id, "problem": None, "shadow": None}


def _the_same(champion: AdapterInfo) -> GateReport:
    """The same labels, recipe and seed give the same weights."""
    name = f"adapter {champion.id}"
    reason = f"the training gave the very weights of {name}, which is in use"
    return GateReport(verdict="hold", reason=reason, champion=name, challenger=name, n_golden=0, results=(), power="")


def _champion(context: Context, in_use: AdapterInfo | None) -> tuple[Candidate, str | None]:
    """What answers now, as a worker would have it, and why it is not the champion if it is not."""
    problem = None
    if in_use is not None:
        try:
            folder = context.folders.find(in_use)
            card = read_card(folder)
            if matches(card, context.question):
                scorer = context.scorer(folder)
                return Candidate.of_card(f"adapter {in_use.id}", scorer, card), None
            problem = f"adapter {in_use.id} answers other words than the check asks"
        except (ModelInvalid, BadSource) as error:
            problem = f"adapter {in_use.id} cannot be loaded: {error}"
    scorer = context.scorer()
    found = calibrated(
        scorer,
        examples_of(context, "calibration"),
        examples_of(context, "threshold"),
        context.question,
        target_recall=context.check.target_recall,
        target_precision=context.check.target_precision,
    )
    return Candidate.of_base(scorer, found), None if problem is None else f"{problem}: compared with the {BASE_ALONE}"


def _golden(context: Context, in_use: AdapterInfo | None) -> GoldenSet:
    """recent: labelled since the training of the champion; of a champion from outside nobody knows: all of them."""
    examples = examples_of(context, "golden")
    keys = {example.key for example in examples}
    rows = [row for row in context.work.read(EXAMPLES) if row["content_sha256"] in keys]
    sources = {row["content_sha256"]: source_of(row["uri"], row["root"]) for row in rows}
    before = None
    with reading(context.engine) as connection:
        told = styles(connection, context.check.name, sorted(keys))
        if in_use is not None and in_use.training_id is not None:
            before = trainings.find(connection, in_use.training_id)
    recent = None
    if before is not None:
        recent = {row["content_sha256"] for row in rows if row["label_id"] > before.newest_label}
    return GoldenSet(examples=examples, recent=recent, slices={"source": sources, STYLE: told})


def source_of(uri: str, root: str | None) -> str:
    """The bucket or folder that an image comes from.

    >>> source_of("s3://ads/2026/1.png", None), source_of("/photos/a/1.png", "/photos")
    ('s3://ads', '/photos')
    """
    if "://" in uri and not uri.startswith("file://"):
        parts = urlsplit(uri)
        return f"{parts.scheme}://{parts.netloc}"
    return root or "/"


def _shadow(context: Context) -> tuple[list[Unlabelled], dict[str, Any]]:
    """Images as they come, that nobody labelled; those that are gone are counted."""
    settings = context.settings
    with reading(context.engine, long=True) as connection:
        drawn = recent_unlabelled(
            connection, context.check.name, limit=settings.train_shadow_images, seed=context.held.seed
        )
    folder = context.work.path / IMAGES
    faults = bring(settings, drawn, folder, watch=context.tell.count)
    opens = OpenChecked(max_pixels=settings.max_image_pixels)
    there = [image for image, fault in zip(drawn, faults, strict=True) if fault is None]
    make = partial(Unlabelled, open=opens)
    pictures = [make(key=image.content_sha256, path=folder / image.content_sha256) for image in there]
    return pictures, {"drawn": len(drawn), "left_out": len(drawn) - len(there)}


def _facts(context: Context, folder: Path, card: AdapterCard) -> Facts:
    """What is true of the adapter as it lies there, beside its figures."""
    learnt = [example for split in LEARNT_FROM for example in examples_of(context, split)]
    problem = None
    if card.canary is not None:
        scorer, base = context.scorer(folder), context.scorer()
        problem = try_canary(card.canary, folder, adapter=scorer, base=base).problem()
    return Facts(
        canary_problem=problem,
        canary_asked=card.canary is not None,
        same_question=card.question == context.question,
        same_base=card.base_revision == context.base.checkpoint.revision,
        train_keys=frozenset(example.key for example in learnt),
        train_clusters=frozenset(example.cluster for example in learnt),
    )
