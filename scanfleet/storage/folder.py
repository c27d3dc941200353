"""Files below a folder.

A uri is an absolute path, `s3://bucket/key`, or `mem://...`. Listing is lazy: an archive of millions is never in
memory. Reading is capped, and pinned to the version that was listed.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable, Iterator, MutableSequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from scanfleet.errors import AccessDenied, BadSource, SourceNotFound, StoreUnavailable
from scanfleet.storage.base import CHUNK_BYTES, FetchedObject, ObjectInfo, Span, fetch_error, refused
from scanfleet.storage.deadline import Deadline
from scanfleet.storage.file_uri import file_etag, path_to_uri, uri_to_path
from scanfleet.storage.safe_open import Refused, is_beneath, names_beneath, open_beneath, write_beneath


class FolderStore:
    """Regular files below `root`. Symlinks that lead out of it, and special files, are refused.

    skip: returns True for a subfolder that is not wanted. Its files are listed last and by their uri alone, so that
    they can be counted; a folder in it that cannot be opened counts as one.
    deadline_seconds: for reading one file. It is checked between two reads: a single read that the kernel never
    answers (a dead network mount) ends only with the process.
    """

    def __init__(
        self,
        root: Path,
        *,
        skip: Callable[[str], bool] | None = None,
        deadline_seconds: float = math.inf,
    ) -> None:
        self.root = Path(os.path.realpath(root))
        self._skip = skip
        self._deadline_seconds = deadline_seconds

    def list(self, location: str, *, after: str | None = None) -> Iterator[ObjectInfo]:
        del after  # the order is the file system's; the ledger drops images that it already holds
        top = Path(location)
        if not top.is_dir():
            raise SourceNotFound(f"no such folder: {location}")
        # A stack and no recursion: a hostile archive nests deeper than Python calls.
        stack = [os.fsencode(os.path.realpath(top))]
        unwanted: MutableSequence[bytes] = []
        first = True
        while stack:
            subfolders: MutableSequence[bytes] = []
            yield from self._files(stack.pop(), subfolders, unwanted, first=first)
            stack += sorted(subfolders, reverse=True)
            first = False
        yield from (ObjectInfo(uri=path_to_uri(path)) for path in names_beneath(unwanted))

    def _files(
        self, folder: bytes, subfolders: MutableSequence[bytes], unwanted: MutableSequence[bytes], *, first: bool
    ) -> Iterator[ObjectInfo]:
        """Yield the files of one folder, and fill `subfolders` and `unwanted` on the way."""
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        skipped = self._skip is not None and self._skip(os.fsdecode(entry.path))
                        (unwanted if skipped else subfolders).append(entry.path)
                    elif info := self._info(entry):
                        yield info
        except PermissionError:
            if first:
                raise AccessDenied(f"no permission to read the folder {os.fsdecode(folder)}") from None
            raise AccessDenied(
                f"no permission to read the subfolder {os.fsdecode(folder)}: grant it or --exclude it"
            ) from None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:  # reported, not skipped: there may be images in it
                raise BadSource(
                    f"the path {os.fsdecode(folder)[:100]}… is too long to be opened: --exclude it"
                ) from None
            if first or error.errno not in (errno.ENOENT, errno.ENOTDIR):  # gone since its parent was read
                raise StoreUnavailable(f"cannot list {os.fsdecode(folder)}: {error.strerror}") from error

    def _info(self, entry: os.DirEntry[bytes]) -> ObjectInfo | None:
        """Include files that cannot be read, as a link that leads out or a pipe: they become visible failures."""
        try:
            status = entry.stat(follow_symlinks=not self._leads_astray(entry))
        except OSError:
            return None  # gone since the directory was read
        return ObjectInfo(uri=path_to_uri(entry.path), etag=file_etag(status), size=status.st_size)

    def _leads_astray(self, entry: os.DirEntry[bytes]) -> bool:
        return entry.is_symlink() and not (os.path.exists(entry.path) and is_beneath(self.root, entry.path))

    def fetch(self, uri: str, *, etag: str | None, max_bytes: int, span: Span | None = None) -> FetchedObject:
        try:
            return self._read(uri_to_path(uri), etag=etag, max_bytes=max_bytes, span=span)
        except Refused as error:
            if os.path.realpath(self.root) != str(self.root):  # moved, and linked: no affair of this file
                elsewhere = f"a link leads elsewhere from the folder {self.root}"
                raise StoreUnavailable(f"{elsewhere}: put the folder back, or restart the worker") from None
            raise fetch_error("refused", str(error)) from None
        except FileNotFoundError:
            if not self.root.is_dir():
                missing = f"the folder {self.root} does not exist: check that it is mounted"
                # Without an etag it was not there when it was listed: a wrong line of a manifest, or a mount elsewhere.
                raise StoreUnavailable(missing) if etag else refused("gone", missing) from None
            raise fetch_error("gone", "the file no longer exists") from None
        except PermissionError:
            raise refused("denied", f"no permission to read {uri}") from None
        except OSError as error:
            raise StoreUnavailable(f"cannot read {uri}: {error.strerror}") from error

    def confirm_missing(self, uri: str, *, etag: str | None, root_id: str | None) -> None:
        found = root_id_of(self.root)
        if found is None or (root_id is not None and found != root_id):
            another = f"the folder {self.root} is not the one that was listed"
            raise StoreUnavailable(f"{another}: check that it is mounted; if it was replaced, start the scan again")
        with suppress(PermissionError):
            if root_id is None and not any(self.root.iterdir()):
                raise StoreUnavailable(f"the folder {self.root} is empty: check that it is mounted")

    def put(self, uri: str, data: bytes) -> None:
        try:
            write_beneath(self.root, uri_to_path(uri), data)
        except Refused as error:
            raise BadSource(f"{uri} cannot be written: {error}") from None
        except PermissionError:
            raise AccessDenied(f"no permission to write {uri}") from None
        except OSError as error:
            if not self.root.is_dir():
                raise StoreUnavailable(f"the folder {self.root} does not exist: check that it is mounted") from None
            raise StoreUnavailable(f"cannot write {uri}: {error.strerror}") from error

    def _read(self, path: bytes, *, etag: str | None, max_bytes: int, span: Span | None) -> FetchedObject:
        with os.fdopen(open_beneath(self.root, path), "rb") as file:
            status = os.fstat(file.fileno())
            if etag is not None and etag != file_etag(status):
                raise fetch_error("changed", "the file changed after it was listed")
            # No more than its size: files of /proc have 0, and a file that grew was listed as another version.
            length = status.st_size
            if span is not None:
                file.seek(span.offset)
                length = max(0, min(span.length, status.st_size - span.offset))
            if length > max_bytes:
                raise fetch_error("too_large", f"{length} bytes is over the limit of {max_bytes}")
            return FetchedObject(self._read_in_time(file, max_bytes=length), file_etag(status), status.st_size)

    def _read_in_time(self, file: IO[bytes], *, max_bytes: int) -> bytes:
        deadline, data = Deadline(self._deadline_seconds, store=f"the folder {self.root}"), bytearray()
        while chunk := file.read(min(CHUNK_BYTES, max_bytes - len(data))):
            data += chunk
            deadline.check(len(data))
        return bytes(data)


def root_id_of(root: str | Path) -> str | None:
    """Return what tells a folder from the empty mount point in its place; None if it is not there.

    Its inode. The device's number may be another one after a mount, and on another machine.
    """
    try:
        return f"{os.stat(root).st_ino:x}"
    except OSError:
        return None
