"""Scores a stream of images without queue, ledger and broker, in a child process that has the model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from scanfleet.checks.check import Check, builtin_names
from scanfleet.checks.multi import load_checks, require_one
from scanfleet.config.model_names import require_address, require_model
from scanfleet.config.settings import Settings
from scanfleet.db.scans.new_images import NewImage
from scanfleet.producer.local.child import Child
from scanfleet.producer.local.workers import require_worker_extra
from scanfleet.producer.scans import session
from scanfleet.producer.sources.named import NamedImages


def score_named(
    named: NamedImages, settings: Settings, *, check: Check, adapter: Path | None
) -> Iterator[dict[str, Any]]:
    """Yield the messages of `worker.commands.score`, with a result for each image in its order.

    adapter: the folder of one; None: the one that ships with the built-in model. Sources that cannot be read are
    entered in `named.errors`. Raises the last of these if there is no image at all, MissingExtra, UnknownModel,
    Retryable, WorkerDied, ChildFailed.
    """
    require_model(settings.model, elsewhere=False)
    require_address(settings)
    stream = iter(named)
    first = next(stream, None)  # before a model is loaded in vain
    if first is None:
        raise named.errors[-1]
    require_worker_extra()
    asked = {"check": check.model_dump(mode="json"), "adapter": None if adapter is None else os.path.abspath(adapter)}
    with Child(settings, "scanfleet.worker.commands.score") as child:
        child.feed(chain([asked], _entries(chain([first], stream))))
        yield from child.messages()


def _entries(images: Iterator[NewImage]) -> Iterator[dict[str, Any]]:
    return ({"uri": image.uri, "root": image.root, "etag": image.etag} for image in images)


def find_check(settings: Settings, name: str) -> Check:
    """Load a check. A file or a built-in check needs no ledger; an added check is stored in one."""
    if name.endswith(".toml") or name in builtin_names():
        return require_one(load_checks(name), name=name)
    with session.existing_ledger(settings) as engine:
        return session.find_check(engine, name)
