"""Registers the shipped adapters, and brings the files of any adapter into a local folder."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import sqlalchemy as sa
import structlog

from scanfleet.checks.check import Check, builtin_names, load_check
from scanfleet.config.settings import Settings
from scanfleet.db.engine import transaction
from scanfleet.db.training.adapters import AdapterInfo, register_adapter
from scanfleet.db.training.champions import champion, is_decided, promote
from scanfleet.errors import BadSource, RequestError
from scanfleet.models import pocket
from scanfleet.models.adapters.card import CARD, AdapterCard, read_card
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.inputs.sources import POCKET
from scanfleet.models.types import ModelIdentity
from scanfleet.storage import adapter_files
from scanfleet.storage.adapter_digest import digest_of, is_digest

log = structlog.get_logger()

BUILT_IN = "builtin"  # builtin://pocket/overlay: shipped with the code, wherever that is installed


class AdapterFolders:
    """Adapter files on this machine. Those in a bucket are fetched once, into a folder named by their digest."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def find(self, adapter: AdapterInfo) -> Path:
        """Return the folder with the files of an adapter. Raises ModelInvalid, StoreUnavailable."""
        if not is_digest(adapter.weights_sha256):  # it becomes the name of a folder
            raise ModelInvalid(f"{adapter.uri} is registered without a SHA-256 of its weights: register it again")
        folder = self._locate(adapter)
        found = read_card(folder).weights_sha256
        if found != adapter.weights_sha256:
            raise ModelInvalid(
                f"{adapter.uri} now holds other weights ({found[:12]}…) than those registered "
                f"({adapter.weights_sha256[:12]}…): restore those, or register and promote the new ones"
            )
        return folder

    def _locate(self, adapter: AdapterInfo) -> Path:
        if adapter.uri.startswith(f"{BUILT_IN}://"):
            return pocket.adapter_folder(PurePosixPath(urlsplit(adapter.uri).path).name)
        if not adapter.uri.startswith("s3://"):
            return Path(adapter.uri)
        folder = self._settings.data_dir / "adapters" / adapter.weights_sha256
        try:
            if folder.exists() and not _holds(folder, adapter.weights_sha256):
                log.warning("adapter_copy_dropped", folder=str(folder))
                shutil.rmtree(folder, ignore_errors=True)
            adapter_files.pull(adapter.uri, folder, self._settings, digest=adapter.weights_sha256)
        except RequestError as error:
            raise ModelInvalid(str(error)) from error
        return folder


def _holds(folder: Path, digest: str) -> bool:
    """Return whether a copy is intact: it may be damaged, or the bucket held other files when it was fetched."""
    try:
        return digest_of(folder) == digest
    except BadSource:
        return False


def register_shipped(engine: sa.Engine, identity: ModelIdentity, *, folder: Path | None = None) -> int:
    """Register the adapters that ship with a built-in model, and promote them where no usable champion exists.

    folder: of the adapters; None: that of the pocket model.
    An adapter of an older release of the same built-in model cannot run on these weights, so it is replaced.
    Returns the number of shipped adapters. Raises DatabaseUnavailable.
    """
    if identity.base_model != POCKET:
        return 0
    cards = sorted((folder or pocket.folder() / "adapters").glob(f"*/{CARD}"))
    shipped = [info for path in cards if (info := _read(path, identity)) is not None]
    for info in shipped:
        try:
            _register(engine, info)
        except sa.exc.IntegrityError:
            _register(engine, info)  # another worker that starts at this moment registered it first
    return len(shipped)


def _read(path: Path, identity: ModelIdentity) -> AdapterInfo | None:
    try:
        card = read_card(path.parent)
    except ModelInvalid as error:
        log.warning("shipped_adapter_refused", error=str(error))
        return None
    if card.base_revision != identity.revision or card.question.name not in builtin_names():
        log.warning("shipped_adapter_refused", folder=str(path.parent), error="made for another base or check")
        return None
    check = load_check(card.question.name)
    return info_of(card, check, uri=f"{BUILT_IN}://{identity.base_model}/{path.parent.name}")


def info_of(card: AdapterCard, check: Check, *, uri: str, training_id: int | None = None) -> AdapterInfo:
    """Return an adapter's record for the registry. training_id: of the training that made it."""
    return AdapterInfo(
        check_name=check.name,
        check_hash=check.scored_hash,
        base_model=card.base_model,
        base_revision=card.base_revision,
        uri=uri,
        weights_sha256=card.weights_sha256,
        recipe=dict(card.recipe),
        metrics=dict(card.metrics),
        calibrator=None if card.calibrator is None else asdict(card.calibrator),
        thresholds=None if card.thresholds is None else asdict(card.thresholds),
        canary=None if card.canary is None else card.canary.model_dump(mode="json"),
        training_id=training_id,
    )


def _register(engine: sa.Engine, info: AdapterInfo) -> None:
    with transaction(engine) as connection:
        adapter_id = register_adapter(connection, info)
        in_use = champion(connection, info.check_name, info.base_model)
        stale = in_use is not None and in_use.base_revision != info.base_revision
        if stale or not is_decided(connection, info.check_name, info.base_model):
            promote(connection, adapter_id, kind="shipped", why="ships with the base model")
            log.info("shipped_adapter_in_use", check=info.check_name, adapter=adapter_id)
