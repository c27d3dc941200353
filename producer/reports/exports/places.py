"""Where an export goes: a file, a device, stdout, an object, a folder, or a prefix. All of it appears, or nothing."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, cast

from scanfleet.config.settings import Settings
from scanfleet.errors import RequestError
from scanfleet.producer.reports.exports.formats import Export
from scanfleet.producer.reports.output import target
from scanfleet.storage.s3.uri import is_s3


def write_export(chosen: Export, place: str | None, settings: Settings) -> int:
    """Write to a file, device, object, or stdout, and return the number of lines; NAME.metadata.json beside NAME.db.

    Raises RequestError, and what `Export.write` raises.
    """
    with file_target(place, settings, form=chosen.form) as file:
        n = chosen.write(file)
    if chosen.form == "sqlite" and place is not None and Path(place).suffix:
        folder, slash, name = place.rpartition("/")
        stem = Path(name).stem
        with file_target(f"{folder}{slash}{stem}.metadata.json", settings, form="json") as file:
            file.write(chosen.metadata(stem))
    return n


@contextmanager
def file_target(place: str | None, settings: Settings, *, form: str) -> Iterator[IO[bytes]]:
    """Open a place as `producer.reports.output.target` does, or an object, s3://bucket/key. Raises RequestError."""
    if place is None or not is_s3(place):
        with target(None if place is None else Path(place), form=form) as file:
            yield file
        return
    from scanfleet.storage.s3.store import S3Store
    from scanfleet.storage.s3.upload import completed

    with completed(S3Store.connect(settings).upload(place)) as upload:
        yield cast("IO[bytes]", upload)


@contextmanager
def folder_target(place: str, settings: Settings) -> Iterator[Path]:
    """Yield a folder that becomes `place`, or whose files become the objects below s3://bucket/prefix.

    A local one must be new or empty. Objects of other names stay. Raises RequestError.
    """
    if not is_s3(place):
        with appearing_folder(Path(place)) as folder:
            yield folder
        return
    from scanfleet.storage.s3.store import S3Store
    from scanfleet.storage.s3.upload import completed

    store = S3Store.connect(settings)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield folder
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        with ExitStack() as stack:  # none is completed before all are sent
            for path in files:
                uri = f"{place.rstrip('/')}/{path.relative_to(folder)}"
                upload = stack.enter_context(completed(store.upload(uri)))
                with path.open("rb") as file:
                    shutil.copyfileobj(file, upload, 1 << 20)
                upload.finish()


@contextmanager
def appearing_folder(place: Path) -> Iterator[Path]:
    """Yield a folder that becomes `place`, which must be new or empty. Raises RequestError."""
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise RequestError(f"{place} exists already: name a new folder")
    made: Path | None = None
    try:
        made = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.absolute().parent))
        made.chmod(0o755)
        yield made
        if place.exists():
            place.rmdir()
        made.rename(place)
    except OSError as error:
        raise RequestError(f"cannot write {place}: {error.strerror}") from None
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)
