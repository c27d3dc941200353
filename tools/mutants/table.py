"""Which modules are mutated, and the tests that are about each: the quick ones first."""

from pathlib import Path

LEDGER = "tests/integration/ledger"
BATCH = "tests/unit/worker/batch"

# Each group gives the same number of mutants. Paths may be globs; a module belongs to the first group that names it.
GROUPS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "leases": (
        ("scanfleet/db/leases.py",),
        (
            f"{LEDGER}/test_ledger.py",
            "tests/integration/training/test_trainings.py",
            "tests/integration/scorers/test_doubts.py",
            f"{LEDGER}/test_clock.py",
            f"{LEDGER}/test_restored.py",
            f"{LEDGER}/test_ledger_suspects.py",
            f"{LEDGER}/test_ledger_races.py",
        ),
    ),
    "batches": (
        ("scanfleet/db/scans/batches.py", "scanfleet/db/scans/new_images.py"),
        (
            f"{LEDGER}/test_ledger.py",
            f"{LEDGER}/test_source_breaker.py",
            "tests/integration/fleet/test_queues.py",
            "tests/unit/db/test_rescan.py",
            "tests/integration/deletion/test_forget.py",
            f"{LEDGER}/test_restored.py",
            f"{LEDGER}/test_ledger_suspects.py",
            f"{BATCH}/test_isolation.py",
            f"{BATCH}/test_refused_objects.py",
        ),
    ),
    "verdicts": (
        ("scanfleet/db/results/verdicts.py", "scanfleet/db/results/verdict_rows.py", "scanfleet/db/results/answers.py"),
        (
            f"{LEDGER}/test_ledger.py",
            "tests/integration/fleet/test_producer_results.py",
            f"{BATCH}/test_lookups.py",
            f"{BATCH}/test_results.py",
            f"{LEDGER}/test_source_breaker.py",
            "tests/integration/contract/test_views.py",
            "tests/integration/scorers/test_doubts.py",
            f"{LEDGER}/test_restored.py",
            f"{LEDGER}/test_ledger_suspects.py",
            f"{BATCH}/test_frames.py",
            f"{BATCH}/test_crop_pass.py",
        ),
    ),
    "reconcile": (
        ("scanfleet/reconcile.py",),
        (
            f"{LEDGER}/test_one_reconciler.py",
            "tests/integration/training/test_trainings.py",
            "tests/integration/fleet/test_producer_enqueue.py",
        ),
    ),
    "enqueue": (
        ("producer/scans/enqueue.py",),
        (
            "tests/integration/fleet/test_producer_enqueue.py",
            "tests/integration/fleet/test_enqueue_passes.py",
            "tests/unit/producer/sources/test_filters.py",
            "tests/unit/producer/cli/test_output.py",
        ),
    ),
    "adapter files": (
        ("scanfleet/storage/adapter_files.py",),
        ("tests/unit/storage/test_adapter_files.py", "tests/integration/storage/test_adapter_push.py"),
    ),
    "stores": (
        ("scanfleet/storage/*.py", "scanfleet/storage/s3/*.py"),
        (
            "tests/unit/storage/test_objects.py",
            "tests/unit/storage/test_s3_uri.py",
            "tests/integration/storage/test_objects_s3.py",
            "tests/unit/storage/test_adapter_files.py",
            "tests/unit/models/adapters/test_seal.py",
            "tests/integration/storage/test_s3_refusals.py",
            "tests/integration/storage/test_s3_direct.py",
            "tests/unit/storage/test_s3_pages.py",
            f"{BATCH}/test_refused_objects.py",
            "tests/integration/exports/test_places.py",
            "tests/integration/storage/test_slow_stores.py",
        ),
    ),
    "decoders": (
        ("scanfleet/decoding/pool.py", "scanfleet/decoding/process.py", "scanfleet/decoding/answers.py"),
        (
            "tests/unit/test_decoding.py",
            "tests/unit/test_decoding_checks.py",
            "tests/unit/test_decoding_turns.py",
            f"{BATCH}/test_file_buffer.py",
        ),
    ),
    "champions": (
        ("scanfleet/db/training/champions.py",),
        (
            "tests/unit/db/test_champions.py",
            "tests/integration/training/test_champions.py",
            "tests/integration/training/test_rollback.py",
            "tests/unit/worker/scoring/test_champions.py",
        ),
    ),
    "scorers of a worker": (
        ("worker/scoring/champions.py",),
        ("tests/unit/worker/scoring/test_champions.py", f"{LEDGER}/test_restored.py"),
    ),
    "renewals": (
        ("scanfleet/db/results/rescan*.py", "producer/scans/rescan*.py"),
        ("tests/unit/db/test_rescan.py", f"{LEDGER}/test_rescan.py"),
    ),
    "held batches": (
        ("worker/batch/leases.py", "worker/batch/commit.py"),
        (
            f"{BATCH}/test_leases.py",
            f"{BATCH}/test_isolation.py",
            f"{BATCH}/test_transient_errors.py",
            f"{BATCH}/test_pipeline.py",
        ),
    ),
}


def modules(root: Path) -> dict[str, list[str]]:
    """Return the modules of each group, relative to root."""
    taken: set[str] = set()
    found: dict[str, list[str]] = {}
    for group, (globs, _) in GROUPS.items():
        paths = {str(path.relative_to(root)) for glob in globs for path in root.glob(glob)}
        found[group] = sorted(paths - taken)
        taken |= paths
    return found
