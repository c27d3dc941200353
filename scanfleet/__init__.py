"""scanfleet for Python programs: scan archives, read the answers, correct them.

    import scanfleet as sf

    scan = sf.scan("s3://ads/2026/", check="overlay")
    scan.wait()
    frame = scan.results().to_pandas()

Each function does what the command of its name does, with the same settings (environment, scanfleet.toml) and errors
(`scanfleet.errors`). `sf.connect(...)` takes settings of its own. Nothing here imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from scanfleet.api.fleet import Fleet, connect
    from scanfleet.api.functions import (
        adapters,
        add_label,
        get_scan,
        import_labels,
        labels,
        list_checks,
        results,
        scan,
        scans,
        score,
    )
    from scanfleet.api.results import Results
    from scanfleet.api.scans import Scan
    from scanfleet.api.scoring import Scored

_HOMES = {
    "scanfleet.api.fleet": ("Fleet", "connect"),
    "scanfleet.api.functions": (
        "adapters", "add_label", "get_scan", "import_labels", "labels", "list_checks", "results", "scan", "scans",
        "score",
    ),
    "scanfleet.api.results": ("Results",),
    "scanfleet.api.scans": ("Scan",),
    "scanfleet.api.scoring": ("Scored",),
}  # fmt: skip
_HOME = {name: home for home, names in _HOMES.items() for name in names}
__all__ = [
    "Fleet", "Results", "Scan", "Scored", "adapters", "add_label", "connect", "get_scan", "import_labels", "labels",
    "list_checks", "results", "scan", "scans", "score",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import the interface when it is first used: workers and decoders import this package, too."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
