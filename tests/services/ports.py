"""Free TCP ports that stay free while a killed service is down."""

import random
import socket

# Below the range from which systems take ports for outgoing connections (32768 on Linux, 49152 on macOS):
# otherwise any client could take the port of a service between its kill and its next start.
LOW, HIGH = 15_000, 32_000
ATTEMPTS = 200


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on."""
    chooser = random.SystemRandom()  # not the seeded generator: parallel runs would meet on the same ports
    for _ in range(ATTEMPTS):
        port = chooser.randrange(LOW, HIGH)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port between {LOW} and {HIGH} after {ATTEMPTS} attempts")
