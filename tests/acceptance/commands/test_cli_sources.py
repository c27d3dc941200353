"""`scanfleet run` over every kind of source at once, as a person has them."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scanfleet.config.settings import load_settings
from scanfleet.storage.s3.store import S3Store
from tests.helpers.cli_call import scanfleet
from tests.helpers.datasets import save
from tests.helpers.inventories import csv_part, inventory
from tests.helpers.shards import tar_of, zip_of
from tests.rigs.worker_rig import png
from tests.services import Bucket
from tests.services.web_server import Answer, WebServer


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "WebServer":
    server = WebServer(tmp_path / "web")
    monkeypatch.setenv("SSL_CERT_FILE", str(server.ca_file))
    return server


def in_bucket(bucket: Bucket, pictures: list[bytes]) -> tuple[list[str], set[str]]:
    """Fill a bucket. Returns sources, and the images that they hold."""
    bucket.put("shards/0.tar", tar_of([("1.png", pictures[0]), ("1.json", b"{}")]))
    bucket.put("listed/ü +1.png", pictures[1])
    store = S3Store.connect(load_settings(s3_endpoint_url=bucket.endpoint_url))
    (info,) = store.list(bucket.uri("listed/"))
    row = (bucket.name, "listed/ü +1.png", "", True, False, info.size, (info.etag or "").strip('"'))
    files = inventory("CSV", [csv_part([row])], bucket=bucket.name, destination=bucket.name)
    for key, data in files.items():
        bucket.put(key, data)
    sources = [bucket.uri("shards/"), bucket.uri(next(iter(files)))]
    return sources, {bucket.uri("shards/0.tar#1.png"), bucket.uri("listed/ü +1.png")}


def in_folder(top: Path, pictures: list[bytes], more: list[str]) -> tuple[list[Path], set[str]]:
    """The same of a folder. more: uris of a manifest."""
    (top / "photos").mkdir()
    (top / "photos/a.png").write_bytes(pictures[0])
    (top / "photos/b.zip").write_bytes(zip_of([("../x.png", pictures[1])]))
    (top / "alone.tar").write_bytes(tar_of([("sub/y.png", pictures[2])]))
    for name in ("c.png", "d.png", "e.png"):
        (top / name).write_bytes(pictures.pop(3))
    (top / "list.csv.gz").write_bytes(gzip.compress(b"uri;truth\nc.png;none\nno image\n"))
    lines = [{"source-ref": uri, "class": 1} for uri in ("d.png", *more)]
    (top / "output.manifest").write_text("\n".join(map(json.dumps, lines)))
    pq.write_table(pa.table({"uri": ["e.png"]}), top / "list.parquet")
    arrow = save(top / "dataset", [{"bytes": pictures[3], "path": "z.png"}])
    sources = ["photos", "alone.tar", "list.csv.gz", "output.manifest", "list.parquet", "dataset"]
    files = ("photos/a.png", "photos/b.zip#../x.png", "alone.tar#sub/y.png", "c.png", "d.png", "e.png")
    return [top / name for name in sources], {*(f"{top}/{name}" for name in files), f"{arrow}#image/0", *more}


@pytest.mark.slow
def test_every_kind_of_source_ends_in_verdicts(tmp_path: Path, seaweed_bucket: Bucket, web: WebServer) -> None:
    pictures = [png(seed) for seed in range(12)]
    data, top = tmp_path / "data", tmp_path / "top"
    data.mkdir()
    top.mkdir()
    web.answers = {f"/{number}.png": Answer(body=pictures.pop(), headers={"ETag": '"1"'}) for number in range(2)}
    seaweed_bucket.put("more.zip", zip_of([("m.png", pictures.pop())]))
    remote, expected = in_bucket(seaweed_bucket, [pictures.pop(), pictures.pop()])
    local, files = in_folder(top, pictures, [web.uri("/0.png"), seaweed_bucket.uri("more.zip#m.png")])
    how = {
        "data_dir": data,
        "model": "fake",
        "s3_endpoint_url": seaweed_bucket.endpoint_url,
        "https_hosts": web.host,
        "https_private_hosts": web.host,
    }
    with web:
        named = (*local, *remote, web.uri("/1.png"))
        run = scanfleet("run", *named, "--members", "--check", "overlay", "--strict", **how)
    assert run.returncode == 20, run.stderr  # an entry is left out
    assert f"{top}/list.csv.gz, line 3: 1 fields where the header has 2" in run.stderr
    records = [json.loads(line) for line in scanfleet("results", "export", **how).stdout.splitlines()]
    assert {record["uri"]: record["failure"] for record in records} == dict.fromkeys(
        {*expected, *files, web.uri("/1.png")}
    )
    assert len({record["margin"] for record in records}) == 12
    meta = {record["uri"]: record["meta"] for record in records}
    assert meta[f"{top}/c.png"] == {"truth": "none"}
    assert meta[f"{top}/d.png"] == {"class": 1}
