"""The interface of object stores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, Protocol

from scanfleet.errors import ImageError, ObjectRefused, StoreUnavailable

CHUNK_BYTES = 1 << 20  # per read
N_WITNESSES = 3  # objects that are tried, to see whether a store delivers any


@dataclass(frozen=True, kw_only=True)
class ObjectInfo:
    """One listed object. etag: changes when the bytes change; None where the source has none."""

    uri: str
    etag: str | None = None
    size: int | None = None  # bytes


class Span(NamedTuple):
    """A part of an object, in bytes."""

    offset: int
    length: int


class FetchedObject(NamedTuple):
    """The bytes of an object, or of a part of it.

    etag: of the version that was read; None where the store has none. size: of the whole object, where a part was read.
    """

    data: bytes
    etag: str | None
    size: int | None = None


class ObjectStore(Protocol):
    def list(self, location: str, *, after: str | None = None) -> Iterator[ObjectInfo]:
        """Yield every object under a location; where the store can, only those after a uri.

        Raises SourceNotFound, AccessDenied, StoreUnavailable.
        """
        ...

    def fetch(self, uri: str, *, etag: str | None, max_bytes: int, span: Span | None = None) -> FetchedObject:
        """Return one object, of the version `etag` if that is given; with a span only what there is of that part.

        Raises ImageError (stage fetch: gone, changed, too_large, bad_name, archived, corrupt, refused) for an error of
        the object, StoreUnavailable for a transient one, and ObjectRefused where it may be either.
        """
        ...

    def confirm_missing(self, uri: str, *, etag: str | None, root_id: str | None) -> None:
        """Ask in another way about an object that `fetch` found gone or changed.

        root_id: of its folder when that was listed (`scanfleet.storage.folder.root_id_of`).

        Raises StoreUnavailable if the store contradicts itself, or seems to have lost everything.
        """
        ...

    def put(self, uri: str, data: bytes) -> None:
        """Store an object under a name, replacing the one there; no reader ever sees half of it.

        Raises BadSource for an impossible name, SourceNotFound (no such bucket), AccessDenied, StoreUnavailable.
        """
        ...


Witness = tuple[ObjectStore, str, str | None]  # with uri and etag


def any_delivered(witnesses: Iterable[Witness]) -> bool:
    """Return True if any of the first few objects is delivered now. Their bodies are not read.

    They were read before, so they tell whether the store refuses one object or all.
    """
    return any(_is_delivered(*each) for each in islice(witnesses, N_WITNESSES))


def _is_delivered(store: ObjectStore, uri: str, etag: str | None) -> bool:
    try:
        store.fetch(uri, etag=etag, max_bytes=0)
    except ImageError as error:
        return error.reason == "too_large"
    except StoreUnavailable:
        return False
    return True


def refused(reason: str, detail: str) -> ObjectRefused:
    return ObjectRefused(detail, fetch_error(reason, detail))


def fetch_error(reason: str, detail: str) -> ImageError:
    return ImageError(stage="fetch", reason=reason, detail=detail)
