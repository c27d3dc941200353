"""From a training work folder to the shipped weights: bf16 checkpoint, adapters, calibrators, thresholds, canaries.

Calibration reads margins from the serving stack itself, at the precision that is the default there, on its own
images.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save as save_tensors
from transformers import Qwen3VLForConditionalGeneration

from bench.pocket import Measured, fresh, measure
from scanfleet.models import factory
from scanfleet.models.adapters.calibration import fit_platt, thresholds_from
from scanfleet.models.adapters.card import CARD, AdapterCard, Canary, read_card, write_adapter
from scanfleet.models.adapters.certificates import certify_precision, certify_recall
from scanfleet.models.adapters.likeness import MAX_IMAGES, METRIC, fitted
from scanfleet.models.inputs.sources import folder_revision
from scanfleet.models.network.base import load_base
from scanfleet.models.pocket.questions import QUESTIONS, SMALL
from scanfleet.models.pocket.scenes import CHECKS
from scanfleet.models.pocket.scenes.planted import large, planted
from tools.pocket.adapt import settings

COPIED = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "preprocessor_config.json")


def publish(recipe: dict[str, Any], work: Path, target: Path) -> None:
    """Write the checkpoint and every adapter that `work` holds to `target`."""
    target.mkdir(parents=True, exist_ok=True)
    model = Qwen3VLForConditionalGeneration.from_pretrained(work / "base", dtype=torch.bfloat16)
    model.save_pretrained(target)
    (target / "model.safetensors").chmod(0o644)
    for name in COPIED:
        shutil.copyfile(work / "base" / name, target / name)
    for check in QUESTIONS:  # razor's among them, where it was trained in this folder
        if (work / f"{check}.pt").exists():
            publish_adapter(recipe, work, target, check)


def publish_adapter(recipe: dict[str, Any], work: Path, target: Path, check: str) -> None:
    """Write one adapter folder, score calibration images through it, and complete its card."""
    saved = torch.load(work / f"{check}.pt", weights_only=True)
    weights = save_tensors({key: value.bfloat16().contiguous() for key, value in saved["lora"].items()})
    place = target / "adapters" / check
    card = AdapterCard(
        name=f"pocket-{check}",
        question=QUESTIONS[check],
        base_model="pocket",
        base_revision=folder_revision(target),
        recipe={**_recipe_of(recipe, check), "seed": recipe["seed"], "seconds": round(saved["seconds"])},
    )
    lora = settings(recipe)
    write_adapter(place, card=card, lora=lora, weights=weights)
    scorer = factory.scorer(load_base(str(target)), QUESTIONS[check], place)
    measured = measure(scorer, _calibration_images(recipe, check))
    card = card.model_copy(
        update={**_reading_of(recipe, check, measured), "canary": _canary(recipe, place, check, scorer)}
    )
    write_adapter(place, card=card, lora=lora, weights=weights)
    publish_likeness(recipe, target, check)


def publish_likeness(recipe: dict[str, Any], target: Path, check: str) -> None:
    """Write what an adapter's calibration images look like beside its card. It changes no digest."""
    place = target / "adapters" / check
    scorer = factory.scorer(load_base(str(target)), QUESTIONS[check], place)
    scorer.keep_features = True
    images = list(_calibration_images(recipe, check))
    readings = measure(scorer, images[:: -(-len(images) // MAX_IMAGES)]).readings
    features = [each.features for each in readings if each.features is not None]
    found = fitted(features, [str(number) for number in range(len(features))])
    if found is None:
        raise RuntimeError(f"{check}: too few calibration images")
    card = read_card(place)
    card = card.model_copy(update={"metrics": {**card.metrics, METRIC: found.write(place)}})
    (place / CARD).write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _recipe_of(recipe: dict[str, Any], check: str) -> dict[str, Any]:
    """Return an adapter's training recipe; the adapter of a small part has a training of its own."""
    shared: dict[str, Any] = recipe["adapter"]
    if check not in SMALL:
        more = recipe.get("more", {}).get(check)  # None: it was not trained further
        return {**shared, "more": more} if more else shared
    lora = ("rank", "alpha", "dropout", "targets", "language_matches", "vision_matches", "lr")
    return {**{name: shared[name] for name in lora}, "small": recipe["small"]}


def _calibration_images(recipe: dict[str, Any], check: str) -> Iterator[tuple[Image.Image, int, str]]:
    """(image, label index, "WxH"). Of a small part: tiny and large ones in equal numbers, as one archive's scans."""
    part = recipe["calibration"]
    if check not in SMALL:
        yield from fresh(check, part["seeds"][check], part["pools"])
        return
    for index in range(recipe["small"]["calibration"]):
        for draw in (planted, large):
            found = draw(part["seeds"][check], index)
            yield found.image, SMALL[check].labels.index(found.label), f"{found.image.width}x{found.image.height}"


def _reading_of(recipe: dict[str, Any], check: str, measured: Measured) -> dict[str, Any]:
    """Return calibrator, thresholds, and the figures of the calibration images, as fields of the card."""
    part, positive = recipe["calibration"], measured.flagged_truth
    recall = certify_recall(measured.margins, positive, target=part["target_recall"][check])
    precision = certify_precision(measured.margins, positive, target=part["target_precision"][check])
    summary = measured.summary()
    return {
        "calibrator": fit_platt(measured.margins, positive),
        "thresholds": thresholds_from(recall, precision),
        "metrics": {
            "split": "calibration",
            "n": summary["n"],
            "accuracy": summary["accuracy"],
            "flag_accuracy": summary["flag_accuracy"],
            "mean_mass": summary["mean_mass"],
            "recall_target": recall.target,
            "recall_met": recall.met,
            "precision_target": precision.target,
            "precision_met": precision.met,
        },
    }


def _canary(recipe: dict[str, Any], place: Path, check: str, scorer: Any) -> Canary:
    """A few images beside the adapter, with the margins they must give again when it is loaded."""
    folder = place / "canary"
    folder.mkdir(exist_ok=True)
    names, margins = [], []
    for index in range(recipe["calibration"]["canaries"]):
        image = CHECKS[check].draw(recipe["calibration"]["seeds"][check] + 5, index, 128, 128).image
        name = f"canary/{index:02}.png"
        image.save(place / name, optimize=True)
        (reading,) = scorer.score([scorer.prepare(image)])
        names.append(name)
        margins.append(reading.margin)
    return Canary(images=tuple(names), margins=tuple(margins), precision=scorer.identity.precision)
