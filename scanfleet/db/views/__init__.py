"""The views: what readers of the database may rely on. docs/database.md has them with an example of each use.

A migration creates them, from a copy of its own: a change here needs a new migration, and a test compares both. Names
and columns are promised; a column may be added at the end.
"""

from __future__ import annotations

from scanfleet.db.views.history import FAILURES, HISTORY
from scanfleet.db.views.labels import LABELS
from scanfleet.db.views.results import LATEST, RESULTS
from scanfleet.db.views.scans import SCANS
from scanfleet.db.views.view import View

__all__ = ["VIEWS", "View"]

VIEWS = (RESULTS, LATEST, HISTORY, FAILURES, SCANS, LABELS)  # in this order: one may select from those before it
