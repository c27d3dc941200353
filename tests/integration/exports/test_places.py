"""Folders of parts and objects on S3: whole or not at all."""

import io
import json
from pathlib import Path
from typing import Any

import botocore.exceptions
import duckdb
import pytest
import sqlalchemy as sa

from scanfleet.config.settings import Settings, load_settings
from scanfleet.db.results.results import ResultFilter
from scanfleet.errors import AccessDenied, BadSource, RequestError, ScanfleetError, SourceNotFound, StoreUnavailable
from scanfleet.producer.reports.exports import partitions
from scanfleet.producer.reports.exports.formats import Export
from scanfleet.producer.reports.exports.places import file_target, folder_target
from scanfleet.storage.s3.upload import S3Upload, completed
from tests.helpers.cli_call import scanfleet
from tests.rigs.results_rig import fill
from tests.services import Bucket

DAYS = ["2026-11-29", "2026-11-30", "2026-12-01", "2026-12-02", partitions.NO_TIME]
WRONG_USAGE = 2


def keys(bucket: Bucket) -> list[str]:
    return [each["Key"] for each in bucket.client.list_objects_v2(Bucket=bucket.name).get("Contents", ())]


def unfinished(bucket: Bucket) -> list[Any]:
    found: list[Any] = bucket.client.list_multipart_uploads(Bucket=bucket.name).get("Uploads", [])
    return found


@pytest.fixture
def settings(any_bucket: Bucket, tmp_path: Path) -> Settings:
    return load_settings(data_dir=tmp_path, s3_endpoint_url=any_bucket.endpoint_url)


@pytest.mark.parametrize(
    ("by", "folders"),
    [
        ("day", DAYS),
        ("week", ["2026-11-23", "2026-11-30", partitions.NO_TIME]),
        ("month", ["2026-11", "2026-12", partitions.NO_TIME]),
    ],
)
@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_parts_hold_every_row_once(engine: sa.Engine, tmp_path: Path, form: str, by: str, folders: list[str]) -> None:
    fill(engine, [{"n": 1}] * 6)
    with folder_target(str(tmp_path / "out"), load_settings(data_dir=tmp_path)) as folder:
        assert Export(engine=engine, wanted=ResultFilter(), form=form).write_parts(folder, by=by) == 6
        assert not (tmp_path / "out").exists()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{by}={folder}" for folder in folders]
    read = {"csv": "read_csv", "jsonl": "read_json", "parquet": "read_parquet"}[form]
    query = (
        f"select image_id, {by}::text, decision from {read}('{tmp_path}/out/*/*', hive_partitioning = true) order by 1"
    )
    found = duckdb.sql(query).fetchall()
    assert [number for number, *_ in found] == [1, 2, 3, 4, 5, 6]
    assert [period is None for _, period, _ in found] == [decision is None for *_, decision in found]


def test_parts_that_grow_too_large_go_on_in_another_file(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "MAX_HELD", 2)
    fill(engine)
    fill(engine)
    export = Export(engine=engine, wanted=ResultFilter(), form="parquet")
    table = export.table
    pages = [page.take([number]) for page in table.pages(("scored_at",)) for number in range(page.n)]
    monkeypatch.setattr(type(table), "pages", lambda *_: iter(pages))
    assert export.write_parts(tmp_path, by="month") == 12
    assert len(list(tmp_path.glob("*/*.parquet"))) > 3
    assert duckdb.sql(f"select count(distinct image_id) from '{tmp_path}/*/*.parquet'").fetchall() == [(12,)]


def test_a_part_of_several_pages_has_one_header(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(engine)
    export = Export(engine=engine, wanted=ResultFilter(), form="csv", columns=["image_id"])
    table = export.table
    pages = [page.take([number]) for page in table.pages(("scored_at",)) for number in range(page.n)]
    monkeypatch.setattr(type(table), "pages", lambda *_: iter(pages))
    assert export.write_parts(tmp_path, by="month") == 6
    assert (tmp_path / "month=2026-12" / "part-0.csv").read_text() == "image_id\n3\n4\n"


def test_an_object_is_invisible_until_it_is_complete(any_bucket: Bucket, settings: Settings) -> None:
    uri = any_bucket.uri("a/b.csv")
    with file_target(uri, settings, form="csv") as file:
        assert isinstance(file, S3Upload)
        file._part_bytes = 5 << 20  # the least that S3 takes
        for number in range(11):
            file.write(bytes([number]) * (1 << 20))
        assert keys(any_bucket) == []
        assert len(unfinished(any_bucket)) == 1
    body = any_bucket.client.get_object(Bucket=any_bucket.name, Key="a/b.csv")["Body"].read()
    assert body == b"".join(bytes([number]) * (1 << 20) for number in range(11))
    assert unfinished(any_bucket) == []


@pytest.mark.parametrize("error", [botocore.exceptions.NoCredentialsError(), ConnectionError("reset")])
def test_without_credentials_or_store_the_bucket_is_named(error: Exception) -> None:
    class Client:
        def put_object(self, **_: Any) -> None:
            raise error

    denied = isinstance(error, botocore.exceptions.NoCredentialsError)
    with (
        pytest.raises(AccessDenied if denied else StoreUnavailable, match="s3://b: "),
        completed(S3Upload(Client(), "s3://b/k", more={})) as upload,
    ):
        upload.write(io.BytesIO(b"x").getbuffer())


def test_after_an_error_nothing_is_left(any_bucket: Bucket, settings: Settings) -> None:
    def broken() -> None:
        with file_target(any_bucket.uri("x"), settings, form="csv") as file:
            assert isinstance(file, S3Upload)
            file._part_bytes = 5 << 20
            file.write(bytes(6 << 20))
            assert len(unfinished(any_bucket)) == 1
            raise RuntimeError("in the midst")

    with pytest.raises(RuntimeError, match="midst"):
        broken()
    assert (keys(any_bucket), unfinished(any_bucket)) == ([], [])


def test_places_that_cannot_be_written_are_named(any_bucket: Bucket, settings: Settings, tmp_path: Path) -> None:
    for uri, error in ((f"s3://no-{any_bucket.name}/x", SourceNotFound), (any_bucket.uri("a/"), BadSource)):
        with pytest.raises(error), file_target(uri, settings, form="csv") as file:
            file.write(b"x")
    (tmp_path / "x").touch()
    with pytest.raises(RequestError, match="exists already"), folder_target(str(tmp_path), settings):
        pass


@pytest.mark.parametrize("form", ["csv", "parquet", "xlsx", "sqlite"])
def test_every_table_goes_to_s3(s3_bucket: Bucket, tmp_path: Path, form: str, engine: sa.Engine) -> None:
    fill(engine)
    url = engine.url.render_as_string(hide_password=False)
    more = {"SCANFLEET_S3_ENDPOINT_URL": s3_bucket.endpoint_url, "SCANFLEET_DATABASE_URL": url}
    arguments = ("results", "export", "--format", form, "--columns", "image_id,uri,decision", "-o")
    assert scanfleet(*arguments, s3_bucket.uri(f"p/v.{form}"), data_dir=tmp_path, **more).returncode == 0
    assert scanfleet(*arguments, tmp_path / f"v.{form}", data_dir=tmp_path, **more).returncode == 0
    beside = ["p/v.metadata.json"] if form == "sqlite" else []
    assert keys(s3_bucket) == sorted([*beside, f"p/v.{form}"])
    body = s3_bucket.client.get_object(Bucket=s3_bucket.name, Key=f"p/v.{form}")["Body"].read()
    if form != "xlsx":  # holds the time of its making
        assert body == (tmp_path / f"v.{form}").read_bytes()
    if form == "sqlite":
        described = json.loads((tmp_path / "v.metadata.json").read_text())
        assert described["databases"]["v"]["tables"]["results"]["facets"] == ["decision"]


def test_parts_go_to_s3(s3_bucket: Bucket, tmp_path: Path, engine: sa.Engine) -> None:
    fill(engine)
    settings = load_settings(data_dir=tmp_path, s3_endpoint_url=s3_bucket.endpoint_url)
    with folder_target(s3_bucket.uri("lake/"), settings) as folder:
        Export(engine=engine, wanted=ResultFilter(), form="parquet").write_parts(folder, by="day")
        assert keys(s3_bucket) == []
    assert keys(s3_bucket) == [f"lake/day={day}/part-0.parquet" for day in DAYS]


def test_of_parts_on_s3_none_appears_if_one_cannot_be_sent(seaweed_bucket: Bucket, tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path, s3_endpoint_url=seaweed_bucket.endpoint_url)

    def broken() -> None:
        with folder_target(seaweed_bucket.uri("lake"), settings) as folder:
            (folder / "a.csv").write_text("x")
            deep = folder.joinpath(*("b" * 250 for _ in range(5)))  # S3 takes names of 1,024 bytes
            deep.mkdir(parents=True)
            (deep / "b.csv").write_text("x")

    with pytest.raises(ScanfleetError):
        broken()
    assert (keys(seaweed_bucket), unfinished(seaweed_bucket)) == ([], [])


@pytest.mark.parametrize(
    "arguments",
    [
        ("--columns", "uri"),
        ("--dotted-names", "--format", "coco"),
        ("--partition-by", "day", "--format", "csv"),
        ("--partition-by", "day", "--format", "xlsx", "-o", "x"),
        ("--spreadsheet", "--format", "parquet"),
    ],
)
def test_options_that_do_not_fit_are_wrong_usage(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert scanfleet("results", "export", *arguments, data_dir=tmp_path).returncode == WRONG_USAGE


def test_a_large_upload_has_at_most_ten_thousand_parts() -> None:
    sizes: list[int] = []

    class Client:
        def create_multipart_upload(self, **_: Any) -> dict[str, str]:
            return {"UploadId": "1"}

        def upload_part(self, **given: Any) -> dict[str, str]:
            sizes.append(len(given["Body"]))
            return {"ETag": "e"}

        def complete_multipart_upload(self, **_: Any) -> None:
            return

    with completed(S3Upload(Client(), "s3://b/k", more={}, part_bytes=1)) as upload:
        upload.write(io.BytesIO(bytes(5000)).getbuffer())
    assert sizes[:1000] == [1] * 1000
    assert sizes[1000:2000] == [2] * 1000
    assert sum(sizes) == 5000
