"""Errors of the services of the tests."""


class ServiceMissingError(Exception):
    """The program is not installed on this machine; the message says what to install."""


class ServiceFailedError(Exception):
    """The program is there but did not start, answer or stop; the message ends with its log."""
