"""`make mutants`: changes one line at a time, in a copy of this tree, and says which changes no test notices.

A mutant is killed if a test of its group (`tools.mutants.table`) fails or takes far too long. The tests run on SQLite
first, and those on PostgreSQL if none failed. Runs in an environment of its own, with mutmut's operators; the tests
run in the environment of the project.
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

from tools.mutants.sample import Mutant, sample
from tools.mutants.table import GROUPS

ROOT = Path(__file__).parents[2]
FIRST, THEN = "not postgresql", "postgresql"
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
        env=os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"},
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


def killer(tree: Path, mutant: Mutant, usual: dict[tuple[str, str], float]) -> str | None:
    """Try one mutant. The module is put back at the end."""
    module = tree / mutant.path
    original = module.read_bytes()
    try:
        _write(module, mutant.code.encode())
        for which in (FIRST, THEN):
            seconds = usual[mutant.group, which] * PATIENCE + SPARE_SECONDS
            if found := failing(tree, GROUPS[mutant.group][1], which, seconds):
                return found
        return None
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
    parser.add_argument("--json", type=Path, help="write all results to this file")
    options = parser.parse_args()
    mutants = sample(ROOT, n=options.n, seed=options.seed, only=options.only)
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


def _try_all(mutants: list[Mutant], trees: SimpleQueue[Path], pool: ThreadPoolExecutor) -> list[dict[str, object]]:
    def unchanged(key: tuple[str, str]) -> float:
        tree, start = trees.get(), time.monotonic()
        try:
            if found := failing(tree, GROUPS[key[0]][1], key[1], None):
                raise SystemExit(f"{found} fails without any change: mend it first")
            return time.monotonic() - start
        finally:
            trees.put(tree)

    def tried(mutant: Mutant) -> dict[str, object]:
        tree, start = trees.get(), time.monotonic()
        try:
            found = killer(tree, mutant, usual)
        finally:
            trees.put(tree)
        _show(f"killed by {found}" if found else "SURVIVED", mutant)
        kept = {name: getattr(mutant, name) for name in ("group", "path", "line", "operator", "diff")}
        return kept | {"killed_by": found, "seconds": round(time.monotonic() - start, 1)}

    keys = [(group, which) for group in sorted({mutant.group for mutant in mutants}) for which in (FIRST, THEN)]
    usual = dict(zip(keys, pool.map(unchanged, keys), strict=True))
    return list(pool.map(tried, mutants))


def _show(word: str, mutant: Mutant) -> None:
    print(f"{mutant.path}:{mutant.line}: {mutant.operator}: {word}", flush=True)
    if not word.startswith("killed"):
        print(mutant.diff, flush=True)


if __name__ == "__main__":
    sys.exit(main())
