"""What `scanfleet doctor` finds of real servers."""

from pathlib import Path

from scanfleet.config.settings import load_settings
from scanfleet.producer.local.doctor import check_services, check_source
from tests.services import Bucket


def test_servers_that_are_there_are_timed(tmp_path: Path, pg_empty_url: str, redis_url: str) -> None:
    settings = load_settings(data_dir=tmp_path, database_url=pg_empty_url, broker_url=redis_url)
    found = {one.name: one for one in check_services(settings)}
    assert (found["ledger"].status, found["ledger"].exit_code) == ("fail", 18)  # nobody upgraded it, and nor do we
    assert found["broker"].figures["connect_seconds"] > 0


def test_a_bucket_is_listed_and_fetched(tmp_path: Path, s3_bucket: Bucket) -> None:
    for number in range(3):
        s3_bucket.put(f"ads/{number}.jpg", bytes(1000))
    settings = load_settings(data_dir=tmp_path, s3_endpoint_url=s3_bucket.endpoint_url)
    found = check_source(settings, f"s3://{s3_bucket.name}/ads/", seconds=5)
    assert found.status == "ok", found.text
    assert "3 images listed" in found.text
    missing = check_source(settings, "s3://no-such-bucket-here/", seconds=1)
    assert (missing.status, missing.exit_code) == ("fail", 14)
