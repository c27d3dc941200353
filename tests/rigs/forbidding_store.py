"""A store that refuses or loses single objects."""

from collections.abc import Callable

from scanfleet.errors import StoreUnavailable
from scanfleet.storage.base import FetchedObject, fetch_error, refused
from scanfleet.storage.memory import MemoryStore


class Forbidding(MemoryStore):
    """Refuses some objects, loses some, and may contradict itself about them."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses: Callable[[str], bool] = lambda _: False
        self.lost: Callable[[str], bool] = lambda _: False
        self.contradicts = False
        self.asked: list[str] = []

    def fetch(self, uri: str, *, etag: str | None, max_bytes: int) -> FetchedObject:
        if self.refuses(uri):
            raise refused("denied", f"{uri}: AccessDenied")
        if self.lost(uri):
            raise fetch_error("gone", "NoSuchKey")
        return super().fetch(uri, etag=etag, max_bytes=max_bytes)

    def confirm_missing(self, uri: str, *, etag: str | None, root_id: str | None) -> None:
        self.asked.append(uri)
        if self.contradicts:
            raise StoreUnavailable(f"{uri} is listed, and not there when it is fetched")
