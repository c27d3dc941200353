"""Valid model names: a built-in one, a folder, a repository of the hub, a prefix of a bucket, or one at an endpoint.

Loads nothing.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from scanfleet.config.endpoints import PREFIX, model_at_endpoint
from scanfleet.config.validation import nearest
from scanfleet.errors import BadSettings

if TYPE_CHECKING:
    from scanfleet.config.settings import Settings

BUILTIN_MODELS = ("pocket",)
# They score by hashing pixels, for tests of the fleet; no help text names them. Batches of the last two shared a queue.
FAKE_MODELS = ("fake", "fake-1", "fake.1")
_IN_BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/\S+", re.ASCII)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


def require_address(settings: Settings) -> None:
    """Refuse a model at an endpoint when no address is set. Raises BadSettings."""
    if model_at_endpoint(settings.model) and settings.endpoint_url is None:
        raise BadSettings(f"endpoint_url: {settings.model} needs the server's address (SCANFLEET_ENDPOINT_URL)")


def require_model(name: str, *, elsewhere: bool) -> None:
    """Refuse a model that no worker can load: its scan would wait forever.

    elsewhere: workers may run on other machines, where an absolute path may exist although it does not here.
    Whether a hub id exists is for the worker to find out. Raises BadSettings.
    """
    if (
        name in (*BUILTIN_MODELS, *FAKE_MODELS)
        or _HUB_ID.fullmatch(name)
        or _IN_BUCKET.fullmatch(name)
        or model_at_endpoint(name)
    ):
        return
    if name.startswith(PREFIX):
        raise BadSettings(f"model: {name!r}: after {PREFIX} comes what the server calls its model (endpoint:gpt-4o)")
    path = Path(name).expanduser()
    if name and os.path.isdir(path) and not (path / "config.json").is_file():
        raise BadSettings(f"model: the folder {name} holds no model: config.json is missing")
    if name and (os.path.isdir(path) or (elsewhere and path.is_absolute())):
        return
    near = nearest(name.lower(), BUILTIN_MODELS)
    meant = f" (did you mean {near}?)" if near else ""
    kinds = (
        f"a built-in name ({', '.join(BUILTIN_MODELS)}), an existing folder or a hub id owner/name, "
        "s3://bucket/prefix or endpoint:NAME"
    )
    raise BadSettings(f"model: {name!r} is unknown{meant}: give {kinds}")
