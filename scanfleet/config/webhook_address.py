"""Addresses that webhooks may be sent to. Nothing here connects to anything."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from scanfleet.config.web_hosts import PORT, hosts_of, is_listed
from scanfleet.errors import BadSettings, RequestError

if TYPE_CHECKING:
    from urllib3.util import Url

    from scanfleet.config.settings import Settings

PLAIN_PORT = 80


def sends_webhooks(settings: Settings) -> bool:
    """Whether this process is set up to send any."""
    return settings.webhook_secret is not None and bool(hosts_of(settings.webhook_hosts))


def _is_private(host: str) -> bool:
    """Whether it is an address, and not one of the public internet. Names are looked up when a webhook is sent."""
    try:
        return not ip_address(host.strip("[]")).is_global
    except ValueError:
        return False


def webhook_address(text: str, settings: Settings) -> Url:
    """Parse the address of a webhook. Raises BadSettings or RequestError if it may not be told; neither quotes it."""
    from urllib3.exceptions import LocationParseError
    from urllib3.util import parse_url

    if not sends_webhooks(settings):
        raise BadSettings("a webhook needs the settings webhook_secret and webhook_hosts (docs/webhooks.md)")
    try:
        url = parse_url(text)
    except LocationParseError:
        raise RequestError("the address of the webhook cannot be read: write https://HOST/PATH") from None
    if url.scheme not in ("https", "http") or not url.host or url.auth is not None or url.fragment is not None:
        raise RequestError("the address of the webhook: write https://HOST/PATH, without user, password or '#'")
    port = url.port or (PORT if url.scheme == "https" else PLAIN_PORT)
    if not is_listed(url.host, port, hosts_of(settings.webhook_hosts)):
        raise BadSettings(f"{url.host}:{port} is not among the hosts of the setting webhook_hosts")
    if _is_private(url.host) and not is_listed(url.host, port, hosts_of(settings.webhook_private_hosts)):
        raise BadSettings(f"{url.host} is not public: it needs to be in the setting webhook_private_hosts, too")
    if url.scheme == "http" and not is_listed(url.host, port, hosts_of(settings.webhook_private_hosts)):
        raise BadSettings(
            f"http:// to {url.host}:{port} needs it in the setting webhook_private_hosts, too: use https://"
        )
    return url
