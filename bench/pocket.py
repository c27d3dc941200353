"""Accuracy of the shipped pocket model on fresh images: `python -m bench.pocket`.

Everything goes through the serving stack (`models.network.base`), with images from seeds that training and calibration
never used. Prints one table per check: accuracy with Wilson 95 % intervals per size, the confusion matrix, and the base
model alone beside its adapter. A last table has the base's accuracy on its own training questions.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scanfleet.models import factory
from scanfleet.models.adapters.metrics import wilson
from scanfleet.models.network.base import BaseModel, Precision, load_base
from scanfleet.models.pocket import folder
from scanfleet.models.pocket.questions import QUESTIONS
from scanfleet.models.pocket.recipe import load_recipe
from scanfleet.models.pocket.scenes import CHECKS, pretraining
from scanfleet.models.pocket.scenes.scene import dice, through_file
from scanfleet.models.scoring.prefill import PrefillScorer
from scanfleet.models.types import Question, Reading

OWN_QUESTIONS = "looking"  # the part about the base's training questions
SIZES_EVERY_TIME = 16  # images scored together at 128 px


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One run over labelled images, in order: true label index, size as "WxH", and the reading."""

    question: Question
    truth: tuple[int, ...]
    sizes: tuple[str, ...]
    readings: tuple[Reading, ...]

    @property
    def flagged_truth(self) -> list[bool]:
        return [self.question.labels[t] in self.question.flags for t in self.truth]

    @property
    def margins(self) -> list[float]:
        return [reading.margin for reading in self.readings]

    def answers(self) -> list[int]:
        return [int(np.argmax(reading.logits)) for reading in self.readings]

    def confusion(self) -> list[list[int]]:
        """Rows: truth; columns: answer."""
        k = len(self.question.labels)
        table = np.zeros((k, k), int)
        for truth, answer in zip(self.truth, self.answers(), strict=True):
            table[truth, answer] += 1
        return [[int(n) for n in row] for row in table]

    def summary(self) -> dict[str, Any]:
        right = [t == a for t, a in zip(self.truth, self.answers(), strict=True)]
        flag = [(m > 0) == f for m, f in zip(self.margins, self.flagged_truth, strict=True)]
        sizes = tuple(dict.fromkeys(self.sizes))
        return {
            "labels": list(self.question.labels),
            "n": len(right),
            "accuracy": share(right),
            "flag_accuracy": share(flag),
            "accuracy_by_size": {s: share(_only(right, self.sizes, s)) for s in sizes},
            "flag_accuracy_by_size": {s: share(_only(flag, self.sizes, s)) for s in sizes},
            "confusion": self.confusion(),
            "mean_mass": round(float(np.mean([r.mass for r in self.readings])), 4),
        }


def share(hits: Sequence[bool]) -> dict[str, Any]:
    """Return a proportion with its Wilson 95 % interval."""
    low, high = wilson(sum(hits), len(hits))
    return {
        "value": round(sum(hits) / max(1, len(hits)), 4),
        "n": len(hits),
        "low": round(low, 4),
        "high": round(high, 4),
    }


def _only(hits: Sequence[bool], sizes: Sequence[str], size: str) -> list[bool]:
    return [hit for hit, s in zip(hits, sizes, strict=True) if s == size]


def fresh(check: str, seed: int, pools: Iterable[Sequence[int]]) -> Iterator[tuple[Image.Image, int, str]]:
    """Yield (image, label index, "WxH") of every pool of (width, height, count); half of the images were JPEG files."""
    module = CHECKS[check]
    for number, (width, height, count) in enumerate(pools):
        for index in range(count):
            scene = module.draw(seed + 10 * number, index, width, height)
            image = through_file(dice(seed + 10 * number, check + "-file", index), scene.image, 0.5)
            yield image, module.LABELS.index(scene.label), f"{width}x{height}"


def measure(scorer: PrefillScorer, labelled: Iterable[tuple[Image.Image, int, str]]) -> Measured:
    """Score labelled images with the serving stack, in batches of about equal work."""
    truth: list[int] = []
    sizes: list[str] = []
    readings: list[Reading] = []
    waiting: list[Any] = []
    for image, label, size in labelled:
        waiting.append(scorer.prepare(image))
        truth.append(label)
        sizes.append(size)
        if sum(item.visual_tokens for item in waiting) >= SIZES_EVERY_TIME * 16:
            readings += scorer.score(waiting)
            waiting = []
    readings += scorer.score(waiting)
    return Measured(question=scorer.question, truth=tuple(truth), sizes=tuple(sizes), readings=tuple(readings))


def own_questions(base: BaseModel, seed: int, count: int, size: int = 128) -> dict[str, dict[str, Any]]:
    """Measure the base's accuracy on each kind of its own training questions, on fresh pictures."""
    hits: dict[str, list[bool]] = {}
    chance: dict[str, list[float]] = {}
    for index in range(count):
        scene = pretraining.draw(seed, index, size, size)
        asked = scene.questions[index // len(pretraining.KINDS) % len(scene.questions)]
        names = tuple(f"option {n}" for n in range(len(asked.options)))
        question = Question(
            name="looking", prompt=asked.prompt, labels=names, flags=frozenset(),
            descriptions=dict(zip(names, asked.options, strict=True)),
        )  # fmt: skip
        scorer = factory.scorer(base, question)
        (reading,) = scorer.score([scorer.prepare(scene.image)])
        kind = kind_of(asked.prompt)
        hits.setdefault(kind, []).append(int(np.argmax(reading.logits)) == asked.answer)
        chance.setdefault(kind, []).append(1 / len(asked.options))
    return {kind: {**share(h), "chance": round(float(np.mean(chance[kind])), 3)} for kind, h in sorted(hits.items())}


def kind_of(prompt: str) -> str:
    """Return a question's kind: its words without the object that it names."""
    words = ["…" if word.strip("?") in pretraining.NAMES else word for word in prompt.split(" ")]
    kind = " ".join(words)
    for corner in pretraining.CORNERS:
        kind = kind.replace(corner, "…")
    return kind.replace("…?", "…")


def report(base: BaseModel, adapters: Path, *, only: str | None = None, quick: float = 1.0) -> dict[str, Any]:
    """Return everything that docs/pocket.md states, or the part called `only`.

    `quick` is the share of the images used.
    """
    part = load_recipe()["evaluation"]
    out: dict[str, Any] = {}
    for check, question in QUESTIONS.items():
        if only not in (None, check):
            continue
        pools = [(w, h, int(count * quick)) for w, h, count in part["pools"]]
        bare = [(w, h, int(count * quick)) for w, h, count in part["zero_shot"]]
        seed = part["seeds"][check]
        out[check] = {
            "adapter": measure(factory.scorer(base, question, adapters / check), fresh(check, seed, pools)).summary(),
            "base": measure(factory.scorer(base, question, rotated=True), fresh(check, seed, bare)).summary(),
        }
    if only in (None, OWN_QUESTIONS):
        out[OWN_QUESTIONS] = own_questions(base, part["seeds"]["looking"], int(600 * quick))
    return out


def show(results: dict[str, Any]) -> None:
    """Print a report as tables."""
    for check, who in ((check, who) for check in QUESTIONS if check in results for who in ("adapter", "base")):
        part = results[check][who]
        print(f"\n{check}, {who}: {part['n']} fresh images, label mass {part['mean_mass']:.3f}")
        print(f"  accuracy       {_line(part['accuracy'])}")
        print(f"  flag or not    {_line(part['flag_accuracy'])}")
        for size, value in part["accuracy_by_size"].items():
            print(f"  {size:<14} {_line(value)}   flag or not {_line(part['flag_accuracy_by_size'][size])}")
        width = max(map(len, part["labels"])) + 1
        print("  truth \\ answer " + "".join(f"{label:>{width}}" for label in part["labels"]))
        for label, row in zip(part["labels"], part["confusion"], strict=True):
            print(f"  {label:<15}" + "".join(f"{n:>{width}}" for n in row))
    if OWN_QUESTIONS in results:
        print("\nthe base model's training questions")
    for kind, value in results.get(OWN_QUESTIONS, {}).items():
        print(f"  {kind:<40} {_line(value)}   chance {value['chance']:.2f}")


def _line(value: dict[str, Any]) -> str:
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}] n={value['n']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pocket", help="checkpoint folder (default: the shipped one)")
    parser.add_argument("--adapters", type=Path, default=folder() / "adapters", help="folder of the adapters")
    parser.add_argument("--precision", default="bf16", choices=("fp32", "bf16", "nf4", "int8"))
    parser.add_argument("--only", choices=(*QUESTIONS, OWN_QUESTIONS), help="measure one part alone")
    parser.add_argument("--quick", type=float, default=1.0, help="share of the images to measure on")
    parser.add_argument("--json", type=Path, help="also write the results here")
    arguments = parser.parse_args()
    precision: Precision = arguments.precision
    results = report(
        load_base(arguments.model, precision=precision), arguments.adapters, only=arguments.only, quick=arguments.quick
    )
    show(results)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
