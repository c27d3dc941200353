"""An object of S3 that is written part by part and appears once it is complete."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import botocore.exceptions

from scanfleet.errors import AccessDenied, BadSource, StoreUnavailable
from scanfleet.storage.s3.errors import TRANSIENT, first_line, raise_for_bucket
from scanfleet.storage.s3.uri import split_s3

PART_BYTES = 16 << 20
PARTS_OF_A_SIZE = 1000  # of at most 10,000 parts: after as many, parts grow by PART_BYTES, which admits 800 GB

T = TypeVar("T")


class S3Upload(io.BufferedIOBase):
    """A file that is only written. `complete` makes it visible, in place of an object of this name; `abort` drops it.

    Raises BadSource for an impossible name, SourceNotFound (no such bucket), AccessDenied, StoreUnavailable.
    """

    def __init__(self, client: Any, uri: str, *, more: Mapping[str, Any], part_bytes: int = PART_BYTES) -> None:
        self._client, self._part_bytes = client, part_bytes
        self._bucket, key = split_s3(uri)
        if not key or key.endswith("/"):
            raise BadSource(f"{uri} names no object: write s3://bucket/prefix/file")
        self._named = {"Bucket": self._bucket, "Key": key, **more}
        self._held, self._n_written = bytearray(), 0
        self._id: str | None = None
        self._parts: list[dict[str, Any]] = []

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._n_written

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self._held += view
        self._n_written += view.nbytes
        while len(self._held) >= (size := self._part_bytes * (1 + len(self._parts) // PARTS_OF_A_SIZE)):
            self._send(bytes(self._held[:size]))
            del self._held[:size]
        return view.nbytes

    def _send(self, part: bytes) -> None:
        if self._id is None:
            self._id = self._ask(lambda: self._client.create_multipart_upload(**self._named))["UploadId"]
        number = len(self._parts) + 1
        sent = self._ask(
            lambda: self._client.upload_part(**self._named, UploadId=self._id, PartNumber=number, Body=part)
        )
        self._parts.append({"ETag": sent["ETag"], "PartNumber": number})

    def finish(self) -> None:
        """Send all of it: nothing but `complete` is left, which hardly fails then."""
        if self._held:
            self._send(bytes(self._held))
            self._held.clear()

    def complete(self) -> None:
        if self._id is not None:
            self.finish()
        else:
            self._ask(lambda: self._client.put_object(**self._named, Body=bytes(self._held)))
            return
        parts = {"Parts": self._parts}
        self._ask(
            lambda: self._client.complete_multipart_upload(**self._named, UploadId=self._id, MultipartUpload=parts)
        )
        self._id = None

    def abort(self) -> None:
        """Drop the parts that were sent. Where the store refuses that, too, its own rules clear them away."""
        if self._id is not None:
            with contextlib.suppress(botocore.exceptions.ClientError, *TRANSIENT):
                self._client.abort_multipart_upload(**self._named, UploadId=self._id)

    def _ask(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except botocore.exceptions.ClientError as error:
            raise_for_bucket(error, self._bucket, refusal="to be written")
        except (botocore.exceptions.NoCredentialsError, botocore.exceptions.ParamValidationError) as error:
            raise AccessDenied(f"s3://{self._bucket}: {first_line(error)}") from None
        except TRANSIENT as error:
            raise StoreUnavailable(f"s3://{self._bucket}: {first_line(error)}") from error


@contextmanager
def completed(upload: S3Upload) -> Iterator[S3Upload]:
    """Complete an upload at the end; after an error nothing of it is left."""
    try:
        yield upload
        upload.complete()
    except BaseException:
        upload.abort()
        raise
