"""A private S3 server: moto in a process of its own, so that it can be killed and paused like a real one."""

import importlib.util
import sys
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from .errors import ServiceMissingError
from .process import Service

REGION = "us-east-1"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test-key",
    "AWS_SECRET_ACCESS_KEY": "test-secret",
    "AWS_DEFAULT_REGION": REGION,
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """A bucket of one test; `client` is a boto3 S3 client with the right endpoint and credentials."""

    name: str
    endpoint_url: str
    client: Any

    def put(self, key: str, body: bytes) -> str:
        """Store an object and return its s3:// address."""
        self.client.put_object(Bucket=self.name, Key=key, Body=body)
        return self.uri(key)

    def uri(self, key: str = "") -> str:
        """s3://bucket/key"""
        return f"s3://{self.name}/{key}"


class S3Server(Service):
    """Any S3 call over http://127.0.0.1:port. Objects live in memory: a start after `kill()` is empty.

    moto accepts every key pair; `env` holds the one that a process under test should be given.
    """

    def __init__(self, *, port: int | None = None) -> None:
        if importlib.util.find_spec("moto") is None:
            raise ServiceMissingError("moto is not installed (pip install -e '.[dev]')")
        super().__init__(port=port)

    @property
    def url(self) -> str:
        """The endpoint URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def env(self) -> dict[str, str]:
        """Environment variables that lead any AWS client to this server, and to no other."""
        return {**CREDENTIALS, "AWS_ENDPOINT_URL_S3": self.url, "NO_PROXY": "127.0.0.1"}

    def command(self) -> list[str]:
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]

    def answers(self) -> bool:
        client = self.client(retries=0)
        try:
            client.list_buckets()
        except (BotoCoreError, ClientError):
            return False
        finally:
            client.close()
        return True

    def client(self, *, retries: int = 3) -> Any:
        """A boto3 S3 client; the caller closes it."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            config=Config(retries={"max_attempts": retries}, connect_timeout=5, read_timeout=30, proxies={"http": ""}),
        )

    def make_bucket(self, name: str) -> Bucket:
        """Create a bucket; close its `client` when done."""
        client = self.client()
        client.create_bucket(Bucket=name)
        return Bucket(name=name, endpoint_url=self.url, client=client)

    def remove_bucket(self, bucket: Bucket) -> None:
        """Remove a bucket with all its objects and close its client."""
        pages = bucket.client.get_paginator("list_objects_v2").paginate(Bucket=bucket.name)
        for page in pages:
            keys = [{"Key": item["Key"]} for item in page.get("Contents", [])]
            if keys:
                bucket.client.delete_objects(Bucket=bucket.name, Delete={"Objects": keys})
        bucket.client.delete_bucket(Bucket=bucket.name)
        bucket.client.close()
