"""S3 and everything that speaks it, through boto3. Credentials come from boto3's provider chain only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Never

import boto3
import botocore.exceptions
import urllib3.exceptions
from botocore.config import Config

from scanfleet.config.settings import Settings
from scanfleet.errors import AccessDenied, BadSource, SourceNotFound, StoreUnavailable
from scanfleet.storage.base import CHUNK_BYTES, ObjectInfo, fetch_error
from scanfleet.storage.deadline import Deadline

_GONE = {"NoSuchKey", "404", "NoSuchVersion"}
MAX_PUT_BYTES = 5 << 30  # the limit of one request
_NO_BUCKET = {"NoSuchBucket", "InvalidBucketName"}
_DENIED = {"AccessDenied", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"}
_TRANSIENT = (
    botocore.exceptions.BotoCoreError,
    botocore.exceptions.HTTPClientError,
    urllib3.exceptions.HTTPError,
    OSError,
)


class S3Store:
    """Objects of any bucket that the credentials of this process can read, or write."""

    def __init__(self, client: Any, *, deadline_seconds: float = 120.0, requester_pays: bool = False) -> None:
        self._client = client
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
            client = boto3.session.Session().client("s3", endpoint_url=settings.s3_endpoint_url, config=config)
        except (ValueError, botocore.exceptions.BotoCoreError) as error:
            raise BadSource(f"S3 cannot be set up: {error}") from None
        return cls(client, deadline_seconds=settings.fetch_deadline_seconds, requester_pays=settings.s3_requester_pays)

    def list(self, location: str, *, after: str | None = None) -> Iterator[ObjectInfo]:
        bucket, prefix = split_s3(location)
        more = self._payer | ({"StartAfter": split_s3(after)[1]} if after else {})
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, **more)
        try:
            for page in pages:
                for entry in page.get("Contents", ()):
                    if not entry["Key"].endswith("/"):  # a "folder" created by a console
                        uri = f"s3://{bucket}/{entry['Key']}"
                        yield ObjectInfo(uri=uri, etag=entry["ETag"], size=entry["Size"])
        except botocore.exceptions.ClientError as error:
            _raise_for_bucket(error, bucket, refusal="to be listed")
        except (botocore.exceptions.NoCredentialsError, botocore.exceptions.ParamValidationError) as error:
            raise AccessDenied(f"s3://{bucket}: {_first_line(error)}") from None
        except _TRANSIENT as error:
            raise StoreUnavailable(f"s3://{bucket}: {_first_line(error)}") from error

    def fetch(self, uri: str, *, etag: str | None, max_bytes: int) -> bytes:
        bucket, key = split_s3(uri)
        more = self._payer | ({"IfMatch": etag} if etag else {})
        deadline = Deadline(self._deadline_seconds, store=f"s3://{bucket}")
        try:
            answer = self._client.get_object(Bucket=bucket, Key=key, **more)
            with answer["Body"] as response:  # urllib3's: only its read1 returns before a whole chunk has arrived
                if etag and _bare(answer.get("ETag", etag)) != _bare(etag):  # some servers ignore If-Match
                    raise fetch_error("changed", "the object changed after it was listed")
                return _read_capped(response, deadline, length=answer["ContentLength"], max_bytes=max_bytes)
        except botocore.exceptions.ClientError as error:
            _raise_fetching(error, uri)
        except _TRANSIENT as error:
            raise StoreUnavailable(f"s3://{bucket}: {_first_line(error)}") from error

    def put(self, uri: str, data: bytes) -> None:
        bucket, key = split_s3(uri)
        if not key or len(data) > MAX_PUT_BYTES:
            raise BadSource(f"{uri}: an object needs a key, and at most {MAX_PUT_BYTES} bytes")
        try:
            self._client.put_object(Bucket=bucket, Key=key, Body=data, **self._payer)
        except botocore.exceptions.ClientError as error:
            _raise_for_bucket(error, bucket, refusal="to be written")
        except (botocore.exceptions.NoCredentialsError, botocore.exceptions.ParamValidationError) as error:
            raise AccessDenied(f"s3://{bucket}: {_first_line(error)}") from None
        except _TRANSIENT as error:
            raise StoreUnavailable(f"s3://{bucket}: {_first_line(error)}") from error


def split_s3(uri: str) -> tuple[str, str]:
    """`s3://bucket/a/b` -> ("bucket", "a/b"). Raises BadSource."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket:
        raise BadSource(f"{uri!r} names no bucket: write s3://bucket/prefix")
    return bucket, key


def _bare(etag: str) -> str:
    """Return an etag without quotes and mark of weakness: servers write it differently in lists and answers."""
    return etag.removeprefix("W/").strip('"')


def _read_capped(response: Any, deadline: Deadline, *, length: int, max_bytes: int) -> bytes:
    if length > max_bytes:
        raise fetch_error("too_large", f"{length} bytes is over the limit of {max_bytes}")
    data = bytearray()
    while chunk := response.read1(CHUNK_BYTES):
        data += chunk
        deadline.check(len(data))
        if len(data) > max_bytes:
            raise fetch_error("too_large", f"more than {max_bytes} bytes")
    if len(data) != length:
        raise StoreUnavailable(f"the store sent {len(data)} of {length} bytes")
    return bytes(data)


def _raise_for_bucket(error: botocore.exceptions.ClientError, bucket: str, *, refusal: str) -> Never:
    code = error.response["Error"]["Code"]
    if code in _NO_BUCKET:
        raise SourceNotFound(f"no such bucket: {bucket} (check endpoint and region)") from None
    if code in _DENIED:
        raise AccessDenied(f"s3://{bucket} refuses {refusal} ({code}): check credentials and bucket policy") from None
    raise StoreUnavailable(f"s3://{bucket}: {_first_line(error)}") from error


def _raise_fetching(error: botocore.exceptions.ClientError, uri: str) -> Never:
    code = error.response["Error"]["Code"]
    if code in _GONE:
        raise fetch_error("gone", "the object no longer exists") from None
    if code in ("PreconditionFailed", "412"):
        raise fetch_error("changed", "the object changed after it was listed") from None
    if code == "InvalidObjectState":
        raise fetch_error("archived", "the object is in cold storage: restore it first") from None
    # Refused credentials are a transient error: they expire for a whole archive at once.
    raise StoreUnavailable(f"{uri}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    if isinstance(error, botocore.exceptions.NoCredentialsError):
        return "no credentials found: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
