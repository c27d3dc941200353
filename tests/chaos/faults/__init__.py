"""The faults: a function for each kind, by its name."""

from __future__ import annotations

from tests.chaos.faults import bucket, database, messages, network, servers, workers
from tests.chaos.faults.base import Begun, Fault, Ground, NotNow

__all__ = ["FAULTS", "Begun", "Ground", "NotNow"]

FAULTS: dict[str, Fault] = {
    **workers.FAULTS,
    **servers.FAULTS,
    **database.FAULTS,
    **network.FAULTS,
    **bucket.FAULTS,
    **messages.FAULTS,
}
