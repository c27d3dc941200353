"""Health of the worker in this container: exit 0 when it answers a ping over the broker, 1 otherwise.

Use: `healthcheck.py [SECONDS]`. The ping travels broker -> worker -> broker, so that a worker that lost its
broker connection for good is restarted. A busy worker answers: pings are served beside the thread that owns
the device.
"""

import socket
import sys

from scanfleet.config.settings import load_settings
from scanfleet.queue.app import make_app

TIMEOUT = 10.0  # seconds, unless given


def main() -> int:
    """Ping the workers of this host: in a container that is the one worker."""
    timeout = float(sys.argv[1]) if len(sys.argv) > 1 else TIMEOUT
    with make_app(load_settings()) as app:
        node = f"*@{socket.gethostname()}"
        replies = app.control.ping(timeout=timeout, pattern=node, matcher="glob", limit=1)
    if replies:
        return 0
    sys.stderr.write(f"no worker on {socket.gethostname()} answered within {timeout:.0f} s\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
