"""The digest of an adapter's files, and whether they are those that it was made with.

It is computed as `models.adapters.card` does. The digest is that of the tensors; their file seals in its header what
else decides a margin: the LoRA settings, the question and the calibration. Files of earlier releases have no seal; for
those the recipe in the card tells the scaling.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from operator import eq
from pathlib import Path
from typing import Any

from scanfleet.errors import BadSource

CARD, SETTINGS = "adapter.json", "adapter_config.json"
_PARTS = {"lora": "adapter_model.safetensors", "head": "head.safetensors"}
_SEAL = "scanfleet"  # in a safetensors file's metadata
_MAX_HEADER_BYTES = 100_000_000  # the limit of safetensors
_CALIBRATION = ("calibrator", "thresholds")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_READ_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class _Card:
    parts: tuple[str, ...]
    weights_sha256: str
    body: Mapping[str, Any]


def is_digest(text: str) -> bool:
    """Return True if a text is a SHA-256, and so may name a folder."""
    return _DIGEST.fullmatch(text) is not None


def digest_of(folder: Path) -> str:
    """Return the SHA-256 of an adapter, computed from its files.

    Raises BadSource when it is not the one that the card names, when there is no valid card, and when settings,
    question or calibration are not those that the adapter was made with.
    """
    card = _parse(_read(folder / CARD), str(folder / CARD))
    digests = {_PARTS[part]: _sha256(folder / _PARTS[part]) for part in card.parts}
    found = digests[_PARTS["lora"]] if card.parts == ("lora",) else _sha256_of_all(digests)
    if found != card.weights_sha256:
        raise BadSource(f"{folder}: the weights have sha256 {found[:12]}…, its card names {card.weights_sha256[:12]}…")
    _require_unaltered(folder, card)
    return found


def names(card: bytes, digest: str) -> bool:
    """Return True if a card belongs to these weights."""
    try:
        return _parse(card, CARD).weights_sha256 == digest
    except BadSource:
        return False


def _require_unaltered(folder: Path, card: _Card) -> None:
    settings = _object(_read(folder / SETTINGS)) if "lora" in card.parts else {}
    seal = next(filter(None, (_seal_of(folder / _PARTS[part]) for part in card.parts)), None)
    if seal is None:
        recipe = _mapping(card.body.get("recipe"))
        if "lora" not in card.parts or "alpha" not in recipe or recipe.get("trains") == "head":
            return
        seal = {SETTINGS: {"lora_alpha": recipe["alpha"], "use_rslora": False}}
    found = {
        SETTINGS: settings,
        "question": _mapping(card.body.get("question")),
        "calibration": {name: card.body.get(name) for name in _CALIBRATION},
    }
    for part, sealed in seal.items():
        same = _same_setting if part == SETTINGS else eq
        changed = [name for name, value in sealed.items() if not same(found.get(part, {}).get(name), value)]
        if changed:
            path = folder / (SETTINGS if part == SETTINGS else CARD)
            raise BadSource(f"{path} was altered after the adapter was made ({', '.join(changed)}): restore the file")


def _seal_of(path: Path) -> Mapping[str, dict[str, Any]] | None:
    """Return the seal in a safetensors file; None if it has none."""
    try:
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0  # of the header in bytes
            header = _object(file.read(length)) if length <= _MAX_HEADER_BYTES else {}
    except OSError as error:
        raise BadSource(f"{path} cannot be read ({error.strerror}): give the whole folder of an adapter") from None
    metadata = header.get("__metadata__")
    seal = _object(str(metadata.get(_SEAL)).encode()) if isinstance(metadata, dict) else {}
    return {part: body for part, body in seal.items() if isinstance(body, dict)} or None


def _object(data: bytes) -> dict[str, Any]:
    """Return a JSON object; an empty one for anything else, which no digest or reader accepts."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return _mapping(found)


def _mapping(found: Any) -> dict[str, Any]:
    return found if isinstance(found, dict) else {}


def _same_setting(found: Any, sealed: Any) -> bool:
    """Return whether two LoRA settings do the same: absent, unset and empty are one, and names are in no order."""
    if isinstance(found, list) and isinstance(sealed, list):
        return sorted(map(str, found)) == sorted(map(str, sealed))
    return (found or None) == (sealed or None)


def _parse(data: bytes, where: str) -> _Card:
    try:
        raw: Any = json.loads(data)
    except (ValueError, RecursionError):
        raise BadSource(f"{where} is not JSON: restore it") from None
    fields = raw if isinstance(raw, dict) else {}
    digest, parts = fields.get("weights_sha256"), fields.get("parts", ["lora"])  # the first cards named no parts
    if not isinstance(digest, str) or not is_digest(digest):
        raise BadSource(f"{where} names no SHA-256 of the weights: restore it")
    if not isinstance(parts, list) or not parts or not all(str(part) in _PARTS for part in parts):
        raise BadSource(f"{where}: parts must be some of {', '.join(_PARTS)}")
    return _Card(parts=tuple(parts), weights_sha256=digest, body=fields)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadSource(f"{path} cannot be read ({error.strerror}): give the whole folder of an adapter") from None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_READ_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise BadSource(f"{path} cannot be read ({error.strerror}): give the whole folder of an adapter") from None
    return digest.hexdigest()


def _sha256_of_all(digests: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
