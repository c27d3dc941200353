"""Uris and etags of files."""

from __future__ import annotations

import os
from urllib.parse import quote_from_bytes, unquote_to_bytes


def file_etag(status: os.stat_result) -> str:
    """Return the etag of a file: inode, size and modification time."""
    return f"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"


def path_to_uri(path: bytes) -> str:
    """Return the path; a name that is not UTF-8 is percent-encoded after `file://`, so every database can hold it."""
    try:
        return path.decode()
    except UnicodeDecodeError:
        return "file://" + quote_from_bytes(path)


def uri_to_path(uri: str) -> bytes:
    return unquote_to_bytes(uri[7:]) if uri.startswith("file://") else uri.encode()
