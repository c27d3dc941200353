"""A check of kind `multi`: what of a list does the image show? Any number of classes may be true at once.

It is a file, and stands for one check a class, which asks yes or no. These read images alike, so they share a pass, and
each has its own margin, labels, calibration, adapter and gate. Their names tell what they belong to: `xray--knife`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from scanfleet.checks.check import Check, load_check, problems_of, read_text, refuse
from scanfleet.errors import BadCheck

KIND = "multi"
BETWEEN = "--"  # in a name, between that of the file and that of the class
NONE = "none"  # the other label of each check
PLACE = "{class}"  # in the prompt
MAX_CLASSES = 64
_NOT_SHARED = ("labels", "flags", "steps")  # follow from the classes


def load_checks(name_or_path: str) -> list[Check]:
    """Return the checks of a file, one unless it is of kind multi, or a built-in one. Raises BadCheck, UnknownName."""
    if name_or_path.endswith(".toml"):
        text = read_text(Path(name_or_path))
        if is_multi(text):
            return parse_multi(text, where=name_or_path)
    return [load_check(name_or_path)]


def is_multi(text: str) -> bool:
    """Return whether a check file has kind multi; of one that is no TOML its own reader tells."""
    try:
        return tomllib.loads(text).get("kind") == KIND
    except (ValueError, RecursionError):
        return False


def parse_multi(text: str, *, where: str) -> list[Check]:
    """Return the checks of a file of kind multi, in the order of its classes.

    Raises BadCheck naming the file, and line, field and problem of all that is wrong.
    """
    body = tomllib.loads(text)
    del body["kind"]
    if problems := _own_problems(body):
        refuse(text, where, problems)
    made = []
    for label in body["classes"]:
        one = _member(body, label)
        try:
            made.append(Check.model_validate(one))
        except ValidationError as error:
            refuse(text, where, problems_of(error, one))
    return made


def class_of(check: Check) -> str:
    """Return the class that a check of a multi file asks for: its only flag."""
    return check.flags[0]


def is_member(check: Check, of: str) -> bool:
    """Return whether a check belongs to a multi check of this name."""
    return check.name.startswith(of + BETWEEN) and len(check.flags) == 1 and check.labels == (check.flags[0], NONE)


def set_name(checks: Sequence[Check]) -> str | None:
    """Return the name of the multi check that these are the classes of; None: they are no such."""
    name = checks[0].name.partition(BETWEEN)[0]
    return name if all(is_member(check, name) for check in checks) else None


def require_one(checks: Sequence[Check], *, name: str) -> Check:
    """Return the only check. Raises BadCheck where a multi check has several, and names them."""
    if len(checks) > 1:
        names = ", ".join(check.name for check in checks[:5]) + (", ..." if len(checks) > 5 else "")
        raise BadCheck(f"{name} is a check of kind multi; choose one of its checks: {names}")
    return checks[0]


def _own_problems(body: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (field, problem) for what a multi file has and other checks have not."""
    classes, prompt = body.get("classes"), body.get("prompt")
    problems = [
        (field, "cannot go with kind multi, whose checks answer yes or no") for field in _NOT_SHARED if field in body
    ]
    if not isinstance(prompt, str) or PLACE not in prompt:
        problems.append(("prompt", f"must name {PLACE}, where each class is put"))
    if not isinstance(classes, list) or not classes or not all(isinstance(one, str) and one for one in classes):
        return [*problems, ("classes", "must be a list of texts")]
    if len(classes) > MAX_CLASSES:
        problems.append(("classes", f"must have at most {MAX_CLASSES} entries"))
    for field in ("descriptions", "prevalence"):
        given = body.get(field, {})
        if isinstance(given, dict) and (unknown := sorted(set(given) - set(classes))):
            problems.append((field, f"{', '.join(unknown)} is not among the classes ({', '.join(classes[:20])})"))
    slugs = [_slug(one) for one in classes]
    for one, slug in zip(classes, slugs, strict=True):
        if slug in ("", NONE) or BETWEEN in slug:
            problems.append(
                ("classes", f"{one!r} cannot be the name of a class: it needs letters or digits, and not {NONE!r}")
            )
        elif any(mark in one for mark in ",;|"):
            problems.append(("classes", f"{one!r} holds one of , ; | which separate classes in labels"))
    if len(set(slugs)) < len(slugs):
        problems.append(("classes", "two of them have the same name up to case and signs: rename one"))
    return problems


def _member(body: Mapping[str, Any], label: str) -> dict[str, Any]:
    words = _of(body.get("descriptions", {}), label) or label
    shared = {name: value for name, value in body.items() if name not in ("classes", "descriptions", "prevalence")}
    prevalence = body.get("prevalence")
    share = prevalence.get(label) if isinstance(prevalence, dict) else prevalence
    return shared | {
        "name": f"{body.get('name', '')}{BETWEEN}{_slug(label)}",
        "prompt": body["prompt"].replace(PLACE, words),
        "labels": (label, NONE),
        "flags": (label,),
        "descriptions": {label: "yes", NONE: "no"},
        **({} if share is None else {"prevalence": share}),
    }


def _of(table: Any, label: str) -> Any:
    return table.get(label) if isinstance(table, dict) else None


def _slug(label: str) -> str:
    return re.sub(r"[^a-z0-9_]+", "-", label.lower()).strip("-")


def split_classes(text: str) -> list[str]:
    """Return the classes of a label such as `knife,gun`; `none` and nothing are no class."""
    words = [word.strip() for word in re.split(r"[,;|]", text)]
    return [word for word in dict.fromkeys(words) if word and word != NONE]
