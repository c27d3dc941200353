"""Connections to public addresses alone: what is connected to is the address that was checked, not its name again."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection

from urllib3 import HTTPSConnectionPool
from urllib3.connection import HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from scanfleet.config.web_hosts import PORT, is_listed
from scanfleet.errors import StoreUnavailable
from scanfleet.storage.base import refused

SETTING = "https_private_hosts"
MOST_ADDRESSES = 4  # of a host that are tried
_NO_SUCH_HOST = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def pool_class(private_hosts: Collection[str], *, setting: str = SETTING) -> type[HTTPSConnectionPool]:
    """Return a pool whose connections refuse private addresses, except those of `private_hosts`, as a setting lists."""

    class CheckedConnection(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            name = self._dns_host
            addresses = addresses_of(self.host, self.port, private_hosts, setting=setting)
            try:
                for address in addresses[:-1]:
                    self._dns_host = address
                    try:
                        return super()._new_conn()
                    except (NewConnectionError, ConnectTimeoutError):
                        continue
                self._dns_host = addresses[-1]
                return super()._new_conn()
            finally:
                self._dns_host = name  # the certificate must be that of the name

    class CheckedPool(HTTPSConnectionPool):
        ConnectionCls = CheckedConnection

    return CheckedPool


def addresses_of(host: str, port: int | None, private_hosts: Collection[str], *, setting: str = SETTING) -> list[str]:
    """Return the addresses of a host. Raises ObjectRefused (no_host, private_address), StoreUnavailable."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), port or PORT, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in _NO_SUCH_HOST:
            raise refused("no_host", f"there is no host {host}") from error
        raise StoreUnavailable(f"https://{host}: its name cannot be resolved: {error.strerror}") from error
    except UnicodeError:
        raise refused("no_host", f"{host} is no name of a host") from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not is_listed(host, port or PORT, private_hosts):
        # All of them: a name with a public and a private address is how the check would be passed.
        private = next((each for each in addresses if not is_public(ipaddress.ip_address(each))), None)
        if private is not None:
            detail = f"{host} has the address {private}, which is not public ({setting} may allow it)"
            raise refused("private_address", detail)
    return addresses[:MOST_ADDRESSES]


def is_public(address: Address) -> bool:
    """Return True for an address on the internet; an IPv6 address that stands for an IPv4 one is judged as that."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if address.teredo is not None or address.is_site_local:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved
