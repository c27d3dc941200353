"""The table of `make mutants` names modules and tests that are there."""

from pathlib import Path

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
