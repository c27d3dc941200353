"""docs/dependencies.md tells the truth, and no licence that would reach into ours is installed."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ROW = re.compile(r"^\| ([a-z0-9-]+) \| .+? \| (.+?) \| (.+?) \|$", re.MULTILINE)
DOCUMENTED = {
    name: licence for name, licence, _ in ROW.findall((ROOT / "docs/dependencies.md").read_text()) if name != "package"
}
COPYLEFT = re.compile(r"\bA?GPL|Affero|(?<!Lesser )General Public", re.IGNORECASE)
LGPL_EXPLAINED = {"psycopg", "psycopg-binary"}


def _direct() -> set[str]:
    """Names in pyproject.toml without versions, extras and markers; psycopg-binary is psycopg's extra."""
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return {re.split(r"[\[<>=;~! ]", line)[0].lower() for lines in lists for line in lines}


def _licence(package: metadata.Distribution) -> str:
    """Expression, first line of the text field, and classifiers: packages fill any of them."""
    fields: dict[str, list[str]] = {
        name: package.metadata.get_all(name) or [] for name in ("License-Expression", "License", "Classifier")
    }
    text = [value.strip().partition("\n")[0] for value in fields["License"]]
    classifiers = [value for value in fields["Classifier"] if value.startswith("License")]
    return " ".join([*fields["License-Expression"], *text, *classifiers])


def test_every_direct_dependency_has_its_line_and_no_line_is_stale() -> None:
    assert set(DOCUMENTED) == _direct()


@pytest.mark.parametrize("name", sorted(DOCUMENTED))
def test_licence_is_the_one_that_the_package_states(name: str) -> None:
    try:
        stated = _licence(metadata.distribution(name))
    except metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed here")
    family = re.split(r"[-\s]", DOCUMENTED[name])[0]
    assert family.lower() in stated.lower() or name == "matplotlib", stated


def test_no_gpl_is_installed() -> None:
    found = {package.metadata["Name"].lower(): _licence(package) for package in metadata.distributions()}
    assert len(found) > len(DOCUMENTED)
    copyleft = {name: licence for name, licence in found.items() if COPYLEFT.search(licence)}
    assert copyleft == {}


def test_lgpl_is_only_what_the_page_explains() -> None:
    lgpl = {
        package.metadata["Name"].lower()
        for package in metadata.distributions()
        if re.search(r"LGPL|Lesser General", _licence(package))
    }
    assert lgpl <= LGPL_EXPLAINED


@pytest.mark.parametrize("licence", ["GPL-3.0-only", "AGPL-3.0", "GNU General Public License v3 (GPLv3)"])
def test_search_recognises_gpl(licence: str) -> None:
    assert COPYLEFT.search(licence)


@pytest.mark.parametrize("licence", ["LGPL-3.0-only", "GNU Lesser General Public License v3", "MIT"])
def test_search_lets_others_pass(licence: str) -> None:
    assert not COPYLEFT.search(licence)
