"""Deadlines of tests: meant for an idle machine, and longer on a busy one."""

import os


def patient(seconds: float) -> float:
    """Scale seconds of an idle machine by the number of runnable processes per core of this one."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
