"""The classes of a YOLO folder: a name per line, or `names` in a YAML file.

YAML is composed into nodes but never turned into objects: a class named `no` or `007` keeps its name, and neither tags
nor aliases can make anything of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scanfleet.producer.labels.formats.entries import required
from scanfleet.producer.labels.formats.parsing.files import lines_of, text_file
from scanfleet.producer.sources.manifest import MalformedLineError

NAME_FILES = ("classes.txt", "obj.names")
YAML_FILES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
MAX_YAML_CHARS = 1 << 20  # thousands of classes


@dataclass(frozen=True, kw_only=True)
class Classes:
    """Names by number. key_points: lines have a box and then key points."""

    names: dict[int, str]
    key_points: bool = False


def read_classes(folder: Path) -> Classes:
    """Raises MalformedLineError, also if two lists differ."""
    found = {name: Classes(names=_lines(folder / name)) for name in NAME_FILES if (folder / name).is_file()}
    found |= {name: _yaml(folder / name) for name in YAML_FILES if (folder / name).is_file()}
    if not found:
        raise MalformedLineError(f"no list of classes (one of {', '.join((*NAME_FILES, *YAML_FILES))})")
    name, first = next(iter(found.items()))
    for other, classes in found.items():
        if classes.names != first.names:
            raise MalformedLineError(f"{name} and {other} list different classes: remove the one that is wrong")
    return Classes(names=first.names, key_points=any(classes.key_points for classes in found.values()))


def _lines(path: Path) -> dict[int, str]:
    lines = lines_of(path)
    while lines and not lines[-1].strip():
        lines.pop()
    return {number: required(line, f"name in line {number + 1} of {path.name}") for number, line in enumerate(lines)}


def _yaml(path: Path) -> Classes:
    import yaml

    text = text_file(path)
    if len(text) > MAX_YAML_CHARS:
        raise MalformedLineError(f"{path.name} has {len(text)} characters; the limit is {MAX_YAML_CHARS}")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise MalformedLineError(f"{path.name} is not YAML: {' '.join(str(error).split())[:200]}") from None
    fields: dict[str, yaml.Node] = {}
    for key, value in root.value if isinstance(root, yaml.MappingNode) else ():
        if fields.setdefault(name := _scalar(key), value) is not value and name:
            raise MalformedLineError(f"{path.name} has the key {name[:40]!r} twice")
    names = _names(fields.get("names"), path.name)
    count = fields.get("nc")
    if isinstance(count, yaml.ScalarNode) and count.value.strip() != str(len(names)):
        raise MalformedLineError(f"{path.name} has {len(names)} names but nc: {count.value[:20]}")
    return Classes(names=names, key_points="kpt_shape" in fields)


def _names(node: object, name: str) -> dict[int, str]:
    import yaml

    if isinstance(node, yaml.SequenceNode):
        return {number: _name(one, f"class {number} of {name}") for number, one in enumerate(node.value)}
    if not isinstance(node, yaml.MappingNode):
        raise MalformedLineError(f"{name} has no `names` in a supported form: write classes.txt, one name per line")
    found: dict[int, str] = {}
    for key, value in node.value:
        digits = _scalar(key)
        if not (digits.isascii() and digits.isdigit() and len(digits) < 10) or int(digits) in found:
            raise MalformedLineError(f"{name}: the class {digits[:20]!r} is not a number, or occurs twice")
        found[int(digits)] = _name(value, f"class {digits} of {name}")
    return found


def _name(node: object, what: str) -> str:
    import yaml

    if not isinstance(node, yaml.ScalarNode):
        raise MalformedLineError(f"the name of {what} is not text")
    return required(node.value, f"the name of {what}")


def _scalar(node: object) -> str:
    """Return the text of a node. Others have none: the text of nested aliases could be endless."""
    import yaml

    return str(node.value) if isinstance(node, yaml.ScalarNode) else ""
