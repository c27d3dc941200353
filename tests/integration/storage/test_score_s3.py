"""`scanfleet score` on a bucket."""

import json
from pathlib import Path

from tests.helpers.cli_call import scanfleet
from tests.rigs.worker_rig import png
from tests.services import Bucket


def test_a_bucket_is_scored_as_its_files_would_be(tmp_path: Path, s3_bucket: Bucket) -> None:
    for number in range(3):
        s3_bucket.put(f"ads/{number}.png", png(number))
    s3_bucket.put("ads/broken.png", b"no picture")
    s3_bucket.put("ads/notes.md", b"no image at all")
    (tmp_path / "0.png").write_bytes(png(0))
    how = {"data_dir": tmp_path, "model": "fake", "s3_endpoint_url": s3_bucket.endpoint_url}
    answer = scanfleet("score", s3_bucket.uri("ads/"), "0.png", "--json", **how)
    told = {record["uri"]: record for record in map(json.loads, answer.stdout.splitlines())}
    assert answer.returncode == 20, answer.stderr
    assert len(told) == 5
    assert told[s3_bucket.uri("ads/broken.png")]["failure"]["reason"] == "not_an_image"
    assert told[s3_bucket.uri("ads/0.png")]["margin"] == told[str(tmp_path / "0.png")]["margin"]
    assert len({record["margin"] for record in told.values()}) == 4  # one of them None


def test_a_bucket_that_is_not_there_is_one_line(tmp_path: Path, s3_bucket: Bucket) -> None:
    how = {"data_dir": tmp_path, "model": "fake", "s3_endpoint_url": s3_bucket.endpoint_url}
    answer = scanfleet("score", "s3://no-such-bucket-here/", **how)
    assert (answer.returncode, answer.stdout) == (14, "")
    assert "no such bucket" in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
