"""Labelled images of an experiment on the local disk, and their one split for all arms."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scanfleet.checks.experiment import Data, Experiment
from scanfleet.config.settings import Settings
from scanfleet.errors import BadExperiment
from scanfleet.models.pocket.generate import Order, write_archive
from scanfleet.models.training.data.types import Example
from scanfleet.models.types import Question
from scanfleet.worker.evaluation.images import Labelled, example_of, fetch_images

HELD_OUT = 5  # one label in HELD_OUT is held out for early stopping
LEAST_TEST = 10  # images

Watch = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Images:
    """examples: in the order of their draw. styles: key -> style of a generated picture. left_out: uri -> reason."""

    examples: list[Example]
    styles: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        lines = sorted(f"{one.key} {one.label} {one.cluster}" for one in self.examples)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Split:
    """Whole clusters lie in one part. unseen: keys of test images in styles that no training image has."""

    train: list[Example]
    test: list[Example]
    unseen: frozenset[str]

    def part(self, size: int, *, seed: int) -> tuple[list[Example], list[Example]]:
        """Return what is learnt from, and what is held out for early stopping.

        Each seed draws its own labels; the fewer of a seed are among its more.
        """
        taken = sorted(self.train, key=lambda one: (_draw(seed, one.cluster), one.key))[:size]
        clusters = list(dict.fromkeys(one.cluster for one in taken))
        held = set(clusters[::HELD_OUT])
        return [one for one in taken if one.cluster not in held], [one for one in taken if one.cluster in held]


def generated(settings: Settings, data: Data, question: Question, folder: Path) -> Images:
    """Draw pictures. Raises BadExperiment if the check has other labels."""
    assert data.generated is not None
    order = Order(check=data.generated, n=data.n, seed=data.seed, out=folder / "drawn", sizes=(data.side,))
    with write_archive(order).open(encoding="utf-8", newline="") as stream:
        drawn = list(csv.DictReader(stream))
    unknown = sorted({row["truth"] for row in drawn} - set(question.labels))
    if unknown:
        raise BadExperiment(f"data.generated: check {question.name} has no label {unknown[0]}")
    rows, styles = [], {}
    for row in drawn:
        path = order.out / row["uri"]
        sha = hashlib.sha256(path.read_bytes()).hexdigest()
        styles[sha] = row["style"]
        row_of = {"uri": str(path), "root": str(order.out), "label": row["truth"]}
        rows.append({"content_sha256": sha, "cluster": sha, **row_of})
    found = given(settings, rows, question, folder, watch=lambda *_: None)
    return Images(examples=found.examples, styles=styles, left_out=found.left_out)


def given(
    settings: Settings, rows: Sequence[dict[str, Any]], question: Question, folder: Path, *, watch: Watch
) -> Images:
    """Fetch and decode labelled images as workers do."""
    names = ("content_sha256", "uri", "root", "label", "cluster")
    labelled = [Labelled(**{name: row[name] for name in names}, boxes=None) for row in rows]
    failures = fetch_images(settings, labelled, folder / "images", watch=watch)
    read = [one for one, reason in zip(labelled, failures, strict=True) if reason is None]
    left_out = {one.uri: reason for one, reason in zip(labelled, failures, strict=True) if reason is not None}
    examples = [example_of(one, folder / "images", question, settings) for one in read]
    return Images(examples=list({one.key: one for one in examples}.values()), left_out=left_out)


def split_of(experiment: Experiment, images: Images) -> Split:
    """Return the split, by a hash of each cluster. Raises BadExperiment for too few images."""
    held = set(experiment.data.held_out_styles)
    styled = {key for key, style in images.styles.items() if held & set(style.split("+"))}
    missing = held - {part for style in images.styles.values() for part in style.split("+")}
    if missing:
        raise BadExperiment(f"data.held_out_styles: no picture has the style {min(missing)}")
    draws = {one.cluster: _draw(experiment.split_seed, one.cluster) for one in images.examples}
    ordered = sorted(images.examples, key=lambda one: (draws[one.cluster], one.key))
    share = experiment.data.test_share
    test = [one for one in ordered if draws[one.cluster] < share or one.key in styled]
    apart = {one.cluster for one in test}
    train = [one for one in ordered if one.cluster not in apart]
    if len(test) < LEAST_TEST:
        raise BadExperiment(f"data: the test part has {len(test)} images, {LEAST_TEST} are needed")
    largest = max(experiment.all_sizes, default=0)
    if largest > len(train):
        raise BadExperiment(f"sizes: {largest} labels, and the train part has {len(train)} images")
    return Split(train=train, test=test, unseen=frozenset(styled & {one.key for one in test}))


def _draw(seed: int, cluster: str) -> float:
    return int.from_bytes(hashlib.sha256(f"{seed}/{cluster}".encode()).digest()[:6]) / 2**48
