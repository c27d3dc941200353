"""A check: the question asked of every image. A small TOML file, validated, hashed, stored with every scan."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from scanfleet.errors import BadCheck, UnknownName

MAX_LABELS = 512
Name = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")


class Check(BaseModel):
    """What is asked, which answers there are, and which of them raise a flag."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Name
    prompt: str = Field(min_length=3, max_length=4000)
    labels: tuple[str, ...] = Field(min_length=2, max_length=MAX_LABELS)
    flags: tuple[str, ...] = ()  # empty: a plain classification
    descriptions: dict[str, str] = {}  # label -> the words the model reads; default: the label itself
    max_pixels: int = Field(default=448 * 448, ge=28 * 28, le=16_777_216)  # after resizing, per image
    min_pixels: int = Field(default=64 * 64, ge=16 * 16)
    boxes: bool = False  # ask where, for flagged images
    crop: Literal["never"] = "never"
    target_recall: float = Field(default=0.95, gt=0, lt=1)
    target_precision: float = Field(default=0.95, gt=0, lt=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels: each label once")
        for field in ("flags", "descriptions"):
            unknown = set(getattr(self, field)) - set(self.labels)
            if unknown:
                raise ValueError(f"{field}: {', '.join(sorted(unknown))} is not among the labels")
        if set(self.flags) == set(self.labels):
            raise ValueError("flags: at least one label must not flag")
        if self.min_pixels > self.max_pixels:
            raise ValueError("min_pixels: larger than max_pixels")
        return self

    @property
    def hash(self) -> str:
        """SHA-256 over the canonical content: the same words give the same hash on every machine."""
        body = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(body.encode()).hexdigest()


def parse_check(text: str, *, where: str) -> Check:
    """Read a check from TOML. Raises BadCheck naming file, line and field."""
    try:
        return Check.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise BadCheck(f"{where}: {error}") from None
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        message = fault["msg"].removeprefix("Value error, ")
        field = ".".join(map(str, fault["loc"])) or message.split(":", 1)[0]
        words = message if fault["loc"] else message.split(":", 1)[-1].strip()
        raise BadCheck(f"{where}:{_line_of(text, field)}: {field}: {words}") from None


def load_check(name_or_path: str) -> Check:
    """A built-in check by name, or a check file by path (anything that ends in .toml)."""
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadCheck(f"{path}: cannot be read: {error}") from None
        return parse_check(text, where=str(path))
    builtin = resources.files("scanfleet") / "builtin" / f"{name_or_path}.toml"
    if name_or_path not in builtin_names():
        raise UnknownName(
            f"no built-in check {name_or_path!r} (there are {', '.join(builtin_names())}); "
            "name a .toml file, or add one with `scanfleet checks add`"
        )
    return parse_check(builtin.read_text(encoding="utf-8"), where=f"built-in {name_or_path}")


def builtin_names() -> list[str]:
    folder = resources.files("scanfleet") / "builtin"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def _line_of(text: str, field: str) -> int:
    """The line that sets `field`; 1 when no line does (a missing field)."""
    key = re.escape(field.split(".")[-1 if field.startswith("descriptions.") else 0])
    for number, line in enumerate(text.splitlines(), start=1):
        if re.match(rf"\s*\[?\s*[\"']?{key}[\"']?\s*[\]=]", line):
            return number
    return 1
