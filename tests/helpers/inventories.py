"""S3 Inventory as S3 delivers it."""

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote_plus

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = ("Bucket", "Key", "VersionId", "IsLatest", "IsDeleteMarker", "Size", "ETag")
PARQUET = ("bucket", "key", "version_id", "is_latest", "is_delete_marker", "size", "e_tag")
FOLDER = "inv/src/daily"

Row = tuple[str, str, str, bool, bool, int | None, str | None]


def csv_part(rows: Sequence[Row]) -> bytes:
    out = io.StringIO()
    table = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n")
    for bucket, key, version, latest, marker, size, etag in rows:
        texts = (str(latest).lower(), str(marker).lower(), "" if size is None else size, etag or "")
        table.writerow((bucket, quote_plus(key, safe="/"), version, *texts))
    return gzip.compress(out.getvalue().encode(), mtime=0)


def parquet_part(rows: Sequence[Row]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({name: [row[at] for row in rows] for at, name in enumerate(PARQUET)}), out)
    return out.getvalue()


def inventory(form: str, parts: Sequence[bytes], *, bucket: str = "src", destination: str = "dst") -> dict[str, bytes]:
    """Return the files by their keys in the destination: the manifest first."""
    suffix = "csv.gz" if form == "CSV" else "parquet"
    files = {f"{FOLDER}/data/{number}.{suffix}": data for number, data in enumerate(parts)}
    listed: list[dict[str, Any]] = [
        {"key": key, "size": len(data), "MD5checksum": hashlib.md5(data).hexdigest()} for key, data in files.items()
    ]
    manifest = {
        "sourceBucket": bucket,
        "destinationBucket": f"arn:aws:s3:::{destination}",
        "version": "2016-11-30",
        "creationTimestamp": "1514944800000",
        "fileFormat": form,
        "fileSchema": ", ".join(SCHEMA) if form == "CSV" else "message s3.inventory { required binary bucket (UTF8); }",
        "files": listed,
    }
    return {f"{FOLDER}/2026-11-30T00-00Z/manifest.json": json.dumps(manifest).encode(), **files}
