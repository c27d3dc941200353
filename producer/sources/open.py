"""Opens sources, which are lazy streams of images. Knows nothing of scans, batches and the database."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from pathlib import Path

from scanfleet.config.settings import Settings
from scanfleet.config.web_hosts import hosts_of, web_address
from scanfleet.db.scans.new_images import NewImage
from scanfleet.errors import AccessDenied, BadSource, SourceNotFound
from scanfleet.images import SUFFIXES
from scanfleet.producer.sources.base import Source, local_image
from scanfleet.producer.sources.huggingface import DatasetSource, is_dataset
from scanfleet.producer.sources.listed import BucketSource, FileSource, FolderSource, OneImageSource
from scanfleet.producer.sources.members import PACKED, MembersSource, ShardSource
from scanfleet.redaction import is_presigned
from scanfleet.storage.base import ObjectStore
from scanfleet.storage.file_uri import path_to_uri
from scanfleet.storage.open import OpenStores
from scanfleet.storage.shards.member_uri import COMPRESSED, is_shard, split_member


def open_source(text: str, settings: Settings, *, members: bool = False) -> Source:
    """Open a folder, a manifest, an archive or a member of it, a single image or s3://bucket/prefix.

    members: archives that it holds or names count as folders of their members.

    Raises SourceNotFound, AccessDenied, BadSource. A bucket is not contacted before it is listed.
    """
    if is_presigned(text):
        raise BadSource("a presigned URL is a secret and expires: give s3://bucket/prefix")
    if not text:  # from an unset shell variable; it must not mean the working folder
        raise BadSource("the source is empty: name a folder, s3://bucket/prefix, an image or a manifest")
    stores = OpenStores(settings)
    source = (
        _open_remote(text, settings)
        if "://" in text
        else _open_local(Path(text).expanduser(), hosts_of(settings.https_hosts))
    )
    is_folder = isinstance(source, FolderSource)
    if source.name.lower().endswith(COMPRESSED) and not is_folder:
        raise BadSource(f"{source.name}: {PACKED}")

    def store_of(image: NewImage) -> ObjectStore:
        return stores(image.uri, image.root)

    if source.sifts_by_suffix and is_shard(source.name) and not is_folder:
        return ShardSource(source, store_of)
    return MembersSource(source, store_of) if members else source


def _open_remote(text: str, settings: Settings) -> Source:
    if text.startswith("https://"):
        return OneImageSource(_web_image(text, settings))
    if not text.startswith("s3://"):
        raise BadSource(f"{text.split('://')[0]}:// is not supported: give a folder, s3://bucket/prefix or a manifest")
    from scanfleet.storage.s3.store import S3Store
    from scanfleet.storage.s3.uri import split_s3

    split_s3(text)
    if split_member(text) is not None:
        return OneImageSource(NewImage(uri=text))
    store = S3Store.connect(settings)
    if text.endswith("/manifest.json"):
        from scanfleet.producer.sources.inventory import InventorySource
        from scanfleet.producer.sources.inventory_files import BucketFiles

        return InventorySource(text, BucketFiles(text, store))
    return BucketSource(text, store)


def _web_image(text: str, settings: Settings) -> NewImage:
    try:
        web_address(text, hosts_of(settings.https_hosts))
    except ValueError as error:
        raise BadSource(f"{text}: {error}") from None
    return NewImage(uri=text)


def _open_local(path: Path, hosts: Collection[str]) -> Source:
    from scanfleet.producer.sources.manifest_source import KINDS, ManifestSource, manifest_kind

    try:
        status = os.stat(path)
    except PermissionError:
        raise AccessDenied(f"no permission to reach {path}") from None
    except (OSError, ValueError):  # ValueError: a name that no file system accepts
        image = local_image(os.fsencode(path.absolute()), root=os.fspath(path.absolute().parent))
        if image.etag is not None:  # a member of an archive
            return OneImageSource(image)
        raise SourceNotFound(f"no such folder or file: {path}") from None
    if stat.S_ISDIR(status.st_mode):
        return DatasetSource(path) if is_dataset(path) else FolderSource(path)
    if manifest_kind(path) is not None:
        return ManifestSource(path, hosts)
    if path.suffix.lower() == ".json":
        from scanfleet.producer.sources.inventory import InventorySource
        from scanfleet.producer.sources.inventory_files import FolderFiles

        path = path.absolute()
        return InventorySource(path_to_uri(os.fsencode(path)), FolderFiles(path))
    if path.suffix.lower() in SUFFIXES:
        return FileSource(path)
    if is_shard(path.name) or path.name.lower().endswith(COMPRESSED):
        return FileSource(path, sifts_by_suffix=True)
    known = ", ".join(KINDS)
    raise BadSource(f"{path} is neither a folder nor an image nor a manifest ({known})")
