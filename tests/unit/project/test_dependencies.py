"""docs/dependencies.md tells the truth, and no licence that would reach into ours is installed."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[3]
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


def test_licences_are_those_that_the_packages_state() -> None:
    stated = {package.metadata["Name"].lower(): _licence(package) for package in metadata.distributions()}
    families = {name: re.split(r"[-\s]", licence)[0].lower() for name, licence in DOCUMENTED.items()}
    installed = families.keys() & stated.keys() - {"matplotlib"}  # states no name of a licence
    assert len(installed) > 20
    assert {name: stated[name] for name in installed if families[name] not in stated[name].lower()} == {}


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


def test_search_tells_gpl_from_others() -> None:
    for licence in ("GPL-3.0-only", "AGPL-3.0", "GNU General Public License v3 (GPLv3)"):
        assert COPYLEFT.search(licence), licence
    for licence in ("LGPL-3.0-only", "GNU Lesser General Public License v3", "MIT"):
        assert not COPYLEFT.search(licence), licence
