"""What a person must change before broker or database let us in, told in one line that holds no password.

While a process runs, a refused connection is a failure of the world: it waits, because certificates get renewed and
passwords put right under it. At its start the same refusal is a faulty setting: nothing was ever going to work, so
that waiting would only hide it.
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

# (what the library's words contain, what to do): the first that fits
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
# These may be an outage as well, so that they stay one; the words help where it is a setting.
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
    ("no pg_hba.conf entry", "the server lets nobody in from here this way: see its pg_hba.conf"),
    ("does not exist", "create that database or user, or name the right one in database_url"),
)
DATABASE_HINTS = (
    ("database or disk is full", "free some space where the SQLite file lies"),
    ("disk I/O error", "the disk with the SQLite file may be full: reading needs a little space as well"),
)


def broker_error(error: BaseException) -> BrokerUnavailable:
    """The error of a broker that did not take us, with what to do about it."""
    return BrokerUnavailable(_line("cannot reach the broker", _all_words(error), (*BROKER_REFUSALS, *BROKER_HINTS)))


def check_broker(app: Celery) -> None:
    """One connection, at the start of a process. Raises BadSettings where waiting cannot help, BrokerUnavailable."""
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
    except (kombu.exceptions.OperationalError, OSError) as error:
        named = broker_error(error)
        if _advice(_all_words(error), BROKER_REFUSALS):
            raise BadSettings(str(named)) from None
        raise named from error


def describe_database_error(words: str) -> str:
    """What the database said, and what to do about it."""
    refused = _advice(words, DATABASE_REFUSALS) is not None
    what = "the database does not let us in" if refused else "the database cannot be used right now"
    return _line(what, words, (*DATABASE_REFUSALS, *DATABASE_HINTS))


def refuse_at_start(error: DatabaseUnavailable) -> None:
    """Raises BadSettings when the database will not let us in however long we wait."""
    if _advice(str(error), DATABASE_REFUSALS):
        raise BadSettings(str(error)) from None


def warn_of_open_connections(settings: Settings) -> None:
    """Once a process: connections to other machines that could be read or redirected on the way."""
    for url in (settings.database, settings.broker):
        flaw = unencrypted(url)
        if flaw is not None:
            log.warning("connection_unencrypted", why=flaw)


def local_broker_warning(settings: Settings) -> str | None:
    """Why workers on other machines are not knocked for, and what to do; None: they are, or there can be none."""
    if settings.broker_url is not None or settings.database.startswith("sqlite"):
        return None
    return (
        "the ledger is a server's, but the broker is a folder of this machine: workers elsewhere are not notified; set "
        "broker_url to the fleet's redis://"
    )


def _line(what: str, words: str, known: tuple[tuple[str, str], ...]) -> str:
    advice = _advice(words, known)
    first = (words.splitlines() or [""])[0]
    return redact(f"{what}: {first}" + (f": {advice}" if advice else ""))


def _advice(words: str, known: tuple[tuple[str, str], ...]) -> str | None:
    return next((advice for mark, advice in known if mark in words), None)


def _all_words(error: BaseException) -> str:
    """An error and its causes: kombu wraps redis, redis wraps ssl, and only the innermost names the reason."""
    lines, inner = [str(error) or type(error).__name__], error.__cause__
    while inner is not None:
        lines.append(str(inner))
        inner = inner.__cause__
    return "\n".join(lines)
