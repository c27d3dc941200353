"""The tables. migrations/ creates them in a database, and a test compares both.

Times are UTC. Enumerations are short words under a CHECK constraint, so that the raw tables are readable.
"""

from scanfleet.db.base import Base, UtcDateTime
from scanfleet.db.tables.access import AccessAudit, ApiToken, WebSession
from scanfleet.db.tables.answers import DECISIONS, ScorerRow, Verdict
from scanfleet.db.tables.archive import (
    BATCH_STATES,
    IMAGE_STATES,
    SCAN_STATES,
    Batch,
    CheckRow,
    Failure,
    Forgotten,
    Image,
    Scan,
    Worker,
)
from scanfleet.db.tables.experiments import ExperimentCell
from scanfleet.db.tables.review import ReviewLease
from scanfleet.db.tables.training import (
    Adapter,
    Calibration,
    Champion,
    Label,
    LabelledImage,
    Promotion,
    Refusal,
    Training,
)
from scanfleet.db.tables.webhooks import Webhook

__all__ = [
    "BATCH_STATES", "DECISIONS", "IMAGE_STATES", "SCAN_STATES",
    "AccessAudit", "Adapter", "ApiToken", "Base", "Batch", "Calibration", "Champion", "CheckRow", "ExperimentCell",
    "Failure", "Forgotten", "Image", "Label", "LabelledImage", "Promotion", "Refusal", "ReviewLease", "Scan",
    "ScorerRow", "Training", "UtcDateTime", "Verdict", "WebSession", "Webhook", "Worker",
]  # fmt: skip
