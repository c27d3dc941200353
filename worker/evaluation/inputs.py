"""The inputs of a comparison, for the training stage and for `scanfleet adapters compare` alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import sqlalchemy as sa

from scanfleet.checks.check import Check
from scanfleet.config.settings import Settings
from scanfleet.db.engine import reading
from scanfleet.db.labels.labels import current_label_of
from scanfleet.db.labels.unlabelled import recent_unlabelled
from scanfleet.db.tables import CheckRow, ScorerRow, Verdict
from scanfleet.db.tables import Image as ImageRow
from scanfleet.db.training import trainings
from scanfleet.db.training.adapters import AdapterInfo
from scanfleet.models.adapters.canary import try_canary
from scanfleet.models.adapters.card import AdapterCard
from scanfleet.models.promotion import Facts
from scanfleet.models.training.data.types import Example
from scanfleet.models.types import Question, Scorer
from scanfleet.worker.evaluation.attribute_slices import attribute_slices
from scanfleet.worker.evaluation.calibrate import calibrated
from scanfleet.worker.evaluation.compare import Candidate, GoldenSet
from scanfleet.worker.evaluation.images import ImageLabel, OpenChecked, fetch_images
from scanfleet.worker.evaluation.readings import Watch

if TYPE_CHECKING:
    from PIL import Image

STYLE = "style"  # the column of a manifest that becomes a dimension of the gate's slices
CHUNK_IMAGES = 500  # of one statement


@dataclass(frozen=True, kw_only=True)
class Unlabelled:
    """An image of the shadow set."""

    key: str
    path: Path
    open: Callable[[Path], Image.Image]


@dataclass(frozen=True, kw_only=True)
class Contender:
    """An adapter in a comparison. prevalence: of the archive, as the check has it."""

    name: str
    folder: Path
    card: AdapterCard
    scorer: Scorer
    prevalence: float | None = None

    def candidate(self, *, cross_fitted: bool = False) -> Candidate:
        made = Candidate.of_card(self.name, self.scorer, self.card, prevalence=self.prevalence)
        return replace(made, cross_fitted=cross_fitted)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Collects what a comparison needs. folder: where image files lie. base: the base model alone, as it is served.
    plain: the same asked in a question's own order, as adapters are trained. revision: of the base model."""

    settings: Settings
    engine: sa.Engine
    check: Check
    question: Question
    folder: Path
    base: Callable[[Question], Scorer]
    plain: Callable[[Question], Scorer]
    revision: str

    def base_alone(self, fitted_on: Sequence[Example], *, cross_fitted: bool) -> Candidate:
        """The base model without an adapter, calibrated on labels of the check. cross_fitted: as in `Candidate`."""
        targets = self.check.target_recall, self.check.target_precision
        scorer = self.base(self.question)
        prevalence = self.check.prevalence
        found = calibrated(scorer, fitted_on, (), self.question, *targets, prevalence=prevalence)
        return Candidate.of_base(scorer, found, cross_fitted=cross_fitted)

    def golden(
        self,
        examples: Sequence[Example],
        labels: Sequence[ImageLabel],
        champion: AdapterInfo | None,
    ) -> GoldenSet:
        """labels: of these images, and perhaps of others. All count as recent if the champion was trained elsewhere."""
        since = None if champion is None else newest_label_of(self.engine, champion)
        recent = None if since is None else {one.content_sha256 for one in labels if one.label_id > since}
        sources = {one.content_sha256: source_of(one.uri, one.root) for one in labels}
        with reading(self.engine) as connection:
            keys = sorted(example.key for example in examples)
            by_style = styles(connection, self.check.name, keys)
            by_attribute = attribute_slices(current_label_of(connection, self.check.name, keys).values())
        slices = {"source": sources, STYLE: by_style} | by_attribute
        return GoldenSet(examples=examples, recent=recent, slices=slices)

    def shadow(self, *, seed: int, watch: Watch | None = None) -> tuple[list[Unlabelled], int]:
        """Recently scored images without a label, and how many of the sample are missing. Raises Retryable."""
        with reading(self.engine, long=True) as connection:
            limit = self.settings.train_shadow_images
            sample = recent_unlabelled(connection, self.check.name, limit=limit, seed=seed)
        failures = fetch_images(self.settings, sample, self.folder, watch=watch)
        keys = [image.content_sha256 for image, failure in zip(sample, failures, strict=True) if failure is None]
        frames = {image.content_sha256: image.frame for image in sample}
        opens = partial(OpenChecked, max_pixels=self.settings.max_image_pixels)
        found = [Unlabelled(key=key, path=self.folder / key, open=opens(frame=frames[key])) for key in keys]
        return found, len(sample) - len(keys)

    def facts(self, adapter: Contender, learnt_from: Mapping[str, str]) -> Facts:
        """learnt_from: key -> cluster of the images that its training used."""
        canary, problem = adapter.card.canary, None
        if canary is not None:
            base = self.plain(adapter.card.learnt)
            problem = try_canary(canary, adapter.folder, adapter=adapter.scorer, base=base).problem()
        return Facts(
            canary_problem=problem,
            canary_asked=canary is not None,
            same_question=adapter.card.learnt.as_read() == adapter.card.asked(self.question).as_read(),
            same_base=adapter.card.base_revision == self.revision,
            train_keys=frozenset(learnt_from),
            train_clusters=frozenset(learnt_from.values()),
        )


def styles(connection: sa.Connection, check_name: str, keys: Sequence[str]) -> dict[str, str]:
    """Content hash -> style, for images that were scored for this check from a manifest with such a column.

    The query goes through the verdicts of the check's scorers: images have no other index by hash.
    """
    of_check = sa.select(ScorerRow.id).join(CheckRow, CheckRow.id == ScorerRow.check_id)
    scorers = of_check.where(CheckRow.name == check_name)
    found: dict[str, str] = {}
    for start in range(0, len(keys), CHUNK_IMAGES):
        query = (
            sa.select(Verdict.content_sha256, ImageRow.meta)
            .join(ImageRow, ImageRow.id == Verdict.image_id)
            .where(Verdict.scorer_id.in_(scorers), Verdict.content_sha256.in_(keys[start : start + CHUNK_IMAGES]))
            .order_by(Verdict.id)
        )
        for key, meta in connection.execute(query):
            if meta and meta.get(STYLE):
                found[key] = str(meta[STYLE])
    return found


def newest_label_of(engine: sa.Engine, adapter: AdapterInfo) -> int | None:
    """The newest label that the adapter's training used. None: it was trained elsewhere."""
    if adapter.training_id is None:
        return None
    with reading(engine) as connection:
        training = trainings.find(connection, adapter.training_id)
    return None if training is None else training.newest_label


def source_of(uri: str, root: str | None) -> str:
    """The bucket or folder that an image comes from.

    >>> source_of("s3://ads/2026/1.png", None), source_of("/photos/a/1.png", "/photos")
    ('s3://ads', '/photos')
    """
    if "://" in uri and not uri.startswith("file://"):
        parts = urlsplit(uri)
        return f"{parts.scheme}://{parts.netloc}"
    return root or "/"
