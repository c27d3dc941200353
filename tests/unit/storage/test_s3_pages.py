"""Pages of listings are read as botocore reads them."""

from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import escape

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from hypothesis import given
from hypothesis import strategies as st

from scanfleet.storage.s3 import listing
from tests.services.s3 import CREDENTIALS

AWS = (
    "<Contents><Key>{key}</Key><LastModified>2026-12-01T04:00:00.000Z</LastModified><ETag>&quot;{etag}&quot;</ETag>"
    "<ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm><Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
)
GO = (  # SeaweedFS, MinIO
    "<Contents><Key>{key}</Key><LastModified>2026-12-01T04:00:00Z</LastModified><ETag>&#34;{etag}&#34;</ETag>"
    "<Size>{size}</Size><Owner><ID>1</ID><DisplayName></DisplayName></Owner><StorageClass>STANDARD</StorageClass>"
    "</Contents>\n"
)
OTHER = "  <Contents>\n <Size>{size}</Size>\n <ETag>{etag}</ETag>\n <Key>{key}</Key>\n </Contents>\n"


def page(entries: str, *, encoded: bool = True) -> bytes:
    encoding = "<EncodingType>url</EncodingType>" if encoded else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>b</Name><Prefix>a+b</Prefix><KeyCount>1</KeyCount><MaxKeys>1000</MaxKeys>{encoding}"
        f"<IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"
    ).encode()


class Body:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def stream(self, **_: object) -> Any:
        yield self._data


def client() -> Any:
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": CREDENTIALS["AWS_DEFAULT_REGION"]}
    return boto3.session.Session().client("s3", **keys)


@pytest.fixture(scope="module")
def clients() -> tuple[Any, Any]:
    """One of boto3's as it comes, and one whose pages we read."""
    plain, ours = client(), client()
    listing.read_pages_fast(ours)
    return plain, ours


def read(client: Any, body: bytes, status: int = 200) -> dict[str, Any]:
    def instead(request: Any, **_: object) -> AWSResponse:
        return AWSResponse(request.url, status, {}, Body(body))

    client.meta.events.register("before-send.s3.ListObjectsV2", instead)
    try:
        found: dict[str, Any] = client.list_objects_v2(Bucket="b", Prefix="a+b")
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    finally:
        client.meta.events.unregister("before-send.s3.ListObjectsV2", instead)
    for entry in found.get("Contents", ()):
        for name in set(entry) - {"Key", "ETag", "Size"}:
            del entry[name]
    del found["ResponseMetadata"]
    return found


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=30)
ENTRIES = st.lists(st.tuples(TEXT, TEXT, st.integers(0, 10**15)), max_size=4)


@given(entries=ENTRIES, form=st.sampled_from([AWS, GO, OTHER]), encoded=st.booleans())
def test_every_page_is_read_as_boto3_reads_it(
    clients: tuple[Any, Any], entries: list[tuple[str, str, int]], form: str, encoded: bool
) -> None:
    written = "".join(
        form.format(key=escape(quote(key, safe="/") if encoded else key), etag=escape(etag), size=size)
        for key, etag, size in entries
    )
    plain, ours = (read(each, page(written, encoded=encoded)) for each in clients)
    assert ours == plain
    assert [entry["Key"] for entry in ours.get("Contents", [])] == [key for key, *_ in entries]


@pytest.mark.parametrize(
    "body",
    [
        page(AWS.format(key="a%2Bb+c%0A", etag="0-2", size=1) + "<CommonPrefixes><Prefix>x/</Prefix></CommonPrefixes>"),
        page(AWS.format(key="<![CDATA[a.jpg]]>", etag="0", size=1)),
        page("<!-- " + AWS.format(key="a.jpg", etag="0", size=1) + " -->"),
        page(AWS.format(key="&#97;.jpg", etag="&#x30;", size=1)),
        page(AWS.format(key="a\r\nb.jpg", etag="0", size=1), encoded=False),
        page("<Contents><Key>a.jpg</Key></Contents>" + AWS.format(key="b.jpg", etag="0", size=1)),
        page(AWS.format(key="a.jpg", etag="0", size=1)).replace(b"ListBucketResult", b"s:Odd"),
        page(AWS.format(key="a.jpg", etag="0", size=1))[:-30],
        page(AWS.format(key="a.jpg", etag="0", size=1))[:400],
        page(AWS.format(key="a.jpg", etag="0", size=1)).replace(b"a.jpg", b"\xff.jpg"),
        b"<Error><Code>SlowDown</Code><Message>No.</Message></Error>",
        b"<html><body>Please log in</body></html>",
        b"",
    ],
)
def test_what_is_written_in_another_way_is_left_to_boto3(
    clients: tuple[Any, Any], body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, ours = (read(each, body) for each in clients)
    assert ours == plain


def test_the_usual_pages_are_not_left_to_boto3() -> None:
    for form in (AWS, GO):
        found: dict[str, Any] = {}
        answer = {"body": page(form.format(key="a.jpg", etag="0", size=1))}
        listing._take_objects(response_dict=answer, customized_response_dict=found)
        assert found == {"Contents": [{"Key": "a.jpg", "ETag": '"0"', "Size": 1}]}
        assert b"a.jpg" not in answer["body"]
