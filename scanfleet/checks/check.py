"""A check: the question asked of every image. A small TOML file, validated, hashed, stored with every scan."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NoReturn, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from scanfleet.checks.crop import NEVER, CropField, CropSettings, crop_field, table_line
from scanfleet.checks.frames import DEFAULT_FRAMES, FrameSettings
from scanfleet.checks.menu import menu_problems
from scanfleet.checks.steps import MAX_STEPS, CheckStep, step_errors, step_field, step_line
from scanfleet.config.validation import explain, printable
from scanfleet.errors import BadCheck, UnknownName

MAX_LABELS = 512
EXPLAIN_TOKENS = 48  # of an explanation, about 35 words
Unlike = Literal["review", "say"]  # a person decides about it; it is decided as others, and said
_NAME_RULE = "must be lower-case letters, digits, - and _, at most 63"
_RULES = {  # (field, kind of problem) -> message, where the general one does not fit
    ("name", "string_pattern_mismatch"): _NAME_RULE,
    ("labels", "tuple_type"): "must be a list of texts",
    ("crop.layers", "tuple_type"): "must be a list of whole numbers",
    ("steps", "tuple_type"): "must be [[steps]], each with a prompt and answers",
    ("frames", "model_type"): "must be a table [frames]",
    ("steps", "model_type"): "must be [[steps]], each with a prompt and answers",
}
_TABLES: dict[str, type[BaseModel]] = {"steps": CheckStep, "crop": CropSettings, "frames": FrameSettings}
Name = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")


class Check(BaseModel):
    """The question, its possible answers, and which of them raise a flag."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Name
    prompt: str = Field(min_length=3, max_length=4000)
    labels: tuple[str, ...] = Field(min_length=2, max_length=MAX_LABELS)
    flags: tuple[str, ...] = ()  # empty: a plain classification
    descriptions: dict[str, str] = {}  # label -> text in the prompt; default: the label itself
    max_pixels: int = Field(default=448 * 448, ge=28 * 28, le=16_777_216)  # after resizing, per image
    min_pixels: int | None = Field(default=None, ge=16 * 16)  # None: as the checkpoint's own image processor
    boxes: bool = False  # find boxes in flagged images
    explain: bool = False  # let the model write why an image is flagged
    explain_tokens: int = Field(default=EXPLAIN_TOKENS, ge=1, le=512)  # most of an explanation
    crop: CropField = "never"  # whether and how uncertain or shrunk images get a crop pass
    frames: FrameSettings = DEFAULT_FRAMES  # which pictures of a file that holds several are scored
    target_recall: float = Field(default=0.95, gt=0, lt=1)
    target_precision: float = Field(default=0.95, gt=0, lt=1)
    prevalence: float | None = Field(default=None, gt=0, lt=1)  # share of the archive that should be flagged
    unlike: Unlike = "review"  # what happens to an image unlike those that the adapter was calibrated on
    # What the model reads first. None: as the adapter was trained, or as the base was.
    order: Literal["image-first", "instruction-first"] | None = None
    steps: tuple[CheckStep, ...] = Field(default=(), max_length=MAX_STEPS)  # asked in turn, instead of the prompt

    @model_serializer(mode="wrap")
    def _without_idle_fields(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out fields that are not set and younger than stored checks: the hash is the one from before them."""
        body: dict[str, Any] = dump(self)
        idle = {"steps": not self.steps, "frames": self.frames == DEFAULT_FRAMES}
        idle |= {name: body[name] is None for name in ("prevalence", "order")}
        idle["unlike"] = self.unlike == "review"
        idle["explain"], idle["explain_tokens"] = not self.explain, self.explain_tokens == EXPLAIN_TOKENS
        return {name: value for name, value in body.items() if not idle.get(name)}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if problems := _contradictions(dict(self)):
            words = "; ".join(f"{field}: {words}" for field, words in problems)
            raise PydanticCustomError("contradictions", "{words}", {"words": words, "problems": problems})
        return self

    def unexplained(self) -> Check:
        """Return the check without explanations, which change no answer: scorers and adapters are those of this one."""
        return self.model_copy(update={"explain": False, "explain_tokens": EXPLAIN_TOKENS})

    def as_file(self) -> dict[str, Any]:
        """Return the content of a check file: answers of steps as tables, and no budget that is left open."""
        body = self.model_dump(mode="json")
        if self.min_pixels is None:
            del body["min_pixels"]
        if isinstance(body["crop"], dict):
            body["crop"] = {name: value for name, value in body["crop"].items() if value is not None}
        for step in body.get("steps", ()):
            step["answers"] = dict(step["answers"])
        return body

    def reads_otherwise(self, other: Check) -> str | None:
        """Return the first field in which the model reads another question; None: an adapter of one answers both.

        A label without a description, or with an empty one, is its own line of the menu. An order that either leaves
        open is that of the adapter.
        """
        both_ordered = self.order is not None and other.order is not None
        ours, theirs = (
            {
                "prompts": check.prompt,
                "labels": check.labels,
                "flags": frozenset(check.flags),
                "descriptions": {label: check.descriptions.get(label) or label for label in check.labels},
                "steps": check.steps,
                "order": check.order if both_ordered else None,
            }
            for check in (self, other)
        )
        return next((field for field in ours if ours[field] != theirs[field]), None)

    @property
    def scored_hash(self) -> str:
        """The hash of what is scored: explanations do not count."""
        return self.unexplained().hash if self.explain else self.hash

    @property
    def hash(self) -> str:
        """SHA-256 over the canonical content: the same content gives the same hash on every machine."""
        body = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(body.encode()).hexdigest()


def _contradictions(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (field, problem) for fields that are valid alone but contradict each other."""
    problems = []
    labels, flags = values.get("labels", ()), values.get("flags", ())
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        problems.append(("labels", f"{', '.join(twice)} is there twice"))
    for field in ("flags", "descriptions"):
        unknown = sorted(set(values.get(field, ())) - set(labels))
        if labels and unknown:
            problems.append((field, f"{', '.join(unknown[:20])} is not among the labels ({', '.join(labels[:20])})"))
    descriptions = values.get("descriptions", {})
    texts = {"prompt": [values.get("prompt", "")], "labels": labels, "descriptions": descriptions.values()}
    problems += [(field, "holds a zero character") for field, all_of_it in texts.items() if "\0" in "".join(all_of_it)]
    if flags and set(flags) == set(labels):
        problems.append(("flags", "at least one label must not flag"))
    if values.get("prevalence") is not None and not flags:
        problems.append(("prevalence", "is the share of images that should be flagged, and no label flags"))
    if values.get("explain") and not flags:
        problems.append(("explain", "is for flagged images, and no label flags"))
    if not values.get("explain") and values.get("explain_tokens", EXPLAIN_TOKENS) != EXPLAIN_TOKENS:
        problems.append(("explain_tokens", "has no effect without explain = true"))
    problems += step_errors([CheckStep.model_validate(step) for step in values.get("steps", ())], labels)
    if values.get("steps") and values.get("crop", NEVER) != NEVER:
        problems.append(("crop", "cannot go with steps, which are asked of the whole image: leave one of the two out"))
    least, most = values.get("min_pixels"), values.get("max_pixels")
    if isinstance(least, int) and isinstance(most, int) and least > most:
        problems.append(("min_pixels", "is larger than max_pixels"))
    crop = values.get("crop", NEVER)
    if isinstance(most, int) and not isinstance(crop, str) and (idle := CropSettings.model_validate(crop).idle(most)):
        problems.append(("crop.look", idle))
    return problems


def parse_check(text: str, *, where: str) -> Check:
    """Read a check from TOML. Raises BadCheck naming the file, and line, field and problem of all that is wrong.

    A file is held to more than a stored check: one whose menu confuses the model stays readable for its results.
    """
    try:
        body = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # of tomllib, or of int for a number of thousands of digits
        raise BadCheck(f"{where}: not TOML: {printable(str(error))}") from None
    try:
        check = Check.model_validate(body)
    except ValidationError as error:
        refuse(text, where, problems_of(error, body))
    if problems := menu_problems(check.labels, check.descriptions, check.steps):
        refuse(text, where, problems)
    return check


def refuse(text: str, where: str, problems: Sequence[tuple[str, str]]) -> NoReturn:
    """Raise BadCheck with (field, problem) pairs in the order of their lines."""
    found = sorted((_line_of(text, field), f"{field}: {words}") for field, words in problems)
    first, *others = dict.fromkeys(found)
    more = "".join(f"; line {line}: {words}" for line, words in others)
    raise BadCheck(f"{where}:{first[0]}: {printable(first[1] + more)}")


def problems_of(error: ValidationError, body: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (field, problem) pairs with messages for people."""
    by_field: dict[str, str] = {}
    for problem in error.errors(include_input=False, include_url=False):
        if not problem["loc"]:  # each field is valid alone
            return list(problem["ctx"]["problems"])
        field, inside = str(problem["loc"][0]), problem["loc"][1:]
        known: Mapping[str, Any] = Check.model_fields
        if inside and field in _TABLES:
            known = _TABLES[field].model_fields
        if field == "crop":
            field, inside = crop_field(inside)
        elif field == "frames" and inside:
            field, inside = f"frames.{inside[0]}", inside[1:]
        words = _RULES.get((field, problem["type"])) or explain(problem, known=known)
        if field == "steps":
            table = inside[1:] == ("answers",) and problem["type"] == "tuple_type"
            by_field.setdefault(step_field(inside), "must be a table of answer = label" if table else words)
            continue
        where = (
            f"entry {inside[0] + 1} " if inside and isinstance(inside[0], int) else " ".join([*map(str, inside), ""])
        )
        by_field.setdefault(field, where + words)
    defaults = {name: field.default for name, field in Check.model_fields.items() if not field.is_required()}
    unsound = {field.partition(".")[0] for field in by_field}
    sound = {name: value for name, value in (defaults | dict(body)).items() if name not in unsound}
    return [*by_field.items(), *_contradictions(sound)]


def load_check(name_or_path: str) -> Check:
    """Return a built-in check by name, or a check file by path (a name that ends in .toml)."""
    if name_or_path.endswith(".toml"):
        return parse_check(read_text(Path(name_or_path)), where=name_or_path)
    builtin = resources.files("scanfleet") / "builtin" / f"{name_or_path}.toml"
    if name_or_path not in builtin_names():
        raise UnknownName(
            f"no built-in check {name_or_path!r} (there are {', '.join(builtin_names())}); "
            "name a .toml file, or add one with `scanfleet checks add`"
        )
    return parse_check(builtin.read_text(encoding="utf-8"), where=f"built-in {name_or_path}")


def read_text(path: Path) -> str:
    """Return the text of a check file. Raises BadCheck."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadCheck(f"{path}: cannot be read: not UTF-8 at byte {error.start + 1}") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadCheck(f"{path}: cannot be read: {reason}") from None


def builtin_names() -> list[str]:
    folder = resources.files("scanfleet") / "builtin"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def _line_of(text: str, field: str) -> int:
    """Return the line that sets `field`; 1 when none does (a missing field)."""
    if field.startswith("steps."):
        return step_line(text.splitlines(), field) or 1
    if field.startswith(("crop.", "frames.")):
        return table_line(text.splitlines(), field) or 1
    key = re.escape(field.split(".")[-1 if field.startswith("descriptions.") else 0])
    for number, line in enumerate(text.splitlines(), start=1):
        if re.match(rf"\s*\[{{0,2}}\s*[\"']?{key}[\"']?\s*[\]=]", line):
            return number
    return 1
