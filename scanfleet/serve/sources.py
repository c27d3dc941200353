"""What a request may name: web images of listed hosts, and folders and prefixes of the setting `serve_sources`.

Nothing is opened here: workers read the images, and refuse private addresses and links out of the folder.
"""

from __future__ import annotations

import os

from scanfleet.config.settings import Settings
from scanfleet.config.web_hosts import hosts_of, web_address
from scanfleet.db.scans.new_images import NewImage
from scanfleet.errors import RequestError
from scanfleet.redaction import is_presigned

ASK = "ask the administrator to list it in the setting serve_sources"


def allowed_image(uri: str, settings: Settings) -> NewImage:
    """Return the image of a uri that may be read. Raises RequestError."""
    if is_presigned(uri):
        raise RequestError("a presigned URL is a secret: send the image, or name s3://bucket/key")
    if uri.startswith("https://"):
        try:
            web_address(uri, hosts_of(settings.https_hosts))
        except ValueError as error:
            raise RequestError(f"uri: {error}") from None
        return NewImage(uri=uri)
    return NewImage(uri=uri, root=_root(uri, settings))


def allowed_source(uri: str, settings: Settings) -> str:
    """Return a source to list that may be read: a folder or prefix. Raises RequestError."""
    _root(uri, settings)
    return uri


def _root(uri: str, settings: Settings) -> str | None:
    """Return the listed folder that holds a path; None for S3. Raises RequestError."""
    if "\0" in uri or ".." in uri.split("/"):
        raise RequestError("a uri has no zero byte and no '..'")
    for place in filter(None, (each.strip() for each in settings.serve_sources.split(","))):
        if place.startswith("s3://"):
            if uri == place.rstrip("/") or uri.startswith(f"{place.rstrip('/')}/"):
                return None
        elif uri.startswith("/"):
            folder = os.path.realpath(os.path.expanduser(place))
            if f"{os.path.realpath(uri)}/".startswith(f"{folder.rstrip('/')}/"):
                return folder
    scheme = uri.partition("://")[0] if "://" in uri else "a local path"
    raise RequestError(f"{scheme}: not among what requests may name; {ASK}")
