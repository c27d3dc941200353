"""`/v1/analyze`: the answers of bulk scans, the limits, and what is never an answer."""

import base64
from pathlib import Path

import pytest
import sqlalchemy as sa

from scanfleet.db.engine import transaction
from scanfleet.db.results.results import ResultFilter, iter_results
from scanfleet.db.scans.batches import claim
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.scans.scans import list_scans
from scanfleet.db.tables import Batch, Scan, Verdict
from tests.rigs.serve_rig import Served
from tests.rigs.worker_rig import plain, png

SAME = ("margin", "label", "decision", "score", "mass", "width", "height")


@pytest.mark.parametrize("way", ["form", "base64", "uri"])
def test_an_answer_is_that_of_a_bulk_scan(api: Served, tmp_path: Path, way: str) -> None:
    data = png(3)
    file = tmp_path / "allowed" / "a.png"
    file.write_bytes(data)
    sent = {
        "form": {"files": {"image": data}, "data": {"checks": "overlay,razor"}},
        "base64": {"json": {"image": base64.b64encode(data).decode(), "checks": ["overlay", "razor"]}},
        "uri": {"json": {"uri": str(file), "checks": ["overlay", "razor"]}},
    }[way]
    answer = api.asked(api.headers("ci", "score"), **sent)
    assert answer.status_code == 200, answer.text
    with transaction(api.rig.engine) as connection:  # else the bulk scan would take the answer over
        connection.execute(sa.update(Verdict).values(identity="x", content_sha256="x"))
    bulk = api.rig.scan_listed([NewImage(uri=str(file), root=str(file.parent))])
    api.rig.drain()
    (found,) = iter_results(api.rig.engine, ResultFilter(scan=bulk))
    first = answer.json()["verdicts"][0]
    assert [verdict["check"] for verdict in answer.json()["verdicts"]] == ["overlay", "razor"]
    assert not found.reused
    assert found.scorer is not None
    assert first["scorer"]["key"] == found.scorer.key
    assert {name: first[name] for name in SAME} == {name: getattr(found, name) for name in SAME}


def test_a_worker_claims_a_request_before_the_batch_that_it_was_told_of(api: Served) -> None:
    bulk = api.rig.scan_listed([NewImage(uri=f"/none/{n}", root="/none") for n in range(4)], batch_images=2)
    api.client.post("/v1/analyze?wait=0", headers=api.headers("ci", "score"), files={"image": png(1)})
    with transaction(api.rig.engine) as connection:
        told = connection.execute(sa.select(Batch.id).where(Batch.scan_id == bulk).order_by(Batch.id)).scalars().all()
        claims = [claim(connection, model="fake", worker="w", lease_seconds=60, notified=told[1]) for _ in range(3)]
        urgent = connection.execute(sa.select(Batch.id).where(Batch.urgent)).scalar_one()
    assert [each and each.batch_id for each in claims] == [urgent, told[1], told[0]]


def test_requests_are_not_among_the_scans(api: Served) -> None:
    bulk = api.rig.scan_listed([NewImage(uri="/none/1", root="/none")])
    api.asked(api.headers("ci", "score"), files={"image": png(1)})
    with transaction(api.rig.engine) as connection:
        assert [scan.id for scan in list_scans(connection)] == [bulk]
        assert connection.execute(sa.select(sa.func.count()).select_from(Scan)).scalar_one() == 2


@pytest.mark.parametrize(("data", "reason"), [(b"no image", "not_an_image"), (plain(1500, 1500), "too_many_pixels")])
def test_what_cannot_be_decoded_is_an_error_and_no_verdict(api: Served, data: bytes, reason: str) -> None:
    answer = api.asked(api.headers("ci", "score"), files={"image": data})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["failure"]["reason"] == reason
    assert [verdict["decision"] for verdict in answer.json()["verdicts"]] == [None]


def test_without_a_worker_the_answer_is_503_and_says_where_to_ask_again(api: Served) -> None:
    answer = api.client.post("/v1/analyze?wait=0", headers=api.headers("ci", "score"), files={"image": png(1)})
    assert answer.status_code == 503
    assert "no live worker" in answer.json()["detail"]
    assert "verdicts" not in answer.json()
    assert answer.headers["location"] == answer.json()["url"]


def test_a_request_waits_for_its_answer(api: Served) -> None:
    """The pipeline scores while the request waits: `wait` ends with the last batch, not with its time."""
    import threading

    from scanfleet.serve import waiting

    asked = threading.Event()
    real = waiting.open_batches

    def seen(engine: sa.Engine, batch_ids: object) -> object:
        asked.set()
        return real(engine, batch_ids)  # type: ignore[arg-type]

    def work() -> None:
        asked.wait(60)
        api.rig.drain()

    waiting.open_batches = seen  # type: ignore[assignment]
    try:
        worker = threading.Thread(target=work)
        worker.start()
        answer = api.client.post("/v1/analyze?wait=300", headers=api.headers("ci", "score"), files={"image": png(1)})
        worker.join()
    finally:
        waiting.open_batches = real
    assert answer.status_code == 200


def test_more_bytes_than_allowed_are_refused(api: Served) -> None:
    headers = api.headers("ci", "score")
    most = api.rig.settings.max_image_bytes
    little_more = api.client.post("/v1/analyze", headers=headers, files={"image": b"x" * (most + 1)})
    far_more = api.client.post("/v1/analyze", headers=headers, content=b"x" * (2 * most))
    pieces = (b"x" * 50_000 for _ in range(10))  # without a length
    streamed = api.client.post("/v1/analyze", headers=headers | {"content-type": "application/json"}, content=pieces)
    assert [each.status_code for each in (little_more, far_more, streamed)] == [413, 413, 413]


@pytest.mark.parametrize(
    "uri",
    [
        "/etc/passwd",
        "ALLOWED/../../etc/passwd",
        "ALLOWED/link",
        "file:///etc/passwd",
        "s3://ads/2027/a.png",
        "s3://ads/2026x/a.png",
        "https://169.254.169.254/latest",
        "https://localhost/a.png",
        "https://img.example.com.evil.com/a.png",
        "https://user:pw@img.example.com/a.png",
        "http://img.example.com/a.png",
        "gopher://img.example.com/a.png",
    ],
)
def test_other_addresses_are_refused_before_anything_is_written(api: Served, tmp_path: Path, uri: str) -> None:
    allowed = tmp_path / "allowed"
    (allowed / "link").symlink_to("/etc/passwd")
    uri = uri.replace("ALLOWED", str(allowed))
    headers = api.headers("ci", "score", "review")
    one = api.client.post("/v1/analyze", headers=headers, json={"uri": uri})
    label = api.client.post("/v1/labels", headers=headers, json={"uri": uri, "check": "overlay", "label": "overlay"})
    scan = api.client.post("/v1/scans", headers=headers, json={"sources": [uri]})
    assert [each.status_code for each in (one, label, scan)] == [422, 422, 422], (one.text, label.text, scan.text)
    with transaction(api.rig.engine) as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(Scan)).scalar_one() == 0


@pytest.mark.parametrize("uri", ["s3://ads/2026/a.png", "https://img.example.com/a.png"])
def test_listed_addresses_are_taken(api: Served, uri: str) -> None:
    answer = api.client.post("/v1/analyze?wait=0", headers=api.headers("ci", "score"), json={"uri": uri})
    assert answer.json()["url"].startswith("/v1/analyze/")


def test_detect_takes_checks_with_boxes_alone(api: Served) -> None:
    headers = api.headers("ci", "score")
    refused = api.client.post("/v1/detect", headers=headers, files={"image": png(1)}, data={"checks": "flowers"})
    assert refused.json()["type"] == "no-boxes"
