"""The state from which a training goes on."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from models.files import write_whole

_DIGEST = hashlib.sha256().digest_size  # bytes


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Tensors, numbers, words and containers of them, after the digest of all."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    body = buffer.getvalue()
    write_whole(path, hashlib.sha256(body).digest() + body)


def load_state(path: Path) -> dict[str, Any] | None:
    """What `save_state` wrote, on the host; None where there is nothing, or something damaged.

    Only data is read, never code (`weights_only`). A damaged file costs time, not truth: training begins again.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    digest, body = data[:_DIGEST], data[_DIGEST:]
    if hashlib.sha256(body).digest() != digest:
        return None
    state: dict[str, Any] = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    return state
