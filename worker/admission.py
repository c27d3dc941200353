"""Will the broker let this worker in? Asked before a model is loaded, which takes minutes."""

from __future__ import annotations

import structlog

from scanfleet.access import check_broker, warn_of_open_connections
from scanfleet.errors import BrokerUnavailable
from scanfleet.queue import make_app
from scanfleet.settings import Settings

log = structlog.get_logger()


def check_access(settings: Settings) -> None:
    """Raises BadSettings for a refused password or certificate.

    A broker that is only away costs a warning: the consumer waits for it.
    """
    warn_of_open_connections(settings)
    with make_app(settings) as app:
        try:
            check_broker(app)
        except BrokerUnavailable as error:
            log.warning("broker_away", error=str(error))
