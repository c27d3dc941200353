"""A pack: a TOML file that lists checks, which a scan asks together."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from scanfleet.config.validation import printable, suggestion
from scanfleet.errors import BadCheck, UnknownName

MAX_CHECKS = 64
_FIELDS = ("checks",)
FoundT = TypeVar("FoundT")


@dataclass(frozen=True, kw_only=True)
class PackEntry:
    """One check of a pack. where: file and line, for messages."""

    name: str  # of a check, or the path of its file
    where: str

    def find(self, resolve: Callable[[str], FoundT]) -> FoundT:
        """Return what `resolve` does. Raises BadCheck, UnknownName with the pack's line."""
        try:
            return resolve(self.name)
        except (BadCheck, UnknownName) as error:
            raise type(error)(f"{self.where}: {error}") from None


def load_pack(path: Path) -> list[PackEntry]:
    """Read a pack. Files are named relative to it. Raises BadCheck naming the file, the line and the problem."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadCheck(f"{path}: cannot be read: not UTF-8 at byte {error.start + 1}") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise BadCheck(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        body = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # of tomllib, or of int for a number of thousands of digits
        raise BadCheck(f"{path}: not TOML: {printable(str(error))}") from None
    for field in body:
        if field not in _FIELDS:
            known = suggestion(field, _FIELDS)
            raise BadCheck(f"{path}:{_line_of(text, field)}: {printable(field)}: is not known{known}")
    names = body.get("checks")
    where = f"{path}:{_line_of(text, 'checks')}"
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise BadCheck(f"{where}: checks: must be a list of names and files of checks")
    if len(names) > MAX_CHECKS:
        raise BadCheck(f"{where}: checks: must have at most {MAX_CHECKS} entries")
    return [
        PackEntry(name=_place(name, path), where=f"{path}:{_line_with(text, name)}") for name in dict.fromkeys(names)
    ]


def _place(name: str, pack: Path) -> str:
    return str(pack.parent / name) if name.endswith(".toml") else name


def _line_of(text: str, field: str) -> int:
    """Return the line that sets a field; 1 when none does."""
    lines = enumerate(text.splitlines(), start=1)
    key = re.compile(rf"\s*\[{{0,2}}\s*[\"']?{re.escape(field)}[\"']?\s*[\]=.]")
    return next((number for number, line in lines if key.match(line)), 1)


def _line_with(text: str, name: str) -> int:
    """Return the line of an entry; that of the list where escapes hide it."""
    lines = enumerate(text.splitlines(), start=1)
    quoted = (f'"{name}"', f"'{name}'")
    return next((number for number, line in lines if any(each in line for each in quoted)), _line_of(text, "checks"))
