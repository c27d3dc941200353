"""`/v1/scans`: archives that are begun over HTTP."""

import threading
from pathlib import Path

from scanfleet.db.tables import AccessAudit
from tests.rigs.serve_rig import Served
from tests.rigs.worker_rig import png


def test_an_archive_is_listed_scored_and_recorded(api: Served, tmp_path: Path) -> None:
    folder = tmp_path / "allowed"
    for number in range(3):
        (folder / f"{number}.png").write_bytes(png(number))
    headers = api.headers("ops", "score", "read")
    begun = api.client.post("/v1/scans", headers=headers, json={"sources": [str(folder)], "checks": ["overlay"]})
    assert begun.status_code == 202, begun.text
    (scan,) = begun.json()["data"]
    for thread in threading.enumerate():
        if thread.name == "listing":
            thread.join(60)
    api.rig.drain()
    shown = api.client.get(f"/v1/scans/{scan['id']}", headers=headers).json()
    assert (shown["state"], shown["progress"]["n_verdicts"]) == ("done", 3)
    (row,) = api.rig.rows(AccessAudit)
    assert (row.who, row.action, row.subject, row.detail) == (
        "ops",
        "scan.begin",
        scan["id"],
        {"sources": [str(folder)]},
    )


def test_an_archive_that_is_not_listed_in_the_settings_is_not_begun(api: Served, tmp_path: Path) -> None:
    headers = api.headers("ops", "score")
    refused = api.client.post("/v1/scans", headers=headers, json={"sources": [str(tmp_path)]})
    assert (refused.status_code, api.rig.rows(AccessAudit)) == (422, [])
    assert "serve_sources" in refused.json()["detail"]
