"""How long tests wait. A deadline is for a machine of its own, and longer on one that has more to do than cores."""

import os


def patient(seconds: float) -> float:
    """Seconds of an idle machine, as many of this one: times the processes that want a core, for each core."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
