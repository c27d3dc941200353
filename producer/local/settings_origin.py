"""Finds the origin of each setting, for people whose setting has no effect. Shows no secret."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from scanfleet.config.settings import Settings
from scanfleet.config.variables import RENAMED
from scanfleet.redaction import HIDDEN, redact

ALWAYS_SHOWN = ("data_dir", "model", "precision", "device", "token_budget", "fetch_threads", "batches_in_flight")
FILE = "scanfleet.toml"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """origin: flag, the name of a variable, scanfleet.toml or default."""

    name: str
    value: Any  # plain JSON
    origin: str


def origins(settings: Settings, *, flags: Mapping[str, Any], folder: Path) -> list[Origin]:
    """Return every setting. flags: those of the command line. folder: that of scanfleet.toml."""
    variables = {name.lower(): name for name in os.environ}
    in_file = _names_in(folder / FILE)
    found = []
    for name in Settings.model_fields:
        variable = variables.get(f"scanfleet_{name}")
        if flags.get(name) is not None:
            origin = "flag"
        elif variable is not None:
            origin = variable
        else:
            origin = FILE if name in in_file else "default"
        found.append(Origin(name=name, value=_plain(getattr(settings, name)), origin=origin))
    return found


def relevant(all_of_them: list[Origin]) -> list[Origin]:
    """Return the settings that are not defaults, and those that speed depends on."""
    return [one for one in all_of_them if one.origin != "default" or one.name in ALWAYS_SHOWN]


def _names_in(file: Path) -> set[str]:
    """Return the names in the file, which is valid if it exists: the settings were loaded from it."""
    try:
        return {RENAMED.get(name, name) for name in tomllib.loads(file.read_text(encoding="utf-8"))}
    except FileNotFoundError:
        return set()


def _plain(value: object) -> Any:
    match value:
        case SecretStr():
            text = value.get_secret_value()
            return redact(text) if "://" in text else HIDDEN
        case None | bool() | int() | float():
            return value
        case _:
            return redact(str(value))
