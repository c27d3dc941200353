"""Reading and listing S3 on a real server: processor time of this process, without that of the server."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any

import boto3
import obstore
from obstore.store import S3Store as Uploads

from bench.report import median_seconds_side_by_side
from scanfleet.config.settings import load_settings
from scanfleet.storage.base import ObjectInfo
from scanfleet.storage.s3.store import S3Store
from tests.services import Bucket, SeaweedServer
from tests.services.s3 import CREDENTIALS

N_READ, READ_BYTES = 400, 52_000
N_LISTED = 20_000
THREADS = 8
MAX_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class S3Costs:
    """Medians. get_ms: for an object of 52 kB; list_us: for a key. boto3_…: the same in boto3 alone."""

    get_ms: float
    boto3_get_ms: float
    list_us: float
    boto3_list_us: float


def measure() -> S3Costs:
    with SeaweedServer() as server:
        os.environ.update(server.env)
        bucket = server.make_bucket("feed")
        _upload(bucket)
        direct, plain = (_reader(bucket, client) for client in ("obstore", "boto3"))
        store = S3Store.connect(load_settings(s3_endpoint_url=server.url))
        get, boto3_get, listing, boto3_listing = median_seconds_side_by_side(
            direct, plain, lambda: _list(store, bucket), lambda: _list_plainly(bucket), clock=time.process_time
        )
    return S3Costs(
        get_ms=1e3 * get / N_READ,
        boto3_get_ms=1e3 * boto3_get / N_READ,
        list_us=1e6 * listing / N_LISTED,
        boto3_list_us=1e6 * boto3_listing / N_LISTED,
    )


def _upload(bucket: Bucket) -> None:
    uploads = Uploads(
        bucket.name,
        endpoint=bucket.endpoint_url,
        aws_endpoint_url_s3=bucket.endpoint_url,
        access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        region=CREDENTIALS["AWS_DEFAULT_REGION"],
        client_options={"allow_http": True},
    )
    read = ((f"read/{number:06}.jpg", os.urandom(READ_BYTES)) for number in range(N_READ))
    listed = ((f"listed/2026/{number:07}.jpg", b"x") for number in range(N_LISTED))
    with ThreadPoolExecutor(THREADS) as threads:
        for _ in threads.map(lambda named: obstore.put(uploads, *named), chain(read, listed)):
            pass


def _reader(bucket: Bucket, client: str) -> Callable[[], None]:
    """Return what reads all objects once, with as many threads as a worker has."""
    store = S3Store.connect(load_settings(s3_endpoint_url=bucket.endpoint_url, s3_client=client, fetch_threads=THREADS))
    objects = list(store.list(bucket.uri("read/")))
    if len(objects) != N_READ:
        raise AssertionError(f"{len(objects)} of {N_READ} objects are listed")

    def fetch(info: ObjectInfo) -> None:
        if len(store.fetch(info.uri, etag=info.etag, max_bytes=MAX_BYTES).data) != READ_BYTES:
            raise AssertionError(f"{info.uri} is not whole")

    def read_all() -> None:
        with ThreadPoolExecutor(THREADS) as threads:
            for _ in threads.map(fetch, objects):
                pass

    read_all()  # connections, and where the bucket lies
    return read_all


def _list(store: S3Store, bucket: Bucket) -> None:
    _require_all(sum(1 for _ in store.list(bucket.uri("listed/"))))


def _list_plainly(bucket: Bucket) -> None:
    client: Any = boto3.client("s3", endpoint_url=bucket.endpoint_url)
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket.name, Prefix="listed/")
    _require_all(sum(len(page["Contents"]) for page in pages))


def _require_all(n_listed: int) -> None:
    if n_listed != N_LISTED:
        raise AssertionError(f"{n_listed} of {N_LISTED} keys are listed")
