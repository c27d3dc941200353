"""adapter_config.json: the settings of a LoRA, as PEFT writes them. Only an allow-list of its fields is used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from scanfleet.models.errors import ModelInvalid, unreadable

SETTINGS = "adapter_config.json"


class Frozen(BaseModel):
    """A value of an adapter's files: nothing unknown, nothing converted, nothing infinite."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class LoraSettings(Frozen):
    """The fields of a LoRA configuration that are read; all others are refused or ignored."""

    r: Annotated[int, Field(ge=1, le=1024)]
    lora_alpha: Annotated[float, Field(gt=0)]
    # A regular expression for the full module name, or name suffixes.
    target_modules: Annotated[str, Field(min_length=1)] | Annotated[tuple[str, ...], Field(min_length=1)]
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    use_rslora: bool = False
    modules_to_save: tuple[str, ...] | None = None  # modules trained whole, such as the merger
    # An activated LoRA (aLoRA) acts from the last occurrence of these tokens on, and nowhere before.
    alora_invocation_tokens: Annotated[tuple[int, ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.alora_invocation_tokens and self.modules_to_save:
            raise ValueError("modules_to_save would act before alora_invocation_tokens, too: set one of them")
        return self

    def deciding(self) -> dict[str, Any]:
        """Return the fields that change a margin, as plain JSON that is the same for the same LoRA."""
        targets, invocation = self.target_modules, self.alora_invocation_tokens
        return {
            "r": self.r,
            "lora_alpha": self.lora_alpha,
            "target_modules": targets if isinstance(targets, str) else sorted(targets),
            "use_rslora": self.use_rslora,
            "modules_to_save": sorted(self.modules_to_save or ()),
            # Left out where there are none, so that the digest of a plain LoRA stays what it was.
            **({"alora_invocation_tokens": list(invocation)} if invocation else {}),
        }


# Fields of PEFT's file that do not change inference.
_DESCRIPTIVE = {
    "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "init_lora_weights", "megatron_core", "qalora_group_size", "runtime_config",
}  # fmt: skip
_NEUTRAL: tuple[Any, ...] = (None, False, "none", [], {})


def read_settings(path: Path) -> LoraSettings:
    """Read adapter_config.json. Raises ModelInvalid, ModelUnavailable."""
    try:
        raw = json.loads(read_file(path))
    except ValueError as error:
        raise ModelInvalid(f"{path} is not JSON: {error}") from error
    if not isinstance(raw, dict) or raw.get("peft_type") != "LORA":
        raise ModelInvalid(f"{path}: peft_type must be LORA; other methods are not supported")
    # A field that changes the computation must not be skipped silently: refuse it when it is set.
    ignored = set(raw) - set(LoraSettings.model_fields) - _DESCRIPTIVE
    active = sorted(name for name in ignored if raw[name] not in _NEUTRAL)
    if active:
        raise ModelInvalid(f"{path}: {', '.join(active)} is set, which is not supported; train LoRA or aLoRA")
    known = {name: value for name, value in raw.items() if name in LoraSettings.model_fields}
    try:
        return LoraSettings.model_validate_json(json.dumps(known))
    except ValidationError as error:
        raise ModelInvalid(f"{path}: {first_problem(error)}") from error


def settings_text(lora: LoraSettings, *, base_model: str) -> str:
    """Return the content of adapter_config.json."""
    settings = {"peft_type": "LORA", "base_model_name_or_path": base_model, "bias": "none"}
    return json.dumps({**settings, **lora.model_dump(mode="json")}, indent=2) + "\n"


def as_trained(lora: LoraSettings, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with the scaling that the card's recipe names, for an adapter without a seal.

    Every recipe of ours names its alpha and none uses rslora. The other settings follow from the names and shapes of
    the tensors. The recipe of a head says nothing about the LoRA below it.
    """
    if "alpha" not in recipe or recipe.get("trains") == "head":
        return lora.deciding()
    return lora.deciding() | {"lora_alpha": recipe["alpha"], "use_rslora": False}


def read_file(path: Path) -> bytes:
    """Return a file of an adapter. Raises ModelInvalid if it is missing, ModelUnavailable if it cannot be read now."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelInvalid(f"{path} is missing; copy the whole adapter folder") from error
    except OSError as error:
        raise unreadable(str(path), error) from error


def first_problem(error: ValidationError) -> str:
    """Return where a value is wrong, and how."""
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else problem["msg"]
