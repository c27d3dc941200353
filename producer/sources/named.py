"""The images named on a command line, as a lazy stream that a bad name does not end."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Sequence

from scanfleet.config.settings import Settings
from scanfleet.config.validation import printable
from scanfleet.config.web_hosts import hosts_of
from scanfleet.db.scans.new_images import NewImage
from scanfleet.errors import BadManifest, BadSource, EmptySource, ScanfleetError
from scanfleet.images import SUFFIXES
from scanfleet.producer.sources.base import Candidate, LeftOut, Skip, Source, local_image, remote_image
from scanfleet.producer.sources.filters import Filters
from scanfleet.producer.sources.manifest import BrokenFileError, Lines, MalformedLineError, Row, read_rows
from scanfleet.producer.sources.open import open_source
from scanfleet.storage.file_uri import uri_to_path

STDIN = "-"


class NamedImages:
    """Every image of the sources, in order.

    errors: grows while the stream is read, with the errors of sources.
    """

    def __init__(self, names: Sequence[str], settings: Settings) -> None:
        self._names = names
        self._settings = settings
        self.errors: list[ScanfleetError] = []

    def __iter__(self) -> Iterator[NewImage]:
        for name in self._names:
            try:
                yield from self._images(name)
            except ScanfleetError as error:
                self.errors.append(error)

    def _images(self, name: str) -> Iterator[NewImage]:
        """Yield the images of one source. Raises what the source raises, and EmptySource."""
        source: Source = (
            StdinSource(hosts_of(self._settings.https_hosts)) if name == STDIN else open_source(name, self._settings)
        )
        filters, found = Filters(), False
        for item in source.candidates(after=None, skip=filters.skips_folder):
            if isinstance(item, LeftOut):
                self.errors.append(BadManifest(str(item)))
            elif filters.takes(item.path, sift_by_suffix=source.sifts_by_suffix):
                found = True
                yield item.image
        if not found:
            what = f"no images found in {source.name}"
            raise EmptySource(f"{what} (files with {', '.join(SUFFIXES)} count)" if source.sifts_by_suffix else what)


class StdinSource:
    """One uri or path per line, as `find` prints them; relative paths start at the working folder."""

    name = "the list on stdin"
    root = None
    top = ""
    sifts_by_suffix = False
    resumable = False

    def __init__(self, hosts: Collection[str] = ()) -> None:
        self._hosts = hosts

    def candidates(self, *, after: str | None, skip: Skip) -> Iterator[Candidate | LeftOut]:
        if sys.stdin is None:
            raise BadSource("stdin is closed: pipe a list into it, or remove `-`")
        # A separate handle: at exit the interpreter must not wait for a thread that reads sys.stdin.
        with os.fdopen(os.dup(sys.stdin.fileno()), "rb") as file:
            lines = Lines(file)
            try:
                for row in read_rows(lines, ".txt"):
                    try:
                        yield _candidate(row, self._hosts)
                    except MalformedLineError as error:
                        yield LeftOut(where=f"{self.name}, line {lines.number}", why=printable(str(error)))
            except BrokenFileError as error:
                raise BadManifest(f"{self.name}: {error}") from None


def _candidate(row: Row | MalformedLineError, hosts: Collection[str]) -> Candidate:
    if isinstance(row, MalformedLineError):
        raise row
    return Candidate(image=_image(row[0], hosts), path=row[0])


def _image(text: str, hosts: Collection[str]) -> NewImage:
    remote = remote_image(text, hosts)
    if remote is not None:
        return remote
    path = os.path.abspath(uri_to_path(text))
    root = os.path.dirname(path)
    while not os.path.isdir(root):  # a missing folder is a wrong name here, not an unavailable store
        root = os.path.dirname(root)
    return local_image(path, root=os.fsdecode(root))
