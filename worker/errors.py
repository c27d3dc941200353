"""Errors of its own machine that only the worker distinguishes; see also scanfleet.errors and models.errors."""

from __future__ import annotations

from scanfleet.errors import DeviceUnavailable


class OutOfDeviceMemory(DeviceUnavailable):
    """The forward did not fit into memory. With fewer images it may."""


class DeviceBroken(DeviceUnavailable):
    """The device refuses all further work in this process, which must be restarted."""
