"""What `scanfleet serve` deletes by itself, and what it leaves."""

import os
from datetime import timedelta

import sqlalchemy as sa

from scanfleet.db.engine import now, transaction
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.tables import Scan
from scanfleet.serve.upkeep import clear
from tests.rigs.serve_rig import Served
from tests.rigs.worker_rig import png


def test_requests_and_uploads_that_were_kept_long_enough_go_and_nothing_else_does(api: Served) -> None:
    api.rig.scan_listed([NewImage(uri="/none/1", root="/none")])
    headers, settings = api.headers("ci", "score"), api.serving.settings
    for number in range(2):
        api.asked(headers, files={"image": png(number)})
    assert clear(api.serving) == 0
    (folder,) = (settings.data_dir / "uploads").iterdir()
    old = folder.with_name("2001-02-03")
    old.mkdir()
    for name in ("0" * 64, "thesis.tex"):
        (old / name).write_bytes(b"x")
    (empty := folder.with_name("2001-02-04")).mkdir()
    (empty / ("f" * 64)).write_bytes(b"x")
    with transaction(api.rig.engine) as connection:
        long_ago = now(connection) - timedelta(hours=settings.serve_keep_hours + 1)
        connection.execute(sa.update(Scan).values(finished_at=long_ago, state="done"))
        first = connection.execute(sa.select(Scan.id).where(Scan.kind == "request").limit(1)).scalar_one()
        connection.execute(sa.update(Scan).where(Scan.id == first).values(finished_at=now(connection)))
    assert clear(api.serving) == 1
    with transaction(api.rig.engine) as connection:
        left = connection.execute(sa.select(Scan.id, Scan.kind)).all()
    assert {(row.id if row.kind else None, row.kind) for row in left} == {(first, "request"), (None, None)}
    assert len(list(folder.iterdir())) == 2
    assert os.listdir(old) == ["thesis.tex"]
    assert not empty.exists()
