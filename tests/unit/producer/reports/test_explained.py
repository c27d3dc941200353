"""The text of an explanation is a stranger's: what terminals, pages, tables and spreadsheets make of it."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from scanfleet.checks.check import Check
from scanfleet.checks.explanation import Explanation
from scanfleet.db.engine import transaction
from scanfleet.db.results.results import Result, ResultFilter, iter_results
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.tables import Batch, Verdict
from scanfleet.producer.cli.scans.results import echo_results
from scanfleet.producer.reports.contact_sheet import write_report
from scanfleet.producer.reports.export import FORMATS, write_results
from scanfleet.producer.reports.output import escaped
from scanfleet.producer.reports.sheet.cards import make_card
from scanfleet.producer.reports.sheet.pictures import Picture
from scanfleet.storage.folder import FolderStore
from tests.rigs.worker_rig import png, rig

HOSTILE = '=HYPERLINK("http://evil","x")\n<script>alert(1)</script>\x1b[2J\N{RIGHT-TO-LEFT OVERRIDE}end'
CHECK = Check(name="guns", prompt="Is there a gun?", labels=("gun", "none"), flags=("gun",), explain=True)


def result(explanation: Explanation | None) -> Result:
    given: dict[str, Any] = dict.fromkeys(("root", "etag", "size", "width", "height", "content_sha256", "meta"))
    more = {"scan": "s", "check": "guns", "model": "m", "uri": "/b.jpg", "state": "verdict", "decision": "flag"}
    return Result(image_id=2, explanation=explanation, **given, **more)


def written(form: str, explanation: Explanation | None, **how: Any) -> str:
    file = io.BytesIO()
    write_results([result(explanation)], file, form=form, **how)
    return file.getvalue().decode("utf-8-sig")


def test_a_spreadsheet_runs_no_text_and_a_program_gets_it_as_it_is() -> None:
    (row,) = csv.DictReader(io.StringIO(written("csv", Explanation(text=HOSTILE), spreadsheet=True), newline=""))
    assert row["explanation"] == f"'{HOSTILE}"
    (row,) = csv.DictReader(io.StringIO(written("csv", Explanation(text=HOSTILE)), newline=""))
    assert (row["explanation"], row["explanation_problem"]) == (HOSTILE, "")
    (record,) = json.loads(written("json", Explanation(text=HOSTILE)))
    assert record["explanation"] == HOSTILE


def test_every_form_has_both_keys_and_why_there_is_none() -> None:
    for form in set(FORMATS) - {"labelstudio", "parquet", "csv"}:
        assert '"explanation": null, "explanation_problem": "away"' in written(form, Explanation(problem="away"))
        assert '"explanation": null, "explanation_problem": null' in written(form, None)


def test_a_terminal_shows_it_in_one_line_without_its_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    echo_results([result(Explanation(text=HOSTILE))])
    header, line = capsys.readouterr().out.splitlines()
    assert header.split()[-2:] == ["explanation", "uri"]
    assert line.endswith(r'<script>alert(1)</script>\x1b[2J\u202eend"  /b.jpg')
    assert escaped(written("jsonl", Explanation(text=HOSTILE))).count("\n") == 1
    assert escaped(written("jsonl", Explanation(text=HOSTILE))).isascii()
    echo_results([result(Explanation(problem="away"))])
    assert "none: away" in capsys.readouterr().out
    echo_results([result(None)])
    assert "explanation" not in capsys.readouterr().out


def test_a_page_shows_it_as_text(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}.png").write_bytes(png(number))
    with rig(tmp_path / "data", real_stores=True) as worker:
        listed = FolderStore(folder).list(str(folder))
        images = [NewImage(uri=info.uri, root=str(folder), etag=info.etag) for info in listed]
        scan = worker.scan_listed(images, check=CHECK)
        worker.drain()
        with transaction(worker.engine) as connection:
            said, unsaid = (Explanation(text=HOSTILE), Explanation(problem="<b>away</b>"))
            first, *_ = iter_results(worker.engine, ResultFilter(scan=scan, decision="flag"))
            connection.execute(Verdict.__table__.update().values(explanation=unsaid.record()))
            of_first = Verdict.__table__.update().where(Verdict.image_id == first.image_id)
            connection.execute(of_first.values(explanation=said.record()))
            connection.execute(Batch.__table__.update().values(tally=None))
        write_report(worker.engine, worker.settings, scan, tmp_path / "sheet.html")
    page = (tmp_path / "sheet.html").read_text()
    assert "<script>alert" not in page
    assert page.count("the model says: <q>=HYPERLINK(&#34;http://evil&#34;") == 1
    assert page.count("no explanation") > 1
    assert re.search(r"No explanation for \d flagged images?: &lt;b&gt;away", page)
    assert page.count("&lt;b&gt;away") == 1  # not on each card


def test_a_card_says_why_there_is_none_unless_the_page_does() -> None:
    given = result(Explanation(problem="away"))
    for known, problem in (((), "away"), (("gone",), "away"), (("away",), None)):
        assert make_card(given, Picture(), truth=None, said=None, fault=None, known=known).problem == problem
