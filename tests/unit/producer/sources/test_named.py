"""Images named on a command line: a lazy stream that a bad name does not end."""

from pathlib import Path

import pytest

from scanfleet.config.settings import load_settings
from scanfleet.errors import BadSource, EmptySource, SourceNotFound, WorkerDied
from scanfleet.producer.cli.tables import SAMPLE_ROWS, StreamedTable
from scanfleet.producer.local.child import Child, ChildFailed
from scanfleet.producer.sources.named import NamedImages


def test_bad_names_are_kept_and_the_others_continue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.txt").write_text("b.jpg\n")
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"1")
    named = NamedImages(["gone", "a.jpg", "", "empty", "list.txt"], load_settings(data_dir=tmp_path))
    assert [Path(image.uri).name for image in named] == ["a.jpg", "b.jpg"]
    assert [type(fault) for fault in named.errors] == [SourceNotFound, BadSource, EmptySource]


def test_a_list_in_utf_16_on_stdin_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "list.txt").write_text("a.jpg\nb.jpg\n", "utf-16")
    with (tmp_path / "list.txt").open() as file:
        monkeypatch.setattr("sys.stdin", file)
        named = NamedImages(["-"], load_settings(data_dir=tmp_path))
        assert list(named) == []
    assert ["UTF-16" in str(fault) for fault in named.errors] == [True]


def test_the_stream_is_lazy(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"1")
    named = NamedImages([str(tmp_path / "a.jpg"), "gone"], load_settings(data_dir=tmp_path))
    stream = iter(named)
    assert Path(next(stream).uri).name == "a.jpg"
    assert not named.errors
    assert next(stream, None) is None
    assert len(named.errors) == 1


def test_a_table_prints_its_rows_as_they_come(capsys: pytest.CaptureFixture[str]) -> None:
    table = StreamedTable(("file", "margin"), numbers=("margin",))
    for number in range(SAMPLE_ROWS - 1):
        table.add((f"{number}.jpg", 1.5))
    assert capsys.readouterr().out == ""
    table.add(("long name.jpg", -10.25))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "file             margin"
    assert len(lines) == SAMPLE_ROWS + 1
    assert len(set(map(len, lines))) == 1
    table.add(("x\n.jpg", None))
    assert capsys.readouterr().out == "x\\n.jpg               -\n"
    table.end()
    assert capsys.readouterr().out == ""


def test_a_table_of_nothing_is_nothing_and_a_short_one_ends(capsys: pytest.CaptureFixture[str]) -> None:
    StreamedTable(("file",)).end()
    assert capsys.readouterr().out == ""
    table = StreamedTable(("file",))
    table.add(("a",))
    table.end()
    assert capsys.readouterr().out.splitlines() == ["file", "a"]


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("raise SystemExit(3)", WorkerDied, "exit code 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", WorkerDied, "killed by signal 9"),
        ("""print('{"kind": "fault", "words": "no such thing", "exit_code": 17}')""", ChildFailed, "no such thing"),
    ],
)
def test_a_child_that_ends_early_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, error: type[Exception], words: str
) -> None:
    (tmp_path / "odd_child.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Child(load_settings(data_dir=tmp_path), "odd_child") as child:
        child.feed({"n": number} for number in range(100_000))
        with pytest.raises(error, match=words) as caught:
            list(child.messages())
    if isinstance(caught.value, ChildFailed):
        assert caught.value.exit_code == 17


def test_what_breaks_while_a_child_is_fed_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd_child.py").write_text("import sys; sys.stdin.read()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Child(load_settings(data_dir=tmp_path), "odd_child") as child:
        child.feed({"n": 1 // number} for number in (1, 0))
        with pytest.raises(ZeroDivisionError):
            list(child.messages())
