"""What decides a margin beside the tensors, inside the file of the tensors, so that its digest covers it.

A safetensors file begins with a header whose `__metadata__` is free text. `write_adapter` puts there the LoRA settings
that change inference, the question, and the calibration. Releases before this one skip that text: for them it is the
same file with the same digest. Files that they wrote have no seal; for those, the recipe in the card tells the scaling.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

KEY = "scanfleet"  # in the metadata
Seal = Mapping[str, dict[str, Any]]  # part -> its content as plain JSON
_LENGTH = struct.Struct("<Q")  # of the header in bytes, before it
_ALIGNED = 8  # bytes; safetensors fills the header with blanks up to a multiple


def with_seal(data: bytes, seal: Seal) -> bytes:
    """Return a safetensors file with the seal in its header; other bytes as they are, which no reader takes anyway."""
    header = _header(data)
    if header is None:
        return data
    metadata = {**header.get("__metadata__", {}), KEY: json.dumps(seal, sort_keys=True)}
    text = json.dumps({"__metadata__": metadata, **{k: v for k, v in header.items() if k != "__metadata__"}}).encode()
    text += b" " * (-len(text) % _ALIGNED)
    return _LENGTH.pack(len(text)) + text + data[_LENGTH.size + _LENGTH.unpack_from(data)[0] :]


def seal_of(data: bytes) -> Seal | None:
    """Return the seal in a safetensors file; None if it has none."""
    metadata = (_header(data) or {}).get("__metadata__")
    try:
        found = json.loads(metadata[KEY]) if isinstance(metadata, dict) else None
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return {part: body for part, body in found.items() if isinstance(body, dict)} if isinstance(found, dict) else None


def difference(sealed: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    """Return `lora_alpha is 128, not 64` for the first value that differs from the sealed one; None: all are equal."""
    for name in sorted({*sealed, *found}):
        if found.get(name) != sealed.get(name):
            return f"{name} is {_shown(found.get(name))}, not {_shown(sealed.get(name))}"
    return None


def _header(data: bytes) -> dict[str, Any] | None:
    if len(data) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack_from(data)
    try:
        header = json.loads(data[_LENGTH.size : _LENGTH.size + length]) if length <= len(data) else None
    except (ValueError, RecursionError):
        return None
    return header if isinstance(header, dict) else None


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:60] + "…"
