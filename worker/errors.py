"""Faults of its own machine that only the worker tells apart; the others are in scanfleet.errors and models.errors."""

from __future__ import annotations

from scanfleet.errors import DeviceUnavailable


class OutOfDeviceMemory(DeviceUnavailable):
    """The forward did not fit: fewer images at once may."""


class DeviceBroken(DeviceUnavailable):
    """The device refuses all further work in this process: it must end and be started again."""
