"""The interface of object stores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from scanfleet.errors import ImageError

CHUNK_BYTES = 1 << 20  # per read


@dataclass(frozen=True, kw_only=True)
class ObjectInfo:
    """One listed object. etag: changes when the bytes change; None where the source has none."""

    uri: str
    etag: str | None = None
    size: int | None = None  # bytes


class ObjectStore(Protocol):
    def list(self, location: str, *, after: str | None = None) -> Iterator[ObjectInfo]:
        """Yield every object under a location; where the store can, only those after a uri.

        Raises SourceNotFound, AccessDenied, StoreUnavailable.
        """
        ...

    def fetch(self, uri: str, *, etag: str | None, max_bytes: int) -> bytes:
        """Return the bytes of one object.

        Raises ImageError (stage fetch: gone, changed, too_large, refused) for an error of the object, and
        StoreUnavailable for a transient one.
        """
        ...

    def put(self, uri: str, data: bytes) -> None:
        """Store an object under a name, replacing the one there; no reader ever sees half of it.

        Raises BadSource for an impossible name, SourceNotFound (no such bucket), AccessDenied, StoreUnavailable.
        """
        ...


def fetch_error(reason: str, detail: str) -> ImageError:
    return ImageError(stage="fetch", reason=reason, detail=detail)
