"""Faults of the network between workers and services. Each hits one machine, or all of them."""

from __future__ import annotations

from collections.abc import Sequence

from tests.chaos.faults.base import Begun, Fault, Ground, NotNow
from tests.chaos.fleet.proxy import Mode, Proxy
from tests.chaos.fleet.services import SERVICES

HTTP_MODES: dict[str, Mode] = {"s3_errors": "refuse", "s3_slow": "slow", "s3_truncated": "truncate"}


def cut(service: str) -> Fault:
    def begin(ground: Ground) -> Begun:
        for proxy in _some_links(ground, service):
            proxy.cut()
        return Begun()

    return begin


def silent(service: str) -> Fault:
    def begin(ground: Ground) -> Begun:
        links = _some_links(ground, service)
        for proxy in links:
            proxy.silence()
        return Begun() if ground.rng.random() < 0.5 else _keep(ground, links, "swallow")  # new connections as well

    return begin


def misbehave(mode: Mode) -> Fault:
    """A store that answers, but not as it should."""

    def begin(ground: Ground) -> Begun:
        links = [proxy for proxy in _some_links(ground, "s3") if proxy.mode == "pass"]
        if not links:
            raise NotNow
        return _keep(ground, links, mode)

    return begin


def _keep(ground: Ground, links: Sequence[Proxy], mode: Mode) -> Begun:
    for proxy in links:
        proxy.mode = mode

    def heal() -> None:
        for proxy in links:
            proxy.mode = "pass"

    return Begun(seconds=ground.rng.uniform(1.0, 4.0), end=heal)


def _some_links(ground: Ground, service: str) -> Sequence[Proxy]:
    """The links of one machine, or of all."""
    links = ground.services.links[service]
    return links if ground.rng.random() < 0.5 else [ground.rng.choice(links)]


FAULTS: dict[str, Fault] = {
    **{f"{service}_cut": cut(service) for service in SERVICES},
    **{f"{service}_silent": silent(service) for service in SERVICES},
    **{name: misbehave(mode) for name, mode in HTTP_MODES.items()},
}
