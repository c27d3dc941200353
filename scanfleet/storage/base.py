"""What every object store does, and what it says of an object."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from scanfleet.errors import ImageError

CHUNK_BYTES = 1 << 20  # of one read


@dataclass(frozen=True, kw_only=True)
class ObjectInfo:
    """One listed object. etag: whatever changes when the bytes change; None where the source cannot tell."""

    uri: str
    etag: str | None = None
    size: int | None = None  # bytes


class ObjectStore(Protocol):
    def list(self, location: str, *, after: str | None = None) -> Iterator[ObjectInfo]:
        """Every object under a location, lazily; where the store can, only those after a uri.

        Raises SourceNotFound, AccessDenied, StoreUnavailable.
        """
        ...

    def fetch(self, uri: str, *, etag: str | None, max_bytes: int) -> bytes:
        """The bytes of one object.

        Raises ImageError (stage fetch: gone, changed, too_large, refused) when the object is at fault and
        StoreUnavailable when the world is.
        """
        ...

    def put(self, uri: str, data: bytes) -> None:
        """Store an object under a name, in the place of one that has it; nobody ever sees half of it.

        Raises BadSource for a name that cannot be, SourceNotFound (no such bucket), AccessDenied, StoreUnavailable.
        """
        ...


def fetch_error(reason: str, detail: str) -> ImageError:
    return ImageError(stage="fetch", reason=reason, detail=detail)
