"""What to change when broker or database refuse a connection, in one line without a password.

While a process runs, a refused connection is a transient error: the process waits, because certificates get renewed and
passwords corrected meanwhile. At its start the same refusal is a wrong setting, and waiting would only hide it.
"""

from __future__ import annotations

import kombu.exceptions
import structlog
from celery import Celery

from scanfleet.config.settings import Settings
from scanfleet.config.urls import unencrypted
from scanfleet.errors import BadSettings, BrokerUnavailable, DatabaseUnavailable
from scanfleet.redaction import redact

log = structlog.get_logger()

# (part of the library's message, what to do); the first match counts
BROKER_REFUSALS = (
    ("address mismatch", "its certificate is for another host: write that host's name in broker_url"),
    ("Hostname mismatch", "its certificate is for another host: write that host's name in broker_url"),
    (
        "certificate verify failed",
        "no authority we trust signed its certificate: name its file in broker_ca_file",
    ),
    ("certificate required", "it wants a certificate from us: set broker_cert_file and broker_key_file"),
    ("username-password pair", "set the right password in broker_url (redis://:PASSWORD@HOST)"),
    ("WRONGPASS", "set the right password in broker_url (redis://:PASSWORD@HOST)"),
    ("Authentication required", "it wants a password: set it in broker_url (redis://:PASSWORD@HOST)"),
    ("NOPERM", "its user may not do this: docs/security.md names the rights it needs"),
)
# These may be an outage as well, and are treated as one; the advice helps where it is a setting.
BROKER_HINTS = (
    ("reset by peer", "if that port speaks TLS, write rediss:// in broker_url"),
    ("Connection closed by server", "if that port speaks TLS, write rediss:// in broker_url"),
    ("EOF occurred", "if it wants a certificate from us, set broker_cert_file and broker_key_file"),
    ("WRONG_VERSION_NUMBER", "if that port does not speak TLS, write redis:// in broker_url"),
    ("handshake operation timed out", "if that port does not speak TLS, write redis:// in broker_url"),
)
DATABASE_REFUSALS = (
    ("does not match host name", "write the name in its certificate in database_url"),
    (
        "certificate verify failed",
        "no authority we trust signed its certificate: name its file in database_ca_file",
    ),
    ("root certificate file", "name the authority's file in database_ca_file"),
    ("does not support SSL", "switch TLS on in the server, or leave database_ca_file and sslmode out"),
    ("password authentication failed", "set the right user and password in database_url"),
    ("no password supplied", "set a password in database_url"),
    ("no encryption", "the server takes encrypted connections only: set database_ca_file"),
    ("no pg_hba.conf entry", "the server allows no such connection from this host: see its pg_hba.conf"),
    ("does not exist", "create that database or user, or name the right one in database_url"),
)
DATABASE_HINTS = (
    ("database or disk is full", "free some space where the SQLite file lies"),
    ("disk I/O error", "the disk with the SQLite file may be full: reading needs a little space as well"),
)


def broker_error(error: BaseException) -> BrokerUnavailable:
    """Return the error for a failed connection to the broker, with advice."""
    return BrokerUnavailable(_line("cannot reach the broker", _all_messages(error), (*BROKER_REFUSALS, *BROKER_HINTS)))


def check_broker(app: Celery) -> None:
    """Connect once, at the start of a process. Raises BadSettings where waiting cannot help, else BrokerUnavailable."""
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
    except (kombu.exceptions.OperationalError, OSError) as error:
        named = broker_error(error)
        if _advice(_all_messages(error), BROKER_REFUSALS):
            raise BadSettings(str(named)) from None
        raise named from error


def describe_database_error(message: str) -> str:
    """Return the database's message with advice."""
    refused = _advice(message, DATABASE_REFUSALS) is not None
    what = "the database refuses the connection" if refused else "the database cannot be used right now"
    return _line(what, message, (*DATABASE_REFUSALS, *DATABASE_HINTS))


def refuse_at_start(error: DatabaseUnavailable) -> None:
    """Raise BadSettings when the database refuses the connection for a reason that waiting does not cure."""
    if _advice(str(error), DATABASE_REFUSALS):
        raise BadSettings(str(error)) from None


def warn_of_open_connections(settings: Settings) -> None:
    """Warn, once per process, of connections to other machines that could be read or redirected."""
    for url in (settings.database, settings.broker):
        flaw = unencrypted(url)
        if flaw is not None:
            log.warning("connection_unencrypted", reason=flaw)


def local_broker_warning(settings: Settings) -> str | None:
    """Return why workers on other machines get no notifications, with advice. None: they do, or there are none."""
    if settings.broker_url is not None or settings.database.startswith("sqlite"):
        return None
    return (
        "the ledger is a server's, but the broker is a folder of this machine: workers elsewhere are not notified; set "
        "broker_url to the fleet's redis://"
    )


def _line(what: str, message: str, rules: tuple[tuple[str, str], ...]) -> str:
    advice = _advice(message, rules)
    first = (message.splitlines() or [""])[0]
    return redact(f"{what}: {first}" + (f": {advice}" if advice else ""))


def _advice(message: str, rules: tuple[tuple[str, str], ...]) -> str | None:
    return next((advice for mark, advice in rules if mark in message), None)


def _all_messages(error: BaseException) -> str:
    """Return the messages of an error and its causes: only the innermost of kombu, redis and ssl names the reason."""
    lines, inner = [str(error) or type(error).__name__], error.__cause__
    while inner is not None:
        lines.append(str(inner))
        inner = inner.__cause__
    return "\n".join(lines)
