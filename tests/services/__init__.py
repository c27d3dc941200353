"""The real Redis, PostgreSQL, pgbouncer and S3 servers that integration and acceptance tests run against; a browser.

Each server's class starts one private server on a free port in a directory of its own, and can be killed, paused
and started again on the same port and data:

    with RedisServer(appendfsync="always") as redis:
        redis.kill()
        redis.start()
"""

from .browser import Browser
from .errors import ServiceFailedError, ServiceMissingError
from .pgbouncer import PgBouncer
from .postgres import PostgresServer
from .redis import RedisServer
from .s3 import Bucket, S3Server
from .s3_gateway import S3Gateway
from .seaweed import SeaweedServer

__all__ = [
    "Browser",
    "Bucket",
    "PgBouncer",
    "PostgresServer",
    "RedisServer",
    "S3Gateway",
    "S3Server",
    "SeaweedServer",
    "ServiceFailedError",
    "ServiceMissingError",
]
