"""Which object of a bucket an uri or an address names."""

import pytest

from scanfleet.errors import BadSource
from scanfleet.storage.s3.uri import is_s3, s3_of_address, split_s3


def test_a_uri_is_split_into_bucket_and_key() -> None:
    assert split_s3("s3://bucket/a//b/") == ("bucket", "a//b/")
    assert split_s3("s3://bucket") == ("bucket", "")
    with pytest.raises(BadSource, match="names no bucket"):
        split_s3("s3:///key")
    assert (is_s3("s3://bucket/a"), is_s3("https://bucket/a")) == (True, False)


@pytest.mark.parametrize(
    ("address", "uri"),
    [
        ("https://bucket.s3.amazonaws.com/a%20b.png?X-Amz-Signature=1", "s3://bucket/a b.png"),
        ("https://s3.eu-west-1.amazonaws.com/bucket/a.png", "s3://bucket/a.png"),
        ("https://user:secret@minio:9000/bucket/a.png", "s3://bucket/a.png"),
        ("https://bucket.minio:9000/a.png", "s3://bucket/a.png"),
    ],
)
def test_an_address_names_an_object(address: str, uri: str) -> None:
    assert s3_of_address(address, endpoint="http://minio:9000") == uri


def test_without_another_server_an_address_is_amazons_or_none() -> None:
    assert s3_of_address("https://bucket.s3.amazonaws.com/a.png") == "s3://bucket/a.png"
    assert s3_of_address("https://minio:9000/bucket/a.png") is None
    assert s3_of_address("file:///bucket/a.png") is None
