"""`make mutants`: changes one line at a time, in a copy of this tree, and says which changes no test notices.

A mutant is killed if a test of its group (`tools.mutants.table`) fails or takes far too long. The tests run on SQLite
first; those of the ledger also on PostgreSQL, if none failed. This runs in an environment of its own, with mutmut's
operators; the tests run in that of the project.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tools.mutants.sample import Mutant, sample
from tools.mutants.table import GROUPS

ROOT = Path(__file__).parents[2]
FIRST, THEN = "not postgresql", "postgresql"
ON_BOTH = {"leases", "batches", "verdicts", "champions", "renewals"}  # what SQLite ignores may matter there
PATIENCE, SPARE_SECONDS = 4, 60.0  # times what the tests take without a change, for other work on the machine
FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)
NO_TESTS = 5  # pytest's exit code


def copy(root: Path, tree: Path) -> Path:
    """Copy what git knows or would add, and let the copy use the same environment."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (root / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, tree / name)
    (tree / ".venv").symlink_to((root / ".venv").resolve())
    return tree


def failing(tree: Path, tests: tuple[str, ...], which: str, seconds: float | None) -> str | None:
    """Return the first test that fails, or "timeout"; None when all pass or none is selected."""
    flags = ["-x", "-q", "--tb=line", "-p", "no:cacheprovider", "-m", "not slow and not gpu", "-k", which]
    run = subprocess.Popen(
        [str(tree / ".venv/bin/python"), "-m", "pytest", *flags, *tests],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        said = run.communicate(timeout=seconds)[0].decode(errors="replace")
    except subprocess.TimeoutExpired:
        return "timeout"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    if run.returncode in (0, NO_TESTS):
        return None
    found = FAILED.search(said)
    return found.group(1) if found else f"pytest ends with {run.returncode}: {said[-300:]}"


def killer(tree: Path, mutant: Mutant, usual_seconds: float) -> str | None:
    """Try one mutant. The module is put back at the end."""
    module = tree / mutant.path
    original = module.read_bytes()
    patience = PATIENCE * usual_seconds + SPARE_SECONDS
    try:
        _write(module, mutant.code.encode())
        found = None
        for which in (FIRST, THEN) if mutant.group in ON_BOTH else (FIRST,):
            found = found or failing(tree, GROUPS[mutant.group][1], which, patience)
        return found
    finally:
        _write(module, original)


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
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(options.processes) as pool:
        trees: SimpleQueue[Path] = SimpleQueue()
        for number in range(options.processes):
            trees.put(copy(ROOT, Path(folder, str(number))))
        results = _try_all(mutants, trees, pool)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    killed = sum(result["killed_by"] is not None for result in results)
    print(f"{killed} of {len(results)} killed ({killed / max(len(results), 1):.1%}), seed {options.seed}")
    return 0 if killed >= options.least * len(results) else 1


def _survivors(results: list[dict[str, Any]]) -> list[Mutant]:
    left = {(result["path"], result["diff"]) for result in results if result["killed_by"] is None}
    every = (mutant for path in {path for path, _ in left} for mutant in sample(ROOT, n=sys.maxsize, seed=0, only=path))
    return list({(mutant.path, mutant.diff): mutant for mutant in every if (mutant.path, mutant.diff) in left}.values())


def _try_all(mutants: list[Mutant], trees: SimpleQueue[Path], pool: ThreadPoolExecutor) -> list[dict[str, object]]:
    def unchanged(group: str) -> float:
        tree, start = trees.get(), time.monotonic()
        try:
            if found := failing(tree, GROUPS[group][1], FIRST, None):
                raise SystemExit(f"{found} fails without any change: mend it first")
            return time.monotonic() - start
        finally:
            trees.put(tree)

    def tried(mutant: Mutant) -> dict[str, object]:
        tree, start = trees.get(), time.monotonic()
        try:
            found = killer(tree, mutant, usual[mutant.group])
        finally:
            trees.put(tree)
        _show(f"killed by {found}" if found else "SURVIVED", mutant)
        kept = {name: getattr(mutant, name) for name in ("group", "path", "line", "operator", "diff")}
        return kept | {"killed_by": found, "seconds": round(time.monotonic() - start, 1)}

    groups = sorted({mutant.group for mutant in mutants})
    usual = dict(zip(groups, pool.map(unchanged, groups), strict=True))
    return list(pool.map(tried, mutants))


def _show(word: str, mutant: Mutant) -> None:
    print(f"{mutant.path}:{mutant.line}: {mutant.operator}: {word}", flush=True)
    if not word.startswith("killed"):
        print(mutant.diff, flush=True)


if __name__ == "__main__":
    sys.exit(main())
