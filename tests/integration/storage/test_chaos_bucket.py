"""The bucket of the chaos runs: what was changed and refused survives the death of its server."""

from collections.abc import Iterator

import pytest
from botocore.exceptions import ClientError

from tests.chaos.archive import BUCKET, Item
from tests.chaos.fleet.bucket import EVERYTHING, ArchiveServer

ITEMS = [Item(key=f"both/{number}.png", data=b"%d" % number, kind="good") for number in range(4)]
KEPT, DELETED, OVERWRITTEN, DENIED = (item.key for item in ITEMS)


@pytest.fixture
def server() -> Iterator[ArchiveServer]:
    with ArchiveServer(ITEMS) as server:
        yield server


def read(server: ArchiveServer, key: str) -> bytes | str:
    """The object's bytes, or the code of the error."""
    client = server.client(retries=0)
    try:
        body: bytes = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    else:
        return body
    finally:
        client.close()


def listed(server: ArchiveServer) -> dict[str, str]:
    client = server.client(retries=0)
    page = client.list_objects_v2(Bucket=BUCKET)
    client.close()
    return {entry["Key"]: entry["ETag"] for entry in page["Contents"]}


@pytest.mark.slow
def test_changes_and_refusals_outlive_a_kill(server: ArchiveServer) -> None:
    assert listed(server) == {item.key: item.etag for item in ITEMS}
    server.delete([DELETED])
    server.overwrite({OVERWRITTEN: b"new"})
    server.refuse(DENIED)
    for _ in range(2):
        assert [read(server, item.key) for item in ITEMS] == [b"0", "NoSuchKey", b"new", "AccessDenied"]
        assert set(listed(server)) == {KEPT, OVERWRITTEN, DENIED}
        server.kill()
        server.start()


def test_everything_is_refused_until_it_is_admitted_again(server: ArchiveServer) -> None:
    server.refuse(EVERYTHING)
    assert read(server, KEPT) == "AccessDenied"
    with pytest.raises(ClientError, match="AccessDenied"):
        listed(server)
    server.admit(EVERYTHING)
    assert read(server, KEPT) == b"0"
