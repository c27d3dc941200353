"""One ledger and queue, as a Python object: what the commands of `scanfleet` do."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from scanfleet.api.results import Results
from scanfleet.api.scans import Scan
from scanfleet.api.scoring import Scored
from scanfleet.checks.check import Check
from scanfleet.config.model_names import require_model
from scanfleet.config.settings import Settings, load_settings
from scanfleet.config.user import user_name
from scanfleet.db.engine import reading
from scanfleet.db.labels.history import LabelFilter, LabelLine, iter_labels
from scanfleet.db.scans.scans import get_scan, list_scans
from scanfleet.db.schema import ledger
from scanfleet.db.training import adapters
from scanfleet.db.training.adapters import AdapterInfo
from scanfleet.errors import BadLabels
from scanfleet.producer.labels.adding import add_one
from scanfleet.producer.labels.file_import import prepare_file
from scanfleet.producer.labels.importing import require_split, summarise, write
from scanfleet.producer.labels.sets import joint
from scanfleet.producer.local.scoring import find_check, score_named
from scanfleet.producer.scans.session import Request, existing_ledger, known_checks, open_session
from scanfleet.producer.sources.named import NamedImages
from scanfleet.producer.training.promotion import Promoted, promote, roll_back
from scanfleet.retry import retry_database

Sources = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def connect(**settings: Any) -> Fleet:
    """Return a fleet with these settings: data_dir, database_url, broker_url, model, ... (docs/operations.md).

    What is not given comes from the environment (SCANFLEET_*) and scanfleet.toml. Nothing is opened yet.
    Raises BadSettings.
    """
    return Fleet(load_settings(**settings))


class Fleet:
    """A ledger with its queue. Each call opens the database and closes it again, so that a fleet may be kept.

    All calls raise BadSettings, SchemaOutdated and DatabaseUnavailable, and the errors that they name.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def scan(
        self,
        sources: Sources,
        *,
        check: str | Sequence[str],
        model: str | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        limit: int | None = None,
        sample: str | None = None,
        seed: int = 0,
        fresh: bool = False,
        members: bool = False,
    ) -> Scan:
        """List an archive, write its images as a scan, and notify the workers: `scanfleet scan`.

        Calling it again resumes the listing, or adds only new images. `Scan.wait` waits for the answers.

        Args:
            sources: a folder, s3:// prefix, file, shard or manifest, or several.
            check: name or .toml file of a check; several make one scan each, and the first one is returned
                (`Scan.others` are the rest).
            model: built-in name, hub id, folder or endpoint:NAME. None: the setting.
            include, exclude: globs. limit: at most so many images. sample: "500" or "0.05". fresh: a new scan even if
                the same one exists. members: images inside .tar and .zip files, too.

        Raises: SourceNotFound, BadSource, EmptySource, UnknownName (the check), BadCheck, RequestError.
        """
        names = (check,) if isinstance(check, str) else tuple(check)
        request = Request(
            sources=_names(sources),
            check_names=names,
            model=model,
            include=tuple(include),
            exclude=tuple(exclude),
            limit=limit,
            sample=sample,
            seed=seed,
            fresh=fresh,
            members=members,
        )
        settings = self._with_model(model)
        require_model(settings.model, elsewhere=settings.database_url is not None)
        with open_session(settings) as session:
            (last,) = deque(session.enqueue(request), maxlen=1)  # it raises EmptySource rather than yield nothing
        first, *others = [Scan(settings, info, left_out=last.left_out) for info in last.scans]
        first.others = tuple(others)
        return first

    def get_scan(self, scan_id: str) -> Scan:
        """Return a scan by its id or a unique beginning of it. Raises UnknownName."""
        with self._reading() as connection:
            return Scan(self.settings, get_scan(connection, scan_id))

    def scans(self, *, limit: int = 1000) -> list[Scan]:
        """Return the scans, the newest first: `scanfleet scans ls`."""
        with self._reading() as connection:
            return [Scan(self.settings, info) for info in list_scans(connection, limit=limit)]

    def score(
        self, images: Sources, *, check: str = "overlay", model: str | None = None, adapter: str | Path | None = None
    ) -> Iterator[Scored]:
        """Score images now, without queue and ledger, one by one: `scanfleet score`.

        An image that cannot be scored has a `failure`. adapter: the folder of one. The model is loaded once a call.

        Raises: MissingExtra (torch is not installed), UnknownName, UnknownModel, Retryable, and after the last image
            the first error of a source.
        """
        settings = self._with_model(model)
        named = NamedImages(_names(images), settings)
        found = find_check(settings, check)
        for message in score_named(named, settings, check=found, adapter=None if adapter is None else Path(adapter)):
            if message.pop("kind") == "result":
                yield Scored.read(message)
        if named.errors:
            raise named.errors[0]

    def results(self, **filters: Any) -> Results:
        """Return answers and failures of all scans, one per image: `scanfleet results`. See `Results`."""
        return Results(self.settings, filters)

    def labels(self, **filters: Any) -> list[LabelLine]:
        """Return labels with their state, the newest first: `scanfleet labels ls`.

        Args:
            **filters: fields of LabelFilter: check_name, label, split, who, since (a datetime with a zone).
        """
        with ledger(self.settings) as engine:
            return list(iter_labels(engine, LabelFilter(**filters)))

    def add_label(
        self,
        uri: str | os.PathLike[str],
        label: str,
        *,
        check: str,
        boxes: Sequence[str] = (),
        who: str | None = None,
        settle: bool = False,
        group: str | None = None,
        note: str | None = None,
    ) -> str:
        """Label one image: `scanfleet labels add`. Returns what was done, in words.

        boxes: "x0 y0 x1 y1" in pixels, or with a label before it. Raises BadLabels, SourceNotFound, UnknownName.
        """
        with ledger(self.settings) as engine:
            return add_one(
                engine,
                self.settings,
                uri=_name(uri),
                label=label,
                check_name=check,
                boxes=boxes,
                who=_user(who),
                settle=settle,
                group=group,
                remark=note,
            )

    def import_labels(self, file: str | os.PathLike[str], *, check: str, who: str | None = None, **options: Any) -> int:
        """Import a file or folder of labels, all or nothing: `scanfleet labels import`. Returns how many are new.

        Args:
            **options: as `producer.labels.file_import.prepare_file`: form, pairs, empty, root, split, strict, ...

        Raises: BadLabels, UnknownName, Retryable.
        """
        with ledger(self.settings) as engine:
            prepared = prepare_file(engine, self.settings, Path(file), check, who=_user(who), **options)
            summary = joint([retry_database(partial(summarise, engine, each)) for each in prepared])
            require_split(prepared[0], summary.n_refused)
            return len(retry_database(lambda: write(engine, prepared))) if summary.n_labels else 0

    def adapters(self, check: str | None = None) -> list[AdapterInfo]:
        """Return the adapters, the newest first: `scanfleet adapters ls`."""
        with self._reading() as connection:
            return adapters.list_adapters(connection, check)

    def promote(
        self, adapter_id: int, *, force: bool = False, why: str | None = None, who: str | None = None
    ) -> Promoted:
        """Put an adapter in use: `scanfleet adapters promote`. Raises GateNotPassed, UnknownName, BadSource."""
        if force and not (why or "").strip():
            raise ValueError("force needs why: give the reason for overruling the gate")
        with ledger(self.settings) as engine:
            return promote(engine, self.settings, adapter_id, force=force, why=why, who=who or user_name())

    def rollback(
        self, check: str, *, model: str | None = None, why: str | None = None, who: str | None = None
    ) -> int | None:
        """Put the adapter before back in use: `scanfleet adapters rollback`. Returns its id; None: the base alone."""
        with ledger(self.settings) as engine:
            _, change = roll_back(engine, self.settings, check, model=model, why=why, who=who or user_name())
        return change.adapter_id

    def checks(self) -> list[Check]:
        """Return the newest version of each check, built-in ones included: `scanfleet checks ls`."""
        with existing_ledger(self.settings) as engine:
            return known_checks(engine)

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with ledger(self.settings) as engine, reading(engine) as connection:
            yield connection

    def _with_model(self, model: str | None) -> Settings:
        return self.settings if model is None else self.settings.model_copy(update={"model": model})


def _names(sources: Sources) -> tuple[str, ...]:
    return (_name(sources),) if isinstance(sources, str | os.PathLike) else tuple(map(_name, sources))


def _name(source: str | os.PathLike[str]) -> str:
    return os.fspath(source)


def _user(who: str | None) -> str:
    name = who or user_name()
    if name is None:
        raise BadLabels("this machine has no user name for you: pass who=")
    return name
