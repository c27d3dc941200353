"""`make mutants`: changes one line at a time, in a copy of this tree, and says which changes no test notices.

A mutant is killed if a test of its group (`tools.mutants.table`) fails or takes far too long. The tests run on SQLite
alone, unless you ask for both. This runs in an environment of its own, with mutmut's
operators; the tests run in that of the project.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tools.mutants.copy import copy
from tools.mutants.sample import Mutant, sample
from tools.mutants.table import GROUPS

ROOT = Path(__file__).parents[2]
SQLITE, POSTGRESQL = "not postgresql", "postgresql"
PATIENCE, SPARE_SECONDS = 4, 60.0  # times what the tests take without a change, for other work on the machine
FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)
NO_TESTS = 5  # pytest's exit code
REWRITTEN = "pytest.PytestAssertRewriteWarning"  # what was imported before pytest looked at it


class Tree:
    """A copy in which one mutant at a time is tried. `tools.mutants.forks` runs its tests."""

    def __init__(self, root: Path, folder: Path, *, postgresql: bool) -> None:
        self._databases = (SQLITE, POSTGRESQL) if postgresql else (SQLITE,)
        self.folder = copy(root, folder)
        self._forks = subprocess.Popen(
            [str(folder / ".venv/bin/python"), "-m", "tools.mutants.forks"],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def failing(self, group: str, which: str, seconds: float | None) -> str | None:
        """Return the first test of a group that fails, or "timeout"; None when all pass or none is selected."""
        flags = ["-x", "-q", "--tb=line", "-p", "no:cacheprovider", "-W", f"ignore::{REWRITTEN}"]
        flags += ["-m", "not slow and not gpu", "-k", which]
        request = {"arguments": [*flags, *GROUPS[group][1]], "seconds": seconds}
        assert self._forks.stdin is not None
        assert self._forks.stdout is not None
        print(json.dumps(request), file=self._forks.stdin, flush=True)
        answer = json.loads(self._forks.stdout.readline())
        if answer["code"] in (0, NO_TESTS):
            return None
        found = FAILED.search(answer["said"])
        return "timeout" if answer["code"] is None else found.group(1) if found else str(answer)[-300:]

    def killer(self, mutant: Mutant, usual_seconds: float) -> str | None:
        """Try one mutant. The module is put back at the end."""
        module = self.folder / mutant.path
        original = module.read_bytes()
        patience = PATIENCE * usual_seconds + SPARE_SECONDS
        try:
            _write(module, mutant.code.encode())
            found = None
            for which in self._databases:
                found = found or self.failing(mutant.group, which, patience)
            return found
        finally:
            _write(module, original)

    def close(self) -> None:
        self._forks.kill()
        self._forks.communicate()


def _write(module: Path, code: bytes) -> None:
    """Bytecode is told by size and second of its source, so that of the module before goes."""
    module.write_bytes(code)
    for stale in module.parent.glob(f"__pycache__/{module.stem}.*.pyc"):
        stale.unlink()


def main() -> int:
    """Print each survivor with its diff, and the share of the killed. 1: less than --least."""
    parser = argparse.ArgumentParser(prog="python -m tools.mutants", description=__doc__)
    parser.add_argument("--n", type=int, default=200, help="how many mutants")
    parser.add_argument("--seed", type=int, default=1, help="which ones")
    parser.add_argument("--only", default="", help="a part of the path of the modules to change")
    parser.add_argument("--postgresql", action="store_true", help="try what survives on SQLite on PostgreSQL as well")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--least", type=float, default=0.95, help="share of killed mutants below which this fails")
    parser.add_argument("--list", action="store_true", help="print the mutants without trying them")
    parser.add_argument("--again", type=Path, help="try what survived in such a file of results, and nothing else")
    parser.add_argument("--json", type=Path, help="write all results to this file")
    options = parser.parse_args()
    mutants = sample(ROOT, n=options.n, seed=options.seed, only=options.only)
    if options.again:
        mutants = _survivors(json.loads(options.again.read_text()))
    if options.list:
        for mutant in mutants:
            _show("mutant", mutant)
        return 0
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(options.processes) as pool:
        trees = [
            Tree(ROOT, Path(folder, str(number)), postgresql=options.postgresql) for number in range(options.processes)
        ]
        try:
            _try_all(mutants, trees, pool, results)
        finally:  # of what was tried until Ctrl-C, too
            if options.json:
                options.json.write_text(json.dumps(results, indent=1))
            for tree in trees:
                tree.close()
    killed = sum(result["killed_by"] is not None for result in results)
    print(f"{killed} of {len(results)} killed ({killed / max(len(results), 1):.1%}), seed {options.seed}")
    return 0 if killed >= options.least * len(results) else 1


def _survivors(results: list[dict[str, Any]]) -> list[Mutant]:
    left = {(result["path"], result["diff"]) for result in results if result["killed_by"] is None}
    every = (mutant for path in {path for path, _ in left} for mutant in sample(ROOT, n=sys.maxsize, seed=0, only=path))
    return list({(mutant.path, mutant.diff): mutant for mutant in every if (mutant.path, mutant.diff) in left}.values())


def _try_all(mutants: list[Mutant], trees: list[Tree], pool: ThreadPoolExecutor, results: list[dict[str, Any]]) -> None:
    """Add to the results as they come."""
    free: SimpleQueue[Tree] = SimpleQueue()
    for tree in trees:
        free.put(tree)

    @contextmanager
    def one() -> Iterator[Tree]:
        tree = free.get()
        try:
            yield tree
        finally:
            free.put(tree)

    def unchanged(group: str) -> float:
        with one() as tree:
            start = time.monotonic()
            if found := tree.failing(group, SQLITE, None):
                raise SystemExit(f"{found} fails without any change: mend it first")
            return time.monotonic() - start

    def try_it(mutant: Mutant) -> None:
        usual_seconds = usual[mutant.group].result()
        with one() as tree:
            found = tree.killer(mutant, usual_seconds)
        _show(f"killed by {found}" if found else "SURVIVED", mutant)
        kept = {name: getattr(mutant, name) for name in ("group", "path", "line", "operator", "diff")}
        results.append(kept | {"killed_by": found})

    groups = sorted({mutant.group for mutant in mutants})
    usual = {group: pool.submit(unchanged, group) for group in groups}
    list(pool.map(try_it, mutants))


def _show(word: str, mutant: Mutant) -> None:
    print(f"{mutant.path}:{mutant.line}: {mutant.operator}: {word}", flush=True)
    if not word.startswith("killed"):
        print(mutant.diff, flush=True)


if __name__ == "__main__":
    sys.exit(main())
