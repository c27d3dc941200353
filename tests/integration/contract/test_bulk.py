"""Many rows in one statement are the rows of many statements, on SQLite and PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from scanfleet.checks.check import load_check
from scanfleet.config.settings import load_settings
from scanfleet.db.bulk import insert_columns
from scanfleet.db.engine import connect, reading, transaction
from scanfleet.db.scans import new_images, scans
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.tables import Image
from tests.helpers.migrated import upgrade

NAMES = ("plain", 'quo"ted', "back\\slash", "{a,b}", "NULL", "new\nline", "é✓", "")
META = (None, {"campaign": "spring", "n": 3}, {}, {"null": None, "list": [1, "a"]})


@pytest.fixture
def engine(database_url: str, tmp_path: Path) -> Iterator[sa.Engine]:
    engine = connect(load_settings(database_url=database_url, data_dir=tmp_path, model="fake"))
    upgrade(engine)
    yield engine
    engine.dispose()


def test_rows_are_those_of_single_inserts(engine: sa.Engine) -> None:
    check = load_check("overlay")
    fields = [column.name for column in Image.__table__.c if column.name not in ("id", "scan_id", "batch_id")]
    found = []
    for fresh in (False, True):
        with transaction(engine) as connection:
            scan, _ = scans.open_scan(connection, check=check, model="fake", sources=["/a"], filters={}, fresh=fresh)
            image = NewImage(uri="/a/first", root="/a")
            (batch,) = new_images.add_images(connection, scan_id=scan.id, queue="q", images=[image], batch_images=1)
            connection.execute(sa.delete(Image).where(Image.scan_id == scan.id))
            rows = [
                {"identity": str(number), "scan_id": scan.id, "batch_id": batch, "state": "pending", "uri": name,
                 "root": None if number % 2 else name, "meta": META[number % len(META)], "size": number or None}
                for number, name in enumerate(NAMES)
            ]  # fmt: skip
            if fresh:
                insert_columns(connection, Image, {name: [row[name] for row in rows] for name in rows[0]})
            else:
                for row in rows:
                    connection.execute(sa.insert(Image).values(row))
        columns = [Image.__table__.c[name] for name in fields]
        with reading(engine) as connection:
            query = sa.select(*columns, sa.cast(Image.meta, sa.Text)).where(Image.scan_id == scan.id)
            found.append(connection.execute(query.order_by(Image.identity)).all())
    assert found[0] == found[1]
    assert len(found[1]) == len(NAMES)
