"""`make mutants`: its table names modules and tests that are there, and its tests import the copy that it changes."""

from pathlib import Path

from tools.mutants.copy import copy
from tools.mutants.table import GROUPS, modules

ROOT = Path(__file__).parents[3]


def test_every_group_has_modules_and_every_test_of_it_exists() -> None:
    found = modules(ROOT)
    assert [group for group, paths in found.items() if not paths] == []
    every = [path for paths in found.values() for path in paths]
    assert len(every) == len(set(every))
    assert [test for _, tests in GROUPS.values() for test in tests if not (ROOT / test).is_file()] == []
    plain = [path for globs, _ in GROUPS.values() for path in globs if "*" not in path]
    assert [path for path in plain if path not in every] == []


def test_a_copy_has_the_packages_that_are_links(tmp_path: Path) -> None:
    """Else its tests import those of the environment, where nothing is changed."""
    tree = copy(ROOT, tmp_path)
    for name in ("producer", "worker", "models", "migrations"):
        package = tree / "scanfleet" / name
        assert package.is_dir()
        assert package.resolve() == tree / name
