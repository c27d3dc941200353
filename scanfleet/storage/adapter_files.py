"""Copy the files of an adapter between a local folder and a place that all workers reach.

Each adapter is stored under its digest (`scanfleet.storage.adapter_digest`), so its files never change. The card
(adapter.json) is written last: a folder or prefix with a card is complete. `models.adapters.card` reads cards.
"""

from __future__ import annotations

import glob
import os
import secrets
import shutil
import time
from contextlib import suppress
from itertools import islice
from pathlib import Path, PurePosixPath

from scanfleet.config.settings import Settings
from scanfleet.errors import BadSettings, BadSource, ImageError, SourceNotFound, StoreUnavailable
from scanfleet.storage.adapter_digest import CARD, SETTINGS, digest_of, names
from scanfleet.storage.base import ObjectStore
from scanfleet.storage.open import open_store
from scanfleet.storage.safe_open import PART

MAX_FILES = 1000  # per adapter; a prefix with more holds something else
MAX_FILE_BYTES = 5 << 30
MAX_BYTES = 16 << 30  # per adapter
STALE_SECONDS = 24 * 3600.0  # after this a folder that was being filled counts as abandoned


def shared_place(settings: Settings) -> str:
    """Return the shared place of adapters: `adapters_url`, else a folder in `data_dir`. Raises BadSettings."""
    place = settings.adapters_url
    if place is None:
        return str(settings.make_folder("adapters"))
    if place.startswith("s3://"):
        return place.rstrip("/")
    if "://" in place:
        raise BadSettings("adapters_url: give a folder or s3://bucket/prefix")
    return str(Path(place).expanduser().absolute())


def push(folder: Path, destination: str, settings: Settings) -> str:
    """Copy an adapter to a folder or s3://bucket/prefix. Returns its uri there.

    An adapter that is there already gets only the files that it lacks, and its own settings.
    Raises BadSource for a folder that holds no valid adapter, SourceNotFound, AccessDenied, StoreUnavailable.
    """
    digest = digest_of(folder)
    here, source = _open(str(folder), settings)
    there, place = _open(destination, settings)
    target = f"{place.rstrip('/')}/{digest}"
    files = _listed(here, f"{source}/")
    held = _held(there, f"{target}/")
    card = _fetch(here, f"{source}/{CARD}")
    known = _fetch(there, f"{target}/{CARD}") if CARD in held else None
    if known is not None and known != card and names(known, digest):
        return target  # the same weights with another card: the first one stays, so that no mixture arises
    for name in sorted(files.keys() - {CARD}):
        whole = held.get(name) == files[name]
        if whole and name == SETTINGS:  # small, and altered at the same size more often than the tensors
            whole = _fetch(there, f"{target}/{name}") == _fetch(here, f"{source}/{name}")
        if known != card or not whole:
            there.put(f"{target}/{name}", _fetch(here, f"{source}/{name}"))
    if known != card:
        there.put(f"{target}/{CARD}", card)
    return target


def pull(uri: str, folder: Path, settings: Settings, *, digest: str | None = None) -> None:
    """Copy an adapter into a local folder, which appears once it is complete and its digest correct.

    digest: the required digest of its weights; None: any. Does nothing where the folder holds it already. Raises
    BadSource for another adapter, or a folder with other content, SourceNotFound, AccessDenied, StoreUnavailable.
    """
    if (folder / CARD).is_file():
        _require(digest, digest_of(folder), folder)
        return
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise BadSource(f"{folder} exists already and holds no adapter: name another folder")
    store, source = _open(uri, settings)
    found = _listed(store, f"{source}/").keys()
    if CARD not in found:
        raise BadSource(f"{uri} holds no {CARD}: give the folder or prefix of one adapter, pushed to its end")
    filling = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}{PART}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder)
        for name in sorted(found):
            target = filling / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(_fetch(store, f"{source}/{name}"))
        _require(digest, _digest_of_copy(filling, uri), uri)
        _put_in_place(filling, folder)
    except OSError as error:
        raise StoreUnavailable(f"cannot write {folder}: {error.strerror}") from error
    finally:
        shutil.rmtree(filling, ignore_errors=True)


def _digest_of_copy(filling: Path, uri: str) -> str:
    """Return the digest of what was just fetched; errors name its source. Raises BadSource."""
    try:
        return digest_of(filling)
    except BadSource as error:
        raise BadSource(str(error).replace(str(filling), uri.rstrip("/"))) from None


def _require(digest: str | None, found: str, where: str | Path) -> None:
    if digest not in (None, found):
        raise BadSource(
            f"{where} holds other weights ({found[:12]}…) than were registered ({str(digest)[:12]}…): "
            "restore them, or register and promote the new ones"
        )


def _open(uri: str, settings: Settings) -> tuple[ObjectStore, str]:
    """Return the store of a folder or prefix, and the uri that its listing begins with."""
    place = uri.rstrip("/") if "://" in uri else os.path.realpath(Path(uri).expanduser())
    return open_store(place, settings, root=place), place


def _listed(store: ObjectStore, prefix: str) -> dict[str, int]:
    """Return the names below a prefix with their sizes in bytes. Raises BadSource if some lead out."""
    found = list(islice(store.list(prefix), MAX_FILES + 1))
    if len(found) > MAX_FILES:
        raise BadSource(f"{prefix} holds more than {MAX_FILES} files: give the folder or prefix of the adapter alone")
    sizes = {info.uri.removeprefix(prefix): info.size or 0 for info in found if not info.uri.endswith(PART)}
    for name in sizes:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or str(path) != name or "\0" in name:
            raise BadSource(f"{prefix}{name}: a file name that leads out of the adapter's folder")
    if sum(sizes.values()) > MAX_BYTES:
        raise BadSource(f"{prefix} holds more than {MAX_BYTES} bytes: give the folder or prefix of the adapter alone")
    return sizes


def _held(store: ObjectStore, prefix: str) -> dict[str, int]:
    try:
        return _listed(store, prefix)
    except SourceNotFound:  # a folder that does not exist yet; a missing bucket is reported by the write
        return {}


def _fetch(store: ObjectStore, uri: str) -> bytes:
    try:
        return store.fetch(uri, etag=None, max_bytes=MAX_FILE_BYTES).data
    except ImageError as error:  # the store's error for a single object
        raise BadSource(f"{uri}: {error.reason}: {error.detail}") from None


def _put_in_place(filling: Path, folder: Path) -> None:
    try:
        filling.rename(folder)
    except OSError:
        if not (folder / CARD).is_file():  # another process finished at the same time, with the same files
            raise


def _remove_stale(folder: Path) -> None:
    """Remove what a killed process left of the same adapter."""
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.*{PART}"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(left)
