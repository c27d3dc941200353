"""What is installed from a wheel is whole: every file beside the code that the code reads is package data."""

import tomllib
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[3]
PACKAGES = ("scanfleet", "producer", "worker", "models", "migrations")


def test_every_file_beside_the_code_is_package_data() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["*"]
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()]
    beside = [path for path in files if path.suffix not in (".py", ".pyc")]
    left_out = [str(path) for path in beside if not any(fnmatch(path.name, pattern) for pattern in patterns)]
    assert len(beside) > 40  # the pocket model's weights and canary images among them
    assert left_out == []
