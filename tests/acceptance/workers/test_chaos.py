"""The promise as a whole: a real fleet under faults at random moments, then a count of every image.

And whether that count can be trusted: a fleet with a part of its protection taken out must not pass.
"""

import json
import os
import secrets
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.__main__ import EX_UNAVAILABLE
from tests.chaos.options import KINDS

ROOT = Path(__file__).parents[3]
LONG_RUN_ONLY = ("database_restored", "database_full", "broker_full", "s3_refused")  # they take their time
SEED = 7  # of the runs in `make test`; the long ones draw theirs, or take CHAOS_SEED


@dataclass(frozen=True, kw_only=True)
class Run:
    exit_code: int
    values: dict[str, Any]
    words: str  # the command, its table and the faults in their order


def chaos(*arguments: str | int, timeout: float) -> Run:
    command = [sys.executable, "-m", "tests.chaos", *map(str, arguments), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode == EX_UNAVAILABLE and not os.environ.get("CI"):
        pytest.skip(done.stderr.strip())
    words = f"{' '.join(command[1:])}\n{done.stderr}"
    assert done.stdout, words
    return Run(exit_code=done.returncode, values=json.loads(done.stdout.splitlines()[-1]), words=words)


def assert_holds(run: Run) -> None:
    assert run.exit_code == 0, run.words
    assert run.values["digest"] == run.values["reference_digest"], run.words
    assert run.values["verdicts"] + run.values["failures"] == run.values["images"], run.words


def long_seed() -> int:
    return int(os.environ.get("CHAOS_SEED", secrets.randbelow(10**6)))


@pytest.mark.slow
def test_a_failure_of_every_cheap_kind_loses_nothing() -> None:
    kinds = [kind for kind in KINDS if kind not in LONG_RUN_ONLY]
    faults = ("--faults", len(kinds), "--kinds", ",".join(kinds))
    run = chaos(*faults, "--seed", SEED, "--images", 400, timeout=900)
    assert_holds(run)
    assert set(run.values["faults"]) == set(kinds), run.words
    assert run.values["quarantined"] >= run.values["poison_images"] >= 1, run.words


@pytest.mark.slow
def test_a_fleet_without_reconcilers_is_found_out() -> None:
    faults = ("--faults", 4, "--kinds", "kill9,broker_flush", "--poison", 0, "--images", 600)
    run = chaos(*faults, "--seed", SEED, "--without", "reconciler", "--patience", 10, timeout=200)
    assert run.exit_code == 1, run.words
    assert run.values["stuck"], run.words
    assert run.values["lost"] > 0, run.words


@pytest.mark.slow
def test_three_hundred_failures_lose_nothing() -> None:
    run = chaos("--faults", 300, "--seed", long_seed(), "--images", 20_000, timeout=3600)
    sys.stdout.write(run.words)
    assert_holds(run)
    assert run.values["n_faults"] == 300, run.words
    assert sum(run.values["undone_by_restores"]) > 0, run.words
    assert {"deleted: gone", "overwritten: changed"} <= set(run.values["changed"]), run.words


@pytest.mark.slow
def test_a_run_without_failures_gives_the_same_answers() -> None:
    """What the runs under faults are compared with is what the fleet itself says in peace."""
    calm = chaos("--faults", 0, "--seed", SEED, "--images", 2500, timeout=900)
    assert_holds(calm)
    assert calm.values["restarts"] >= 3  # of the lethal image alone


@pytest.mark.slow
def test_a_fleet_without_the_token_is_found_out() -> None:
    """Frozen for longer than their leases, its workers write what others have written."""
    faults = ("--faults", 10, "--kinds", "freeze", "--poison", 0, "--images", 1000, "--seconds-per-image", 0.03)
    run = chaos(*faults, "--seed", SEED, "--without", "token", "--patience", 60, timeout=400)
    assert run.exit_code == 1, run.words
    assert run.values["doubled"] > 0, run.words
    assert_holds(chaos(*faults, "--seed", SEED, timeout=400))


@pytest.mark.slow
def test_a_fleet_that_trusts_ids_of_scorers_is_found_out() -> None:
    """Scorers that a restored database has lost: others get their ids."""
    faults = ("--faults", 3, "--kinds", "database_restored", "--poison", 0, "--images", 400)
    run = chaos(*faults, "--seed", SEED, "--without", "scorer-identity", timeout=600)
    assert run.exit_code == 1, run.words
    assert run.values["wrong_scorer"] > 0, run.words
    assert_holds(chaos(*faults, "--seed", SEED, timeout=600))


@pytest.mark.slow
def test_a_fleet_that_trusts_names_of_queues_is_found_out() -> None:
    """Batches of two models lie under one name, and notifications of either reach the workers of both."""
    faults = ("--faults", 3, "--kinds", "duplicates", "--poison", 0, "--images", 600)
    run = chaos(*faults, "--seed", SEED, "--without", "model-check", timeout=600)
    assert run.exit_code == 1, run.words
    assert run.values["wrong_scorer"] > 0, run.words
    assert_holds(chaos(*faults, "--seed", SEED, timeout=600))


@pytest.mark.slow
def test_a_fleet_without_the_guard_is_found_out() -> None:
    """A connection to the broker that falls silent while all slots are busy leaves the worker without notifications.

    The watchdog would end it after two minutes; the guard has it connect again after 20 seconds.
    """
    work = ("--workers", 1, "--images", 400, "--seconds-per-image", 0.1, "--poison", 0, "--seed", SEED)
    faults = ("--faults", 1, "--kinds", "broker_silent", "--patience", 50)
    run = chaos(*work, *faults, "--without", "guard", timeout=400)
    assert run.exit_code == 1, run.words
    assert run.values["stuck"], run.words
    assert_holds(chaos(*work, *faults, timeout=400))
