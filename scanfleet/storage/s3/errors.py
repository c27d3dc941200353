"""What the errors of S3 mean: of one object, of the credentials, or of the store."""

from __future__ import annotations

import re
from typing import Never

import botocore.exceptions
import urllib3.exceptions

from scanfleet.errors import AccessDenied, SourceNotFound, StoreUnavailable
from scanfleet.storage.base import fetch_error, refused

TRANSIENT = (
    botocore.exceptions.BotoCoreError,
    botocore.exceptions.HTTPClientError,
    urllib3.exceptions.HTTPError,
    OSError,
)
_GONE = {"NoSuchKey", "404", "NoSuchVersion"}
_CHANGED = {"PreconditionFailed", "412"}
_NO_RANGE = {"InvalidRange", "416"}
_NO_BUCKET = {"NoSuchBucket", "InvalidBucketName"}
_DENIED = {"AccessDenied", "403", "Forbidden", "AllAccessDisabled"}
# They say nothing of the object: credentials expire for a whole archive at once.
_CREDENTIALS = {
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "ExpiredTokenException", "InvalidToken",
    "TokenRefreshRequired", "RequestTimeTooSkewed", "RequestExpired", "AuthorizationHeaderMalformed", "NotSignedUp",
    "AccountProblem", "InvalidSecurity", "InvalidClientTokenId", "UnrecognizedClientException", "Unauthorized", "401",
}  # fmt: skip
_BUSY = re.compile(r"Throttl|Timeout|TimedOut|Internal|SlowDown|LimitExceeded|TooMany|Busy|Unavailable", re.IGNORECASE)
_BUSY_STATUS = {401, 407, 408, 409, 425, 429}
_REDIRECT, _BAD_REQUEST, _SERVER_ERROR = 301, 400, 500
_ENCRYPTED = re.compile(r"KMS|encrypt", re.IGNORECASE)


def raise_for_object(error: botocore.exceptions.ClientError, uri: str) -> Never:
    """Raises ImageError, ObjectRefused, StoreUnavailable."""
    code = error.response["Error"]["Code"]
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    line = f"{uri}: {first_line(error)}"
    if code in _GONE:
        raise fetch_error("gone", "the object no longer exists") from None
    if code in _CHANGED:
        raise fetch_error("changed", "the object changed after it was listed") from None
    if code in _NO_RANGE:
        raise fetch_error("corrupt", "the object ends before the part that was asked for") from None
    if code == "InvalidObjectState":
        raise fetch_error("archived", "the object is in cold storage: restore it first") from None
    if code == "KeyTooLongError":
        raise fetch_error("bad_name", "the key is too long") from None
    if code in _CREDENTIALS or _BUSY.search(code) or status in _BUSY_STATUS:
        raise StoreUnavailable(line) from error
    if code in _NO_BUCKET:
        raise refused("no_bucket", f"{line} (check the bucket's name, endpoint and region)") from error
    if _ENCRYPTED.search(line) and (code in _DENIED or _BAD_REQUEST <= status < _SERVER_ERROR):
        raise refused("encrypted", line) from error
    if code in _DENIED:
        raise refused("denied", line) from error
    if status == _REDIRECT or _BAD_REQUEST <= status < _SERVER_ERROR:
        raise refused("refused", line) from error
    raise StoreUnavailable(line) from error


def raise_for_bucket(error: botocore.exceptions.ClientError, bucket: str, *, refusal: str) -> Never:
    """Raises SourceNotFound, AccessDenied, StoreUnavailable."""
    code = error.response["Error"]["Code"]
    if code in _NO_BUCKET:
        raise SourceNotFound(f"no such bucket: {bucket} (check endpoint and region)") from None
    if code in _DENIED | {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"}:
        raise AccessDenied(f"s3://{bucket} refuses {refusal} ({code}): check credentials and bucket policy") from None
    raise StoreUnavailable(f"s3://{bucket}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    if isinstance(error, botocore.exceptions.NoCredentialsError):
        return "no credentials found: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
