"""The adapter folder: the one form in which a fine-tuned version travels from training to serving.

    adapter_config.json         LoRA settings, as PEFT writes them
    adapter_model.safetensors   LoRA tensors, under PEFT's names
    head.safetensors            a classification head (models.scoring.head), beside the LoRA or over the frozen base
                                alone
    adapter.json                the card: which of these exist, question, base, digest, calibrator, thresholds, metrics

An adapter is untrusted input: only safetensors are read, and the digest is checked on the very bytes that are loaded.
It covers what else decides a margin, too (`models.adapters.seal`). Of adapter_config.json only the fields of an
allow-list are used, because PEFT acts on others (CVE-2026-4372, peft issue 3085). Needs no torch;
`models.network.lora` puts an adapter into a model and writes one from it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_serializer, model_validator

from scanfleet.models.adapters.calibration import Calibrator, Thresholds
from scanfleet.models.adapters.seal import difference, seal_of, with_seal
from scanfleet.models.adapters.settings import (
    SETTINGS,
    Frozen,
    LoraSettings,
    as_trained,
    first_problem,
    read_file,
    read_settings,
    settings_text,
)
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.types import Question

CARD = "adapter.json"
WEIGHTS, HEAD = "adapter_model.safetensors", "head.safetensors"
Part = Literal["lora", "head"]
_FILE: Mapping[Part, str] = {"lora": WEIGHTS, "head": HEAD}
# Pickles, which older PEFT versions and torch write; never opened, because loading one runs its code.
_PICKLES: Mapping[Part, tuple[str, ...]] = {"lora": ("adapter_model.bin",), "head": ("head.bin", "head.pt", "head.pth")}


class Canary(Frozen):
    """Images with the margins of the end of training; loading the adapter must reproduce them."""

    images: Annotated[tuple[str, ...], Field(min_length=1)]  # file names inside the adapter folder
    margins: tuple[float, ...]  # in logits, one for each image
    precision: Literal["fp32", "bf16", "int8", "nf4"] = "fp32"  # of the weights that gave the margins

    @model_validator(mode="after")
    def _matches(self) -> Self:
        if len(self.images) != len(self.margins):
            raise ValueError("needs one margin for each image")
        paths = [PurePosixPath(name) for name in self.images]
        if any(path.is_absolute() or ".." in path.parts for path in paths):
            raise ValueError("images must lie inside the adapter folder")
        return self


class AdapterCard(Frozen):
    """The content of adapter.json: an adapter's question, its origin and how its margins are read."""

    format: Literal[1] = 1
    name: Annotated[str, Field(min_length=1)]
    question: Question
    base_model: str
    base_revision: str
    parts: Annotated[tuple[Part, ...], Field(min_length=1)] = ("lora",)  # set when the folder is written
    weights_sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""  # digest over all parts, likewise
    calibrator: Calibrator | None = None
    thresholds: Thresholds | None = None
    metrics: Mapping[str, Any] = Field(default_factory=dict)
    recipe: Mapping[str, Any] = Field(default_factory=dict)
    canary: Canary | None = None

    @property
    def learnt(self) -> Question:
        """The question with its order. Cards without one are from before there was a choice: instruction first."""
        return replace(self.question, order=self.question.order or "instruction-first")

    def answers(self, question: Question) -> bool:
        """Return whether the model reads what the adapter learnt: this prompt, menu and labels, at any pixel budget."""
        learnt = replace(self.learnt, max_pixels=question.max_pixels, min_pixels=question.min_pixels)
        return learnt.as_read() == replace(question, order=question.order or learnt.order).as_read()

    def asked(self, question: Question) -> Question:
        """Return the question as the adapter is asked it: with its `min_pixels` and order where they are left open."""
        learnt = self.learnt
        least = learnt.min_pixels if question.min_pixels is None else question.min_pixels
        return replace(question, min_pixels=least, order=question.order or learnt.order)

    @field_serializer("question")
    def _question(self, question: Question) -> dict[str, Any]:
        steps = [{"prompt": step.prompt, "answers": step.answers} for step in question.steps]
        return {
            "name": question.name,
            "prompt": question.prompt,
            "labels": list(question.labels),
            "flags": sorted(question.flags),
            "descriptions": dict(question.descriptions),
            "max_pixels": question.max_pixels,
            "min_pixels": question.min_pixels,
            **({"steps": steps} if steps else {}),
            **({"order": question.order} if question.order else {}),
        }


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """An adapter read from its folder, files verified but not yet parsed. A part that is None does not exist."""

    folder: Path
    card: AdapterCard
    lora: LoraSettings | None = None
    weights: bytes | None = field(default=None, repr=False)  # of the LoRA
    head: bytes | None = field(default=None, repr=False)


def read_card(folder: Path) -> AdapterCard:
    """Read and validate adapter.json alone.

    Raises:
        ModelInvalid, ModelUnavailable: The card is missing or wrong, or cannot be read now.
    """
    path = folder / CARD
    try:
        return AdapterCard.model_validate_json(read_file(path))
    except ValidationError as error:
        raise ModelInvalid(f"{path}: {first_problem(error)}") from error


def read_adapter(folder: Path) -> Adapter:
    """Read an adapter folder and check the digest of its files.

    Raises:
        ModelInvalid: A file is missing, unexpected or not the one that the card describes.
        ModelUnavailable: A file cannot be read now.
    """
    card = read_card(folder)
    lora = read_settings(folder / SETTINGS) if "lora" in card.parts else None
    files = {part: _read_part(folder, part) for part in card.parts}
    for part, name in _FILE.items():
        if part not in files and (folder / name).exists():
            raise ModelInvalid(
                f"{folder / name} exists, but {CARD} does not list it: remove it or write the card again"
            )
    found = digest_of(files)
    if found != card.weights_sha256:
        names = " and ".join(_FILE[part] for part in card.parts)
        raise ModelInvalid(
            f"{folder}: {names} has sha256 {found[:12]}…, the card says {card.weights_sha256[:12]}…; "
            "restore the file from the training that wrote it"
        )
    _require_sealed(folder, card, lora, files)
    return Adapter(folder=folder, card=card, lora=lora, weights=files.get("lora"), head=files.get("head"))


def _require_sealed(folder: Path, card: AdapterCard, lora: LoraSettings | None, files: Mapping[Part, bytes]) -> None:
    """Raise ModelInvalid if settings or card decide other margins than when the adapter was written."""
    seal = next(filter(None, map(seal_of, files.values())), None)
    if seal is None:
        seal = {} if lora is None else {SETTINGS: as_trained(lora, card.recipe)}
    found = _seal(card, lora)
    for part, sealed in seal.items():
        changed = difference(sealed, found.get(part, {}))
        if changed is not None:
            path = folder / (SETTINGS if part == SETTINGS else CARD)
            raise ModelInvalid(f"{path} was altered after the adapter was made: {changed}; restore the file")


def _seal(card: AdapterCard, lora: LoraSettings | None) -> dict[str, Any]:
    """Return what decides a margin or its reading beside the tensors, by part, as plain JSON."""
    body = json.loads(card.model_dump_json(include={"question", "calibrator", "thresholds"}))
    seal = {"question": body.pop("question")}
    if any(body.values()):  # a training fits them after its weights are written
        seal["calibration"] = body
    return seal if lora is None else seal | {SETTINGS: lora.deciding()}


def digest_of(files: Mapping[Part, bytes]) -> str:
    """Return the SHA-256 of the LoRA's file alone or, with a head, over the names and digests of all files."""
    digests = {_FILE[part]: hashlib.sha256(data).hexdigest() for part, data in files.items()}
    if list(digests) == [WEIGHTS]:
        return digests[WEIGHTS]
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def write_adapter(
    folder: Path,
    *,
    card: AdapterCard,
    lora: LoraSettings | None = None,
    weights: bytes | None = None,
    head: bytes | None = None,
) -> AdapterCard:
    """Write an adapter folder, and return the card with parts and digest set.

    The card is written last, so that a folder with a card is complete. Files of a former adapter are replaced.

    Args:
        folder: Created where it is missing.
        card: Card without parts and digest.
        lora: LoRA settings, with `weights` only.
        weights, head: Serialised safetensors files. They are written with a seal over question, settings and
            calibration in their headers.

    Raises:
        ModelInvalid: There is neither a LoRA nor a head, or settings and weights do not come together.
    """
    given: dict[Part, bytes | None] = {"lora": weights, "head": head}
    if (lora is None) != (weights is None) or (weights is None and head is None):
        raise ModelInvalid(f"{folder}: an adapter needs LoRA settings with weights, a head, or both")
    seal = _seal(card, lora)
    files = {part: with_seal(data, seal) for part, data in given.items() if data is not None}
    folder.mkdir(parents=True, exist_ok=True)
    card = card.model_copy(update={"parts": tuple(files), "weights_sha256": digest_of(files)})
    for name in (CARD, SETTINGS, *_FILE.values()):
        (folder / name).unlink(missing_ok=True)
    for part, data in files.items():
        (folder / _FILE[part]).write_bytes(data)
    if lora is not None:
        (folder / SETTINGS).write_text(settings_text(lora, base_model=card.base_model), encoding="utf-8")
    text = card.model_dump_json(indent=2, exclude=None if card.canary else {"canary"})
    (folder / CARD).write_text(text + "\n", encoding="utf-8")
    return card


def _read_part(folder: Path, part: Part) -> bytes:
    path = folder / _FILE[part]
    pickled = [folder / name for name in _PICKLES[part] if (folder / name).exists()]
    if pickled and not path.exists():
        raise ModelInvalid(f"{pickled[0]} is a pickle, which can run code; save the adapter as safetensors")
    return read_file(path)
