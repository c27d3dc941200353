"""Checkpoints from which an interrupted training resumes."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from scanfleet.models.files import write_whole

_DIGEST = hashlib.sha256().digest_size  # bytes


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint: the SHA-256 of the content, then the content.

    Args:
        path: Final path; the file is complete or absent.
        state: Tensors of any shape, numbers, strings and containers of them.

    Raises:
        OSError: The file cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    body = buffer.getvalue()
    write_whole(path, hashlib.sha256(body).digest() + body)


def load_state(path: Path) -> dict[str, Any] | None:
    """Read what `save_state` wrote.

    Only data is read, never code (`weights_only`). A damaged file costs time but not correctness: training starts
    again.

    Returns:
        The state with its tensors on the host; None where the file is missing or damaged.

    Raises:
        OSError: The file exists but cannot be read.
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
