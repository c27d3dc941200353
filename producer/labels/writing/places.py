"""Names of images below a root, for files of labels that name images by them or lie as they do."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import PurePosixPath

from scanfleet.errors import BadSource
from scanfleet.storage.file_uri import uri_to_path
from scanfleet.storage.s3.uri import is_s3, split_s3


def common_root(uris: Iterable[str]) -> str:
    """Return the folder, or the s3:// prefix, that holds all images. Raises BadSource if there is none."""
    root: str | None = None
    for uri in uris:
        folder = os.path.dirname(uri if is_s3(uri) else os.fsdecode(uri_to_path(uri)))
        if root is None:
            root = folder
        while root != folder and not f"{folder}/".startswith(f"{root.rstrip('/')}/"):
            root = os.path.dirname(root)
            if root in ("", "s3:", "s3:/"):
                raise BadSource("no folder or bucket holds all images: give --root")
    return root or "/"


def is_text(name: str) -> bool:
    """Return False for a name of a file that is not UTF-8, which only a whole uri can say."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def below(uri: str, root: str) -> str | None:
    """Return the name of an image below a root; None if it lies elsewhere, or its name is no path."""
    if is_s3(uri) != is_s3(root):
        return None
    if is_s3(uri):
        (bucket, key), (other, prefix) = split_s3(uri), split_s3(root)
        if bucket != other or not key.startswith(f"{prefix}/" if prefix else ""):
            return None
        name = key[len(prefix) + 1 if prefix else 0 :]
    else:
        whole, folder = os.fsdecode(uri_to_path(uri)), root.rstrip("/") + "/"
        if not whole.startswith(folder):
            return None
        name = whole[len(folder) :]
    path = PurePosixPath(name)
    return None if path.is_absolute() or str(path) != name or ".." in path.parts else name
