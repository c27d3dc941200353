"""Another adapter for a check that the pocket model ships one for: the shipped weights, a little stronger."""

import json
import shutil
from pathlib import Path

from PIL import Image
from safetensors.torch import load, save

from scanfleet.checks.check import load_check
from scanfleet.db.training.adapters import AdapterInfo
from scanfleet.models import factory, pocket
from scanfleet.models.adapters.card import CARD, AdapterCard, read_adapter, read_card, write_adapter
from scanfleet.models.network.base import BaseModel


def second_adapter(base: BaseModel, into: Path, *, check: str = "overlay", strength: float = 1.1) -> Path:
    """A valid adapter whose margins are not the shipped one's, with a canary of its own."""
    shipped = pocket.adapter_folder(check)
    adapter = read_adapter(shipped)
    assert adapter.weights is not None
    tensors = {key: value * strength if "lora_B" in key else value for key, value in load(adapter.weights).items()}
    shutil.copytree(shipped, into)
    card = adapter.card.model_copy(update={"name": f"{check} {strength:g}"})
    write_adapter(into, card=card, lora=adapter.lora, weights=save(tensors))
    return sing_again(base, into)


def sing_again(base: BaseModel, folder: Path) -> Path:
    """Give an adapter a canary with the margins of this machine."""
    card = read_card(folder)
    assert card.canary is not None
    scorer = factory.scorer(base, card.question, folder)
    images = [Image.open(folder / name).convert("RGB") for name in card.canary.images]
    margins = tuple(reading.margin for reading in scorer.score([scorer.prepare(image) for image in images]))
    base.release(card.weights_sha256)
    return rewrite(folder, margins)


def out_of_tune(folder: Path, *, by: float = 0.2) -> Path:
    """Move a canary's margins, as a serving stack that computes something else would find them."""
    card = read_card(folder)
    assert card.canary is not None
    return rewrite(folder, tuple(margin + by for margin in card.canary.margins))


def rewrite(folder: Path, margins: tuple[float, ...]) -> Path:
    card = json.loads((folder / CARD).read_text())
    card["canary"] |= {"margins": list(margins), "precision": "fp32"}
    (folder / CARD).write_text(json.dumps(card))
    AdapterCard.model_validate_json((folder / CARD).read_text())
    return folder


def info_of(folder: Path, **changes: object) -> AdapterInfo:
    """As a training registers it."""
    card = read_card(folder)
    fields = {
        "check_name": card.question.name,
        "check_hash": load_check(card.question.name).hash,
        "base_model": card.base_model,
        "base_revision": card.base_revision,
        "uri": str(folder),
        "weights_sha256": card.weights_sha256,
        "calibrator": {"a": 1.0, "b": 0.0, "n": 400, "prevalence": 0.5, "method": "platt"},
        "thresholds": {"review": -1.0, "flag": 2.0},
    }
    return AdapterInfo(**(fields | changes))  # type: ignore[arg-type]
