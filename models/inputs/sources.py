"""Locate a model: a hub id, a local folder or the built-in pocket model, always as a folder.

A hub repository is first downloaded into the hub cache: configuration, tokenizer and safetensors files only, so that
no Python file and no pickle reaches this machine. Then it is read like any folder. The network can fail in this one
place only, and every model has an exact revision.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from scanfleet.models.errors import ModelInvalid, ModelUnavailable, ModelUnknown, one_line, unreadable

POCKET = "pocket"
SILENT_SECONDS = 10.0  # without a byte from the hub it counts as unreachable
REFUSALS = (401, 403, 404, 410, 451)  # HTTP statuses that are the same for the same request
_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.safetensors")
_PARTS = ("qformer_tokenizer", "vision-lora")  # subfolders of a checkpoint that belong to it


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model on local disk.

    Attributes:
        name: The name it was asked for by.
        folder: Folder with its files.
        revision: The hub commit, or "sha256:..." over the files of a local folder.
    """

    name: str
    folder: Path
    revision: str


def locate(model: str, *, revision: str | None = None) -> Checkpoint:
    """Find a model, and download it when needed.

    Args:
        model: "pocket", a folder, or a hub id "owner/name".
        revision: Hub commit, tag or branch; for a folder the "sha256:..." that it must have. None: any.

    Raises:
        ModelUnknown: The hub has no such model, or refuses it.
        ModelInvalid: There is no such folder, or it has another revision.
        ModelUnavailable: The hub or the disk cannot be reached now.
    """
    if model == POCKET:
        from scanfleet.models import pocket

        return _local(POCKET, pocket.folder(), revision)
    folder = Path(model).expanduser()
    if folder.is_dir():
        return _local(model, folder, revision)
    if model.startswith(("/", ".", "~")) or model.count("/") != 1:
        raise ModelInvalid(f"no model {model!r}: give 'pocket', an existing folder or a hub id like owner/name")
    return _download(model, revision)


def is_pocket(checkpoint: Checkpoint) -> bool:
    """Return whether these are the files of the built-in model, under whatever name."""
    from scanfleet.models import pocket

    return checkpoint.revision == folder_revision(pocket.folder())


def _local(name: str, folder: Path, revision: str | None) -> Checkpoint:
    if not (folder / "config.json").is_file():
        raise ModelInvalid(f"{folder} holds no model, because config.json is missing")
    try:
        found = folder_revision(folder)
    except OSError as error:
        raise unreadable(str(folder), error) from error
    if revision is not None and revision != found:
        raise ModelInvalid(f"{folder} is {found}, not the pinned {revision}; restore its files or change the pin")
    return Checkpoint(name=name, folder=folder, revision=found)


def _download(repo_id: str, revision: str | None) -> Checkpoint:
    from huggingface_hub import errors, snapshot_download

    silence = _silence(repo_id, revision)
    try:
        folder = Path(
            snapshot_download(
                repo_id, revision=revision, allow_patterns=list(_FILES), local_files_only=silence is not None
            )
        )
    except errors.GatedRepoError as error:
        raise ModelUnknown(f"{repo_id} is gated: accept its terms on the hub and set HF_TOKEN") from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise ModelUnknown(f"the hub has no {repo_id} at revision {revision or 'main'}; check the name") from error
    except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]  # whichever client the hub library uses
        if (status := _refusal(error)) is not None:
            raise ModelUnknown(
                f"the hub answers {status} for {repo_id} at revision {revision or 'main'}; check the name, "
                "and HF_TOKEN if it is private"
            ) from error
        raise ModelUnavailable(f"cannot fetch {repo_id} from the hub now: {one_line(silence or error)}") from error
    except (ValueError, LookupError, AttributeError, TypeError) as error:  # a page, or JSON of something else
        raise ModelUnavailable(f"cannot fetch {repo_id}: no hub answers there: {one_line(error)}") from error
    return Checkpoint(name=repo_id, folder=folder, revision=folder.name)


def _silence(repo_id: str, revision: str | None) -> Exception | None:
    """Return the error of a hub that cannot be reached; None if it answers, whatever it says, or is not to be asked.

    `snapshot_download` would wait for ever for a hub that accepts connections and says nothing.
    """
    from huggingface_hub import HfApi, errors

    try:
        HfApi().model_info(repo_id, revision=revision, timeout=SILENT_SECONDS)
    except (errors.HfHubHTTPError, errors.HFValidationError, errors.OfflineModeIsEnabled):
        return None
    except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]
        return error
    except (ValueError, LookupError, AttributeError, TypeError):  # no hub, see `_download`
        return None
    return None


def _refusal(error: BaseException | None) -> int | None:
    """Return the HTTP status with which a hub refused a name, from an error or its causes; None: it did not.

    The hub library reports refusals that it does not know, such as those of mirrors, like an unreachable hub.
    """
    from huggingface_hub.errors import HfHubHTTPError

    while error is not None:
        if isinstance(error, HfHubHTTPError) and error.response.status_code in REFUSALS:
            return int(error.response.status_code)
        error = error.__cause__
    return None


def folder_revision(folder: Path) -> str:
    """Return "sha256:..." over the names and contents of a folder's weight, configuration and tokenizer files.

    Raises:
        OSError: A file cannot be read.
    """
    digest = hashlib.sha256()
    for path in _files(folder):
        stat = path.stat()
        name = path.relative_to(folder).as_posix()
        digest.update(f"{name}\0{file_sha256(path, stat.st_size, stat.st_mtime_ns)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def _files(folder: Path) -> Iterator[Path]:
    places = (folder, *(folder / part for part in _PARTS))
    found = {path for place in places for pattern in _FILES for path in place.glob(pattern) if path.is_file()}
    return iter(sorted(found))


@lru_cache(maxsize=4096)
def file_sha256(path: Path, _size: int, _mtime_ns: int) -> str:
    """Return the hex digest of one file.

    Size and time are the cache's key, so an untouched file is read once per process.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
