"""S3 and everything that speaks it. Credentials come from boto3's provider chain only.

boto3 lists, writes, and says what an error means; `scanfleet.storage.s3.direct` reads most objects for less.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import boto3
import botocore.exceptions
import botocore.session
from botocore.config import Config

from scanfleet.config.settings import Settings
from scanfleet.errors import AccessDenied, BadSource, SourceNotFound, StoreUnavailable
from scanfleet.storage.base import FetchedObject, ObjectInfo, Span, fetch_error
from scanfleet.storage.deadline import Deadline, read_capped
from scanfleet.storage.s3.direct import DirectReads, bare
from scanfleet.storage.s3.errors import TRANSIENT, first_line, raise_for_bucket, raise_for_object
from scanfleet.storage.s3.listing import read_pages_fast
from scanfleet.storage.s3.upload import S3Upload
from scanfleet.storage.s3.uri import split_s3

_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
MAX_PUT_BYTES = 5 << 30  # the limit of one request


class S3Store:
    """Objects of any bucket that the credentials of this process can read, or write."""

    def __init__(
        self,
        client: Any,
        *,
        deadline_seconds: float = 120.0,
        requester_pays: bool = False,
        direct: DirectReads | None = None,
    ) -> None:
        """direct: reads the objects of buckets that are known; None: boto3 reads all of them."""
        self._client, self._direct = client, direct
        self._deadline_seconds = deadline_seconds
        self._payer = {"RequestPayer": "requester"} if requester_pays else {}

    @classmethod
    def connect(cls, settings: Settings) -> S3Store:
        """Return a store with bounded waits. It connects at the first call. Threads may share it."""
        config = Config(
            connect_timeout=5,
            read_timeout=settings.fetch_timeout_seconds,
            retries={"mode": "standard", "max_attempts": 3},
            max_pool_connections=settings.fetch_threads,
            # boto3's own default, "when_supported", sends checksums that other servers than AWS may refuse.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        try:
            core = botocore.session.get_session()
            session = boto3.session.Session(botocore_session=core)
            client = session.client("s3", endpoint_url=settings.s3_endpoint_url, config=config)
            ca_file = core.get_config_variable("ca_bundle")
        except (ValueError, botocore.exceptions.BotoCoreError) as error:
            raise BadSource(f"S3 cannot be set up: {error}") from None
        read_pages_fast(client)
        direct = None
        if settings.s3_client == "obstore":
            direct = DirectReads(settings, credentials=session.get_credentials, ca_file=ca_file)
            direct.watch(client)
        return cls(
            client,
            deadline_seconds=settings.fetch_deadline_seconds,
            requester_pays=settings.s3_requester_pays,
            direct=direct,
        )

    def list(self, location: str, *, after: str | None = None) -> Iterator[ObjectInfo]:
        bucket, prefix = split_s3(location)
        more = self._payer | ({"StartAfter": split_s3(after)[1]} if after else {})
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, **more)
        try:
            for page in pages:
                if "IsTruncated" not in page:  # a page of a proxy reads as an empty, last page of the listing
                    raise StoreUnavailable(f"s3://{bucket}: an answer that is no listing: is this an S3 server?")
                for entry in page.get("Contents", ()):
                    if not entry["Key"].endswith("/"):  # a "folder" created by a console
                        uri = f"s3://{bucket}/{entry['Key']}"
                        yield ObjectInfo(uri=uri, etag=entry.get("ETag"), size=entry.get("Size"))
        except botocore.exceptions.ClientError as error:
            raise_for_bucket(error, bucket, refusal="to be listed")
        except (botocore.exceptions.NoCredentialsError, botocore.exceptions.ParamValidationError) as error:
            raise AccessDenied(f"s3://{bucket}: {first_line(error)}") from None
        except TRANSIENT as error:
            raise StoreUnavailable(f"s3://{bucket}: {first_line(error)}") from error

    def fetch(self, uri: str, *, etag: str | None, max_bytes: int, span: Span | None = None) -> FetchedObject:
        bucket, key = split_s3(uri)
        if self._direct is not None:
            found = self._direct.fetch(bucket, key, etag=etag, max_bytes=max_bytes, span=span)
            if found is not None:
                return found
        found = self._fetch_by_boto3(uri, etag=etag, max_bytes=max_bytes, span=span)
        if self._direct is not None:
            self._direct.learn(bucket, key)
        return found

    def _fetch_by_boto3(self, uri: str, *, etag: str | None, max_bytes: int, span: Span | None) -> FetchedObject:
        bucket, key = split_s3(uri)
        more = self._payer | ({"IfMatch": etag} if etag else {})
        if span is not None:
            more["Range"] = f"bytes={span.offset}-{span.offset + span.length - 1}"
        deadline = Deadline(self._deadline_seconds, store=f"s3://{bucket}")
        try:
            answer = self._client.get_object(Bucket=bucket, Key=key, **more)
            with answer["Body"] as response:  # urllib3's: only its read1 returns before a whole chunk has arrived
                found, length = answer.get("ETag"), answer.get("ContentLength")
                if not found or length is None:  # a page of a proxy, in the place of the object
                    raise StoreUnavailable(f"s3://{bucket}: an answer without ETag or length: is this an S3 server?")
                if etag and bare(found) != bare(etag):  # some servers ignore If-Match
                    raise fetch_error("changed", "the object changed after it was listed")
                size = length if span is None else _size_behind(answer, span, bucket)
                data = read_capped(response, deadline, length=length, max_bytes=max_bytes)
                return FetchedObject(data, found, size)
        except botocore.exceptions.ClientError as error:
            raise_for_object(error, uri)
        except botocore.exceptions.ParamValidationError as error:  # no request was sent
            raise fetch_error("bad_name", str(error).replace("\n", " ")) from None
        except TRANSIENT as error:
            raise StoreUnavailable(f"s3://{bucket}: {first_line(error)}") from error

    def confirm_missing(self, uri: str, *, etag: str | None, root_id: str | None) -> None:
        """The listing is asked. Nothing is said where it is refused."""
        bucket, key = split_s3(uri)
        try:
            found = next(self.list(f"s3://{bucket}/{key}"), None)
            if found is not None and found.uri == uri and (etag is None or bare(found.etag or "") == bare(etag)):
                raise StoreUnavailable(f"{uri} is listed, and not there when it is fetched")
            if found is None and next(self.list(f"s3://{bucket}/"), None) is None:
                raise StoreUnavailable(f"s3://{bucket} is empty: if its objects were deleted, cancel the scan")
        except AccessDenied:
            return
        except SourceNotFound as error:
            raise StoreUnavailable(str(error)) from None

    def put(self, uri: str, data: bytes) -> None:
        bucket, key = split_s3(uri)
        if not key or len(data) > MAX_PUT_BYTES:
            raise BadSource(f"{uri}: an object needs a key, and at most {MAX_PUT_BYTES} bytes")
        try:
            self._client.put_object(Bucket=bucket, Key=key, Body=data, **self._payer)
        except botocore.exceptions.ClientError as error:
            raise_for_bucket(error, bucket, refusal="to be written")
        except (botocore.exceptions.NoCredentialsError, botocore.exceptions.ParamValidationError) as error:
            raise AccessDenied(f"s3://{bucket}: {first_line(error)}") from None
        except TRANSIENT as error:
            raise StoreUnavailable(f"s3://{bucket}: {first_line(error)}") from error

    def upload(self, uri: str) -> S3Upload:
        """Return a file for an object of any size (`scanfleet.storage.s3.upload.completed`). Raises BadSource."""
        return S3Upload(self._client, uri, more=self._payer)


def _size_behind(answer: Mapping[str, Any], span: Span, bucket: str) -> int:
    """Return the size of the object whose part was answered. Raises StoreUnavailable for another part, or all of it."""
    found = _CONTENT_RANGE.fullmatch(answer.get("ContentRange", ""))
    if found is None or int(found[1]) != span.offset:
        raise StoreUnavailable(f"s3://{bucket}: an answer that is not the range asked for: is this an S3 server?")
    return int(found[2])
