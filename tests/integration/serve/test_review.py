"""Review by the routes of its page: leases, labels, undo, pictures, rights."""

import io
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from PIL import Image as PillowImage

from scanfleet.db.engine import reading, transaction
from scanfleet.db.labels.labels import iter_current_labels
from scanfleet.db.review import leases
from scanfleet.db.review.miss_rate import miss_rate
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.tables import AccessAudit, Label, ReviewLease, Verdict
from tests.rigs.serve_rig import Served
from tests.rigs.worker_rig import png

TABS = ("0" * 16, "1" * 16)
LONG = timedelta(minutes=5)


@pytest.fixture
def reviewed(api: Served, tmp_path: Path) -> Served:
    """Twelve images with answers, of which eight are flags."""
    files = [tmp_path / "allowed" / f"{n}.png" for n in range(12)]
    for n, file in enumerate(files):
        file.write_bytes(png(n))
    api.rig.scan_listed([NewImage(uri=str(file), root=str(file.parent)) for file in files])
    api.rig.drain()
    with transaction(api.rig.engine) as connection:
        ids = connection.execute(sa.select(Verdict.id).order_by(Verdict.id)).scalars().all()
        for n, verdict in enumerate(ids):
            says = {"decision": "flag", "label": "overlay"} if n < 8 else {"decision": "clear", "label": "none"}
            connection.execute(sa.update(Verdict).where(Verdict.id == verdict).values(says | {"margin": 6.0 - n}))
    return api


def ask(api: Served, headers: dict[str, str], what: str, queue: str = "flagged", **body: Any) -> Any:
    return api.client.post(f"/review/overlay/{queue}/{what}", headers=headers, json={"tab": TABS[0]} | body)


def decide(api: Served, headers: dict[str, str], item: Any, label: str, queue: str = "flagged", **more: Any) -> Any:
    body = {"content": item["content"], "image_id": item["image_id"], "label": label} | more
    return ask(api, headers, "decide", queue, **body)


def test_flags_come_surest_first_and_a_decision_is_a_label_of_what_was_shown(reviewed: Served) -> None:
    headers = reviewed.headers("ana", "review")
    items = ask(reviewed, headers, "take", n=5).json()["items"]
    assert [item["margin"] for item in items] == [6.0, 5.0, 4.0, 3.0, 2.0]
    assert any("no adapter" in doubt for doubt in items[0]["doubts"])  # as everywhere that shows an answer
    assert decide(reviewed, headers, items[1], "none", boxes=["1 2 30 20"]).status_code == 200
    (label,) = iter_current_labels(reviewed.rig.engine, "overlay")
    assert (label.content_sha256, label.label, label.who, label.drawn) == (
        items[1]["content"],
        "none",
        "ana",
        "flagged",
    )
    assert label.shown is not None
    assert (label.shown["label"], label.shown["margin"]) == ("overlay", 5.0)
    assert [(box["x0"], box["y1"]) for box in label.boxes or ()] == [(1, 20)]
    (row,) = reviewed.rig.rows(AccessAudit)
    assert (row.who, row.action, row.subject) == ("ana", "label.add", items[1]["uri"])
    assert {row.content_sha256 for row in reviewed.rig.rows(ReviewLease)} == {
        item["content"] for item in items if item is not items[1]
    }


def test_a_decision_sent_twice_is_one_label(reviewed: Served) -> None:
    headers = reviewed.headers("ana", "review")
    (item,) = ask(reviewed, headers, "take", n=1).json()["items"]
    first, again = (decide(reviewed, headers, item, "overlay").json() for _ in range(2))
    assert first == again
    assert len(reviewed.rig.rows(Label)) == 1


def test_an_undo_is_a_row_of_its_own_and_brings_the_image_back(reviewed: Served) -> None:
    headers = reviewed.headers("ana", "review")
    (item,) = ask(reviewed, headers, "take", n=1).json()["items"]
    given = decide(reviewed, headers, item, "overlay").json()
    theirs = reviewed.client.post("/review/undo", headers=reviewed.headers("bo"), json={"tab": TABS[0]} | given)
    assert theirs.status_code == 404
    for n in (1, 0):
        undone = reviewed.client.post("/review/undo", headers=headers, json={"tab": TABS[0]} | given)
        assert undone.json() == {"undone": n}
    assert [row.undoes for row in reviewed.rig.rows(Label)] == [None, given["label_id"]]
    assert not list(iter_current_labels(reviewed.rig.engine, "overlay"))
    others = ask(reviewed, headers, "take", n=20, tab=TABS[1]).json()["items"]
    assert item["content"] not in {each["content"] for each in others}  # it is before ana again


def test_two_pages_get_no_common_image_until_one_is_skipped(reviewed: Served) -> None:
    headers = reviewed.headers("ana", "review")
    mine = ask(reviewed, headers, "take", n=5).json()["items"]
    theirs = ask(reviewed, headers, "take", n=20, tab=TABS[1]).json()["items"]
    assert len(mine) == 5
    assert len(theirs) == 3
    assert not {each["content"] for each in mine} & {each["content"] for each in theirs}
    assert ask(reviewed, headers, "skip", content=mine[0]["content"]).status_code == 204
    have = [each["content"] for each in mine[1:]]
    assert ask(reviewed, headers, "take", have=have).json()["items"] == []  # not again before the one who skipped it
    assert ask(reviewed, headers, "take", tab=TABS[1], have=[each["content"] for each in theirs]).json()["items"] == [
        mine[0]
    ]


def test_a_page_that_is_loaded_again_gets_what_it_had(reviewed: Served) -> None:
    headers = reviewed.headers("ana", "review")
    assert ask(reviewed, headers, "take", n=3).json() == ask(reviewed, headers, "take", n=3).json()


def test_takers_at_once_share_nothing(api: Served) -> None:
    contents = [f"{n:064x}" for n in range(40)]

    def take(n: int) -> list[str]:
        with transaction(api.rig.engine) as connection:
            order = contents if n % 2 else contents[::-1]
            return leases.take(connection, "overlay", order, holder=str(n), lasts=LONG)

    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(take, range(8)))
    assert sorted(each for some in taken for each in some) == contents


def test_a_lease_that_has_ended_is_anybodys(api: Served) -> None:
    with transaction(api.rig.engine) as connection:
        leases.take(connection, "overlay", ["a", "b"], holder="x", lasts=timedelta(0))
    with transaction(api.rig.engine) as connection:
        assert leases.taken_from(connection, "overlay", holder="y") == set()
        assert leases.take(connection, "overlay", ["b"], holder="y", lasts=LONG) == ["b"]
        assert leases.delete_ended(connection) == 1


def test_an_audit_hides_the_answer_and_estimates_what_was_missed(reviewed: Served) -> None:
    headers = reviewed.headers("ana", "review")
    items = ask(reviewed, headers, "take", "audit", n=10).json()["items"]
    assert len(items) == 4  # those that are clear
    assert not any({"label", "score", "margin", "boxes", "wrong", "decision"} & item.keys() for item in items)
    for item, label in zip(items, ("overlay", "none", "natural", "none"), strict=True):
        assert decide(reviewed, headers, item, label, "audit").status_code == 200
    with reading(reviewed.rig.engine) as connection:
        found = miss_rate(connection, "overlay", flags=("overlay",))
    assert (found.n, found.missed, found.share) == (4, 1, 0.25)
    assert 0 < found.interval[0] < 0.25 < found.interval[1] < 1
    assert "1 of 4 audited images were missed" in reviewed.client.get("/review/overlay/audit", headers=headers).text


@pytest.mark.parametrize("queue", ["uncertain", "disagree"])
def test_other_queues_answer(reviewed: Served, queue: str) -> None:
    items = ask(reviewed, reviewed.headers("ana", "review"), "take", queue, n=3).json()["items"]
    assert [abs(item["margin"]) for item in items] == ([0.0, 1.0, 1.0] if queue == "uncertain" else [])


def test_a_picture_is_drawn_anew_and_kept(reviewed: Served, tmp_path: Path) -> None:
    headers = reviewed.headers("ana", "review")
    (item,) = ask(reviewed, headers, "take", n=1).json()["items"]
    first = reviewed.client.get(item["picture"], headers=headers)
    assert first.headers["content-type"] == "image/webp"
    assert PillowImage.open(io.BytesIO(first.content)).size == (40, 30)
    Path(item["uri"]).unlink()
    assert reviewed.client.get(item["picture"], headers=headers).content == first.content
    assert reviewed.client.get(item["picture"].replace("1280", "9000"), headers=headers).status_code == 404


def test_a_file_that_has_changed_since_gets_no_label(reviewed: Served) -> None:
    headers = reviewed.headers("ana", "review")
    (item,) = ask(reviewed, headers, "take", n=1).json()["items"]
    Path(item["uri"]).write_bytes(png(99))
    refused = decide(reviewed, headers, item, "overlay")
    assert refused.status_code == 422, refused.text
    assert reviewed.rig.rows(Label) == []


def test_without_the_scope_nothing_is_shown_or_decided(reviewed: Served) -> None:
    headers = reviewed.headers("ana", "review")
    (item,) = ask(reviewed, headers, "take", n=1).json()["items"]
    reader = reviewed.headers("reader", "read", "score")
    assert decide(reviewed, reader, item, "overlay").status_code == 403
    assert reviewed.client.get(item["picture"], headers=reader).status_code == 403
    assert reviewed.client.get("/review/overlay/flagged", headers=reader).status_code == 403
    assert decide(reviewed, {}, item, "overlay").status_code == 401
    assert reviewed.rig.rows(Label) == []


@pytest.mark.parametrize("name", ["/review/nothing/flagged", "/review/overlay/nothing", "/review/a.toml/flagged"])
def test_an_unknown_name_is_not_found(reviewed: Served, name: str) -> None:
    assert reviewed.client.get(name, headers=reviewed.headers("ana", "review")).status_code == 404
