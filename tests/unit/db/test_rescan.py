"""`scanfleet rescan` as a person meets it, and the arithmetic behind it."""

import csv
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from scanfleet.db.engine import transaction
from scanfleet.db.results.rescans import edges
from scanfleet.db.scans import retries
from scanfleet.db.tables import Scan
from scanfleet.db.training import champions
from scanfleet.errors import RequestError, UnknownName
from scanfleet.producer.cli.main import cli
from scanfleet.producer.scans.rescan_plan import Request
from scanfleet.queue.app import make_app
from tests.rigs.rescan_rig import QUEUE, Archive, archive, uri
from tests.rigs.worker_rig import png, rig


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Archive]:
    with archive(tmp_path) as made:
        yield made


def rescan(held: Archive, *arguments: str) -> Result:
    """In this process: a start of Python for each of them takes longer than all the rest."""
    return CliRunner().invoke(cli, ["--data-dir", os.fspath(held.settings.data_dir), "rescan", *arguments])


def halves(name: str) -> float:
    return 0.5 if int(name[-5:]) < 5 else 3.0


def test_from_the_dry_run_to_the_report(held: Archive, tmp_path: Path) -> None:
    held.promote("one")
    root = held.scan(20, halves)
    held.promote("two")
    previewed = rescan(held, root, "--dry-run", "--audit", "4")
    assert previewed.exit_code == 0
    for line in (
        "can change       5",
        "audit sample     4 of 15 others",
        "near             within 1.00 logits; the default",
    ):
        assert line in previewed.stdout
    begun = rescan(held, root, "--audit", "4")
    assert begun.exit_code == 0
    name = begun.stdout.strip()
    assert held.info(name).rescan_of == root
    for words in (
        "5 answers can change, audit sample: 4 of 15 others",
        "within 1.00 logits of a threshold; the default",
    ):
        assert words in begun.stderr
    assert "scanfleet worker score --model fake" in begun.stderr
    held.work(lambda _: 3.0, failing=[uri(0)])

    again = rescan(held, root, "--audit", "4", "--wait")
    assert again.stdout.strip() == name
    assert f"nothing new: rescan {name} is done" in again.stderr
    assert "4 of 8 decisions flipped" in again.stderr

    table = rescan(held, root, "--report")
    assert table.exit_code == 0
    for words in (
        "8 answers renewed",
        "0 of 4 decisions flipped (0.0%; 95 % interval 0.0% to 49.0%)",
        "about 0, at most 6, of the 11 not scored again would flip",
        "review overlay",
    ):
        assert words in table.stdout
    assert "1 image failed this time and kept the old answer" in table.stderr

    record = json.loads(rescan(held, name, "--report", "--format", "json").stdout)
    assert (record["rescan"], record["renews"], record["renewed"], record["failed"]) == (name, root, 8, 1)
    assert record["decisions"] == [
        {"old": "flag", "new": "flag", "images": 4},
        {"old": "review", "new": "flag", "images": 4},
    ]
    assert record["audit"]["decision"]["at_most"] == 6
    file = tmp_path / "flips.csv"
    assert rescan(held, root, "--report", "--format", "csv", "-o", os.fspath(file)).exit_code == 0
    rows = list(csv.DictReader(io.StringIO(file.read_text())))
    assert (
        [row["uri"] for row in rows]
        == [uri(number) for number in range(1, 5)]
        == [flip["uri"] for flip in record["flips"]]
    )
    assert {(row["old_margin"], row["new_margin"], row["old_decision"], row["new_decision"]) for row in rows} == {
        ("0.5", "3.0", "review", "flag")
    }


@pytest.mark.parametrize(
    ("gate", "arguments", "words"),
    [
        ({"figures": {"margin_move_p90": 8.0}}, (), "8.00 logits; nine in ten margins moved less"),
        ({"figures": {"margin_move_p90": 8.0}}, (), "nearly everything: the two models' margins differ too much"),
        ({"figures": {"margin_move_p90": 0.5}}, (), "nearly everything: most of it is the audit sample"),
        (None, ("--band", "5"), "nearly everything: most answers are `review` or within the band"),
    ],
)
def test_a_selection_of_nearly_everything_is_called_so(
    held: Archive, gate: dict[str, Any] | None, arguments: tuple[str, ...], words: str
) -> None:
    held.promote("one")
    root = held.scan(20, halves)
    held.promote("two", gate=gate)
    said = rescan(held, root, "--dry-run", *arguments)
    assert words in said.stdout + said.stderr
    for spared in (("--all",), ("--band", "0.5", "--audit", "12")):  # 17 of 20
        assert "nearly everything" not in rescan(held, root, "--dry-run", *spared).stderr
    assert "nearly everything" in rescan(held, root, "--dry-run", "--band", "0.5", "--audit", "13").stderr


def test_shown_on_both_scans(held: Archive) -> None:
    held.promote("one")
    root = held.scan(4, halves)
    held.promote("two")
    name = held.rescan(root)
    held.work(lambda _: 3.0)
    runner, start = CliRunner(), ["--data-dir", os.fspath(held.settings.data_dir), "scans"]
    assert f"renewed  by {name}" in runner.invoke(cli, [*start, "show", root]).stdout
    assert f"renews   {root}" in runner.invoke(cli, [*start, "show", name]).stdout
    record = json.loads(runner.invoke(cli, [*start, "show", root, "--format", "json"]).stdout)
    assert (record["rescans"], record["flagged"], record["review"]) == ([name], 4, 0)
    assert record["answers"] == [{"decision": "flag", "label": "overlay", "images": 4}]
    listed = {each["scan"]: each for each in json.loads(runner.invoke(cli, [*start, "ls", "--format", "json"]).stdout)}
    assert (listed[name]["rescan_of"], listed[root]["rescan_of"]) == (root, None)
    assert (listed[root]["flagged"], listed[root]["review"]) == (4, 0)


def test_where_there_is_nothing_to_do_it_says_why_and_writes_nothing(held: Archive) -> None:
    held.promote("one")
    root = held.scan(4, lambda _: 3.0)
    empty = held.scan(1, halves, failing=[uri(0)])
    for scan, words in (
        (root, f"scan {root} has 4 answers, all by the current champion"),
        (empty, "has no answer yet"),
    ):
        said = rescan(held, scan)
        assert (said.exit_code, said.stdout) == (0, "")
        assert re.search(words, said.stderr)
    held.promote("two")
    said = rescan(held, root, "--audit", "0")
    assert "4 answers of scan" in said.stderr
    assert "cannot change" in said.stderr
    with transaction(held.engine) as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(Scan)).scalar_one() == 2


def test_what_cannot_be_done_is_refused_in_one_line(held: Archive) -> None:
    held.promote("one")
    root = held.scan(4, halves, failing=[uri(0)])
    assert isinstance(rescan(held, "nonsense").exception, UnknownName)
    never = rescan(held, root, "--report").exception
    assert isinstance(never, RequestError)
    assert "never rescanned" in str(never)
    for arguments in (
        ("--all", "--band", "1"),
        ("--all", "--audit", "1"),
        ("--audit", "1.5"),
        ("--audit", "many"),
        ("--format", "json"),
        ("--report", "-o", "table.txt"),
    ):
        assert rescan(held, root, *arguments).exit_code == 2
    with transaction(held.engine) as connection:
        retries.retry_failures(connection, root)
    running = rescan(held, root).exception
    assert isinstance(running, RequestError)
    assert "is still running" in str(running)


@pytest.mark.parametrize(
    ("n_rest", "audit", "size"),
    [(3000, None, 150), (50, None, 50), (300, None, 100), (10**7, None, 2000), (10, 0.5, 5), (10, 99, 10), (10, 0, 0)],
)
def test_how_large_the_audit_is(n_rest: int, audit: float | None, size: int) -> None:
    assert Request(audit=audit).audit_size(n_rest) == size


def test_where_a_decision_changes() -> None:
    assert edges({"review": -1.0, "flag": 2.0}, {"a": 2.0, "b": 1.0}) == [-1.0, 2.0]
    assert edges({"review": None, "flag": 2.0}, None) == [2.0]
    assert edges({"review": None, "flag": None}, None) == []
    assert edges(None, {"a": 2.0, "b": 1.0}) == [-0.5]
    assert edges(None, None) == [0.0]


def test_a_real_worker_renews_the_answers_of_a_champion_that_was_rolled_back(tmp_path: Path) -> None:
    """Up to the pipeline: adapter one answered, the base alone answers again."""
    with rig(tmp_path, batch_images=4) as fleet, make_app(fleet.settings, (QUEUE,)) as app:
        held = Archive(fleet.settings, fleet.engine, app)
        contents = {f"mem://a/{number}.png": png(number) for number in range(9)}
        held.promote("one")
        root = fleet.scan(contents)
        held.work(lambda _: 7.0)
        with transaction(fleet.engine) as connection:
            champions.roll_back(connection, held.check.name, "fake", why="worse", who=None)
        name = held.rescan(root, everything=True)
        fleet.drain()
        assert held.info(name).state == "done"
        assert held.margins(root) == held.margins(name) == fleet.margins(name)
        assert set(held.margins(root).values()).isdisjoint({7.0})
