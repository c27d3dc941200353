"""The specification of an experiment: arms x seeds x sizes on one split of labelled images. A TOML file."""

from __future__ import annotations

import hashlib
import json
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from scanfleet.config.validation import explain
from scanfleet.errors import BadExperiment

Kind = Literal["zero-shot", "steps", "once", "recipe", "crops", "quantised", "baseline", "endpoint"]
TRAINED = frozenset({"recipe", "baseline"})  # kinds that learn from the train part: a cell for each seed and size
OPTIONS = {  # kind -> its options; those of recipe are fields of the recipe besides, those of baseline are its own
    "zero-shot": {"order"},
    "steps": {"check"},
    "once": {"check"},
    "crops": {"look", "method", "reference", "tiled", "crop_pixels", "fuse"},
    "quantised": {"precision"},
    "endpoint": {"model"},
}
NEEDED = {"steps": "check", "once": "check", "quantised": "precision", "endpoint": "model", "recipe": "recipe",
          "baseline": "baseline"}  # fmt: skip
Size = int
_STRICT = ConfigDict(frozen=True, extra="forbid")


class Arm(BaseModel):
    """One way to answer.

    sizes: numbers of labels instead of the experiment's own. against: the arm it is compared with, likewise.
    """

    model_config = _STRICT

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_+.-]{0,62}$")
    kind: Kind
    sizes: tuple[Size, ...] = ()
    against: str | None = None
    options: dict[str, Any] = {}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        needed = NEEDED.get(self.kind)
        if needed is not None and needed not in self.options:
            raise ValueError(f"options.{needed} is missing: kind {self.kind} needs it")
        unknown = sorted(set(self.options) - OPTIONS.get(self.kind, set(self.options)))
        if unknown:
            raise ValueError(f"options.{unknown[0]} is not known to kind {self.kind}")
        if self.sizes and self.kind not in TRAINED:
            raise ValueError(f"sizes: kind {self.kind} learns from no labels")
        return self


class Data(BaseModel):
    """Where images come from: a file of labels, a folder per class, or generated pictures.

    held_out_styles: of generated pictures; they are in the test part alone.
    """

    model_config = _STRICT

    labels: str | None = None  # relative to the spec
    folder: str | None = None
    generated: Literal["overlay", "baggage", "razor"] | None = None
    n: int = Field(default=1000, ge=20, le=1_000_000)
    seed: int = 7_400_000
    side: int = Field(default=128, ge=32, le=4096)  # pixels
    held_out_styles: tuple[str, ...] = ()
    test_share: float = Field(default=0.3, gt=0, lt=1)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(source is not None for source in (self.labels, self.folder, self.generated)) != 1:
            raise ValueError("give exactly one of labels, folder and generated")
        if self.held_out_styles and self.generated is None:
            raise ValueError("held_out_styles belongs to generated: other images have no styles")
        return self


class Experiment(BaseModel):
    """Arms that are compared on the same test images.

    against: the arm that the others are compared with; None: the first one.
    """

    model_config = _STRICT

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")
    check: str
    model: str = "pocket"
    about: str = ""
    sizes: tuple[Size, ...] = Field(default=(100,), min_length=1)
    seeds: tuple[int, ...] = Field(default=(1, 2, 3), min_length=1)
    split_seed: int = 0
    against: str | None = None
    data: Data
    arm: tuple[Arm, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [arm.name for arm in self.arm]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"arm: two arms are named {twice[0]}")
        for against in (self.against, *(arm.against for arm in self.arm)):
            if against is not None and against not in names:
                raise ValueError(f"against: there is no arm named {against}")
        if min(self.all_sizes, default=10) < 10:
            raise ValueError("sizes: an arm needs 10 labels or more")
        return self

    @property
    def all_sizes(self) -> tuple[Size, ...]:
        """The numbers of labels that arms learn from."""
        return tuple(sorted({size for arm in self.arm for _, size in self.cells(arm) if size}))

    def cells(self, arm: Arm) -> list[tuple[int, Size]]:
        """Return (seed, size) of each cell; (0, 0) alone where nothing is learnt."""
        if arm.kind not in TRAINED:
            return [(0, 0)]
        return [(seed, size) for size in arm.sizes or self.sizes for seed in self.seeds]

    def digest(self, check: dict[str, Any], images: str) -> str:
        """Return the hash of all that decides a result. images: the digest of the labelled images."""
        body = self.model_dump(mode="json", exclude={"about": True, "against": True, "arm": {"__all__": {"against"}}})
        text = json.dumps([body, check, images], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def shipped_names() -> list[str]:
    folder = resources.files("scanfleet") / "builtin" / "experiments"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_experiment(name_or_path: str) -> Experiment:
    """Read a shipped specification by name, or a file. Raises BadExperiment."""
    if name_or_path in shipped_names():
        source = resources.files("scanfleet") / "builtin" / "experiments" / f"{name_or_path}.toml"
        return parse_experiment(source.read_text(encoding="utf-8"), where=name_or_path)
    try:
        text = Path(name_or_path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        shipped = ", ".join(shipped_names())
        raise BadExperiment(f"{name_or_path}: cannot be read ({error}); shipped ones: {shipped}") from None
    return parse_experiment(text, where=name_or_path)


def parse_experiment(text: str, *, where: str) -> Experiment:
    """Raises BadExperiment with the key's name, on one line."""
    try:
        return Experiment.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise BadExperiment(f"{where}: {error}") from None
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise BadExperiment(f"{where}: {key + ': ' if key else ''}{explain(problem)}") from None
