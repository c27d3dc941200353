"""The commands against the services of production: PostgreSQL, Redis and S3."""

import io
import json
import subprocess
from pathlib import Path

from PIL import Image as PillowImage

from tests.helpers.cli_call import scanfleet
from tests.helpers.cli_process import start
from tests.services import Bucket

N_IMAGES = 40
STOP_SECONDS = 60.0


def png(number: int) -> bytes:
    out = io.BytesIO()
    PillowImage.new("RGB", (50, 40), (5 * number, 10, 200)).save(out, "PNG")
    return out.getvalue()


def test_from_bucket_to_lines_over_two_workers(
    tmp_path: Path, pg_empty_url: str, redis_url: str, seaweed_bucket: Bucket
) -> None:
    for number in range(N_IMAGES):
        seaweed_bucket.put(f"2026/bild ü {number:02}.png", png(number))
    seaweed_bucket.put("2026/empty.jpg", b"")
    settings = {
        "database_url": pg_empty_url,
        "broker_url": redis_url,
        "s3_endpoint_url": seaweed_bucket.endpoint_url,
        "model": "fake",
        "batch_images": "4",
        "fake_seconds": "0.02",
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return scanfleet(*arguments, data_dir=tmp_path, **settings)

    refused = run("scan", seaweed_bucket.uri("2026/"), "--check", "overlay")
    assert refused.returncode == 18
    assert "scanfleet db upgrade" in refused.stderr
    assert run("db", "upgrade").returncode == 0

    first = run("scan", seaweed_bucket.uri("2026/"), "--check", "overlay")
    assert "scanfleet worker score --model fake" in first.stderr
    workers = [start("worker", "score", data_dir=tmp_path, **settings) for _ in range(2)]
    try:
        waited = run("scan", seaweed_bucket.uri("2026/"), "--check", "overlay", "--wait", "--strict")
        assert waited.returncode == 20, waited.stderr
        assert waited.stdout == first.stdout
        for worker in workers:
            worker.terminate()
        assert [worker.wait(timeout=STOP_SECONDS) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()

    lines = [json.loads(line) for line in run("results", "export").stdout.splitlines()]
    assert len({line["uri"] for line in lines}) == len(lines) == N_IMAGES + 1
    assert sum(line["state"] == "verdict" for line in lines) == N_IMAGES
    (failed,) = (line for line in lines if line["state"] == "failed")
    assert (failed["failure"]["stage"], failed["failure"]["reason"]) == ("decode", "empty")

    out = tmp_path / "verdicts.csv"
    assert run("results", "export", "--state", "verdict", "--format", "csv", "-o", str(out)).returncode == 0
    assert len(out.read_text(encoding="utf-8").splitlines()) == N_IMAGES + 1
    sheet = tmp_path / "sheet.html"
    assert run("scans", "report", first.stdout.strip(), "-o", str(sheet)).stdout.strip() == str(sheet)
    flagged = [line for line in lines if line["decision"] in ("flag", "review")]
    page = sheet.read_text(encoding="utf-8")
    assert page.count("data:image/webp") == page.count('<li class="card"') >= len(flagged) > 0


def test_errors_of_a_bucket_have_their_exit_codes(tmp_path: Path, s3_bucket: Bucket) -> None:
    def scan(uri: str) -> tuple[int, str]:
        answer = scanfleet("scan", uri, "--check", "overlay", data_dir=tmp_path, s3_endpoint_url=s3_bucket.endpoint_url)
        assert answer.stdout == ""
        assert len(answer.stderr.splitlines()) == 1
        return answer.returncode, answer.stderr

    code, words = scan("s3://no-such-bucket-here/x")
    assert (code, "no such bucket" in words) == (14, True)
    code, words = scan(s3_bucket.uri("nothing/"))
    assert (code, "no images found in" in words) == (16, True)
