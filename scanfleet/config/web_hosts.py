"""Addresses of images on the web, and the hosts that they may be read from. Nothing here connects to anything."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from urllib3.util import Url

PORT = 443
_HOST = re.compile(r"(\*\.)?[a-z0-9_.-]+(:\d{1,5})?|\[[0-9a-f:.]+\](:\d{1,5})?")


def hosts_of(text: str) -> tuple[str, ...]:
    """Parse a list of hosts, separated by commas or spaces. Raises ValueError.

    >>> hosts_of("Images.example.com, *.cdn.example:8443")
    ('images.example.com', '*.cdn.example:8443')
    """
    hosts = tuple(text.lower().replace(",", " ").split())
    for host in hosts:
        if _HOST.fullmatch(host) is None:
            raise ValueError("write host, host:port or *.host, separated by commas, without https://")
    return hosts


def is_listed(host: str, port: int, hosts: Collection[str]) -> bool:
    """Return True if a host is in a list: itself, or below a name with `*.`; without a port 443 alone counts.

    >>> hosts = ("a.com", "*.b.com", "c.com:8443")
    >>> [is_listed("a.com", 443, hosts), is_listed("x.y.b.com", 443, hosts), is_listed("c.com", 8443, hosts)]
    [True, True, True]
    >>> [is_listed("a.com", 80, hosts), is_listed("b.com", 443, hosts), is_listed("ab.com", 443, hosts)]
    [False, False, False]
    """
    names = {host, *(f"*.{host[at + 1 :]}" for at, letter in enumerate(host) if letter == ".")}
    return any(f"{name}:{port}" in hosts or (port == PORT and name in hosts) for name in names)


def web_address(uri: str, hosts: Collection[str]) -> Url:
    """Parse the address of an image. Raises ValueError, which says what is wrong."""
    from urllib3.exceptions import LocationParseError
    from urllib3.util import parse_url

    try:
        url = parse_url(uri)
    except LocationParseError:
        raise ValueError("cannot be read as an address") from None
    if url.scheme != "https" or not url.host:
        raise ValueError("write https://HOST/PATH")
    if url.auth is not None:
        raise ValueError("an address with user or password is a secret: leave it out")
    if url.fragment is not None:
        raise ValueError("an address with '#': members of archives are read from folders and S3")
    if not is_listed(url.host, url.port or PORT, hosts):
        raise ValueError(f"{url.netloc} is not among the hosts of the setting https_hosts")
    return url
