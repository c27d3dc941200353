"""Anyone who can write to the broker can write anything: a worker takes notifications and survives all else."""

import base64
import bz2
import json
import lzma
import os
import pickle
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.rigs.worker_fleet import Fleet, WorkerProcess, fleet
from tests.services import RedisServer

QUEUE = "scanfleet:score.fake"  # the list of the queue, under our prefix


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


def envelope(body: bytes, *, content_type: str = "application/json", **headers: Any) -> bytes:
    """A message as kombu lays it into Redis."""
    own = {"lang": "py", "task": "score_batch", "id": str(uuid.uuid4()), "retries": 0, "eta": None, **headers}
    properties = {
        "correlation_id": own["id"],
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": "score.fake"},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": str(uuid.uuid4()),
    }
    message = {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "binary" if "json" not in content_type else "utf-8",
        "content-type": content_type,
        "headers": own,
        "properties": properties,
    }
    return json.dumps(message).encode()


def notification(**fields: Any) -> bytes:
    return json.dumps([[], fields, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]).encode()


def hostile(bomb: Path) -> dict[str, bytes]:
    return {
        "pickle": envelope(pickle.dumps(([], Bomb(bomb), {})), content_type="application/x-python-serialize"),
        "pickle named json": envelope(pickle.dumps(Bomb(bomb))),
        "yaml": envelope(b"!!python/object/apply:os.mkdir [x]", content_type="application/x-yaml"),
        "unknown type": envelope(b"x", content_type="application/nonsense"),
        "not json": envelope(b"{not json"),
        "deep json": envelope(b"[" * 100_000),
        "no list": envelope(b'{"batch_id": 1}'),
        "eight megabytes": envelope(notification(batch_id=1, padding="x" * 8_000_000)),
        "huge number": envelope(notification(batch_id=10**40)),
        "negative": envelope(notification(batch_id=-1)),
        "unknown task": envelope(notification(batch_id=1), task="os.system"),
        "no task": envelope(notification(batch_id=1), task=None),
        "time limits": envelope(notification(batch_id=1), timelimit="never"),
        "callbacks": envelope(json.dumps([[], {"batch_id": 1}, {"callbacks": [{"task": "os.system"}]}]).encode()),
        "far away": envelope(notification(batch_id=1), eta="2999-01-01T00:00:00+00:00"),
        "eta that is none": envelope(notification(batch_id=1), eta="soon"),
        "expired by words": envelope(notification(batch_id=1), expires="yesterday"),
    }


def no_envelopes() -> list[bytes]:
    return [b"\xff\xfe", b"garbage", b"{}", b"[]", b"null", json.dumps({"body": "!", "properties": {}}).encode()]


@pytest.mark.slow
def test_a_worker_outlives_whatever_lies_in_its_queue(tmp_path: Path, own_redis: RedisServer) -> None:
    bomb = tmp_path / "bomb"
    with fleet(tmp_path, broker_url=own_redis.url) as here:
        worker = here.start()
        first = here.scan(4, batch_images=4)
        here.until_done(first)
        with own_redis.client() as client:
            for message in (*hostile(bomb).values(), *no_envelopes()):
                client.lpush(QUEUE, message)
            here.until(lambda: client.llen(QUEUE) == 0)
            second = here.scan(12, batch_images=4)
            here.until_done(second)
            here.until(lambda: client.zcard("scanfleet:unacked_index") == 0)  # none comes back
        here.assert_complete(second, 12)
        assert worker.process.poll() is None
        assert not bomb.exists()
        assert "os.system" not in worker.log


BOMB_BYTES = 600_000_000
FLAT_BYTES = 150_000_000


def bombs() -> list[bytes]:
    """Messages of some hundred kilobytes at most, by each name of each method that Python's own library has."""
    zeros = [bytes(BOMB_BYTES // 60)] * 60
    packers = {
        ("bzip2", "application/x-bz2"): bz2.BZ2Compressor(),
        ("gzip", "application/x-gzip"): zlib.compressobj(9),
        ("xz", "application/x-lzma"): lzma.LZMACompressor(),
    }
    made = []
    for names, packer in packers.items():
        packed = b"".join(map(packer.compress, zeros)) + packer.flush()
        made += [envelope(packed, compression=name) for name in names]
    return made


def peak_bytes(worker: WorkerProcess) -> int:
    """The most memory that a worker has held so far."""
    for line in Path(f"/proc/{worker.process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


def scored(here: Fleet, n_images: int) -> None:
    scan = here.scan(n_images, batch_images=4)
    here.until_done(scan)
    here.assert_complete(scan, n_images)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the peak of a process")
@pytest.mark.parametrize("broker", ["redis", pytest.param("folder", marks=pytest.mark.slow)])
def test_a_compressed_message_is_not_unpacked(tmp_path: Path, broker: str, request: pytest.FixtureRequest) -> None:
    settings = {"broker_url": request.getfixturevalue("redis_url")} if broker == "redis" else {}
    with fleet(tmp_path, **settings) as here:
        worker = here.start()
        scored(here, 4)
        before = peak_bytes(worker)
        messages = bombs()
        if broker == "redis":
            with request.getfixturevalue("redis_server").client() as client:
                client.lpush(QUEUE, *messages)
        else:
            for number, message in enumerate(messages):
                name = f"{number}_{uuid.uuid4()}.score.fake.msg"
                (here.settings.data_dir / "broker" / "messages" / name).write_bytes(message)
        here.until(lambda: worker.log.count("message_refused") == len(messages))
        scored(here, 12)
        assert peak_bytes(worker) - before < FLAT_BYTES
        assert worker.process.poll() is None
