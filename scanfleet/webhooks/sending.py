"""Sends one request: to a listed host, at a public address or a private one that is allowed. Follows no redirect."""

from __future__ import annotations

import ssl
import time

import urllib3.exceptions
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, Timeout

from scanfleet.config.settings import Settings
from scanfleet.config.web_hosts import PORT, hosts_of
from scanfleet.config.webhook_address import PLAIN_PORT, webhook_address
from scanfleet.errors import RequestError, Retryable
from scanfleet.storage.web.connections import pool_class
from scanfleet.webhooks.signature import EVENT_HEADER, HEADER, signature

CONNECT_SECONDS, ANSWER_SECONDS = 3.0, 7.0
ACCEPTED = range(200, 300)


def send(url: str, body: bytes, *, event: str, settings: Settings) -> str | None:
    """POST a body. Returns why it was not accepted; None: it was."""
    try:
        address = webhook_address(url, settings)
    except RequestError as error:  # this process is set up otherwise than the command that asked for it
        return str(error)
    assert address.host is not None  # checked
    assert settings.webhook_secret is not None  # checked
    timeout = Timeout(connect=CONNECT_SECONDS, read=ANSWER_SECONDS)
    pool: HTTPConnectionPool
    if address.scheme == "https":
        checked: type[HTTPSConnectionPool] = pool_class(
            hosts_of(settings.webhook_private_hosts), setting="webhook_private_hosts"
        )
        context = ssl.create_default_context()
        pool = checked(address.host, address.port or PORT, timeout=timeout, ssl_context=context)
    else:
        pool = HTTPConnectionPool(address.host, address.port or PLAIN_PORT, timeout=timeout)
    signed = signature(body, secret=settings.webhook_secret.get_secret_value(), at=int(time.time()))
    headers = {"Content-Type": "application/json", "User-Agent": "scanfleet", HEADER: signed, EVENT_HEADER: event}
    try:
        answer = pool.urlopen(
            "POST",
            address.request_uri,
            body=body,
            headers=headers,
            redirect=False,
            retries=False,
            preload_content=False,
        )
    except (urllib3.exceptions.HTTPError, OSError, Retryable) as error:
        return str(error).replace(address.request_uri, "/…") if len(address.request_uri) > 1 else str(error)
    finally:
        pool.close()
    answer.close()
    return None if answer.status in ACCEPTED else f"the receiver answers {answer.status}"
