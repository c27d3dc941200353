"""Print the direct dependencies of every extra without their upper bounds: what the newest releases would bring.

An exact version stays: another torch is another download of gigabytes, and is tried by hand.
"""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def main() -> None:
    """One requirement a line, as a requirements file."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    for line in sorted({line for lines in lists for line in lines}):
        requirement = Requirement(line)
        kept = [str(bound) for bound in requirement.specifier if "<" not in bound.operator]
        requirement.specifier = SpecifierSet(",".join(kept))
        print(requirement)


if __name__ == "__main__":
    main()
