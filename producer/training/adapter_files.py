"""Checks that the files of an adapter are those registered, if they can be read from here."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from scanfleet.config.settings import Settings
from scanfleet.db.training.adapters import AdapterInfo
from scanfleet.errors import AccessDenied, BadSource, ImageError, SourceNotFound, StoreUnavailable
from scanfleet.storage import adapter_digest
from scanfleet.storage.open import open_store

MAX_CARD_BYTES = 64 << 20
_UNREADABLE = ("denied", "refused")  # reasons that say nothing about the content of an object


def require_weights(adapter: AdapterInfo, settings: Settings) -> str | None:
    """Check a folder by the digest of its weights, and a bucket by its card, which is written last.

    Returns why the files could not be checked; None if they are those registered. Raises BadSource if they differ.
    """
    if adapter.uri.startswith("builtin://"):  # ships with each worker
        return None
    if adapter.uri.startswith("s3://"):
        return _check_bucket(adapter, settings)
    folder = Path(os.path.realpath(Path(adapter.uri).expanduser()))
    if not folder.is_dir():
        return f"the folder {folder} does not exist on this machine"
    if not all(os.access(path, os.R_OK) for path in (folder, *folder.iterdir())):
        return f"the folder {folder} is not readable"
    try:
        found = adapter_digest.digest_of(folder)
    except BadSource as error:
        raise BadSource(f"adapter {adapter.id} is damaged: {error}; workers would refuse it") from None
    _require(adapter, found, str(folder))
    return None


def _check_bucket(adapter: AdapterInfo, settings: Settings) -> str | None:
    uri = f"{adapter.uri.rstrip('/')}/{adapter_digest.CARD}"
    try:
        data = open_store(uri, settings).fetch(uri, etag=None, max_bytes=MAX_CARD_BYTES).data
    except ImageError as error:  # raised by stores for any bad object
        if error.reason in _UNREADABLE:
            return f"{uri}: {error.detail}"
        raise BadSource(f"{uri}: {error.detail}; workers would refuse adapter {adapter.id}: push it again") from None
    except (
        StoreUnavailable,
        AccessDenied,
        SourceNotFound,
        BadSource,
    ) as error:  # BadSource: this machine has no access configured
        return str(error)
    try:
        card: Any = json.loads(data)
    except ValueError:
        card = None
    found = card.get("weights_sha256") if isinstance(card, dict) else None
    _require(adapter, str(found), adapter.uri)
    return None


def _require(adapter: AdapterInfo, found: str, where: str) -> None:
    if found != adapter.weights_sha256:
        raise BadSource(
            f"{where} holds other weights ({found[:12]}…) than those of adapter {adapter.id} "
            f"({adapter.weights_sha256[:12]}…), and workers would refuse it: restore them"
        )
