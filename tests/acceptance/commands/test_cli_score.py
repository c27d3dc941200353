"""`scanfleet score` as a process: the answers of a run without its ledger, and an exit code for everything else."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image as PillowImage

from tests.helpers.cli_call import scanfleet
from tests.helpers.cli_process import COMMAND, environment, start
from tests.helpers.cli_process import scanfleet as process

LETHAL = (1, 2, 3)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def draw(file: Path, number: int) -> Path:
    file.parent.mkdir(exist_ok=True)
    PillowImage.new("RGB", (40 + number, 30), (9 * number % 256, 90, 30)).save(file)
    return file


def records(text: str) -> dict[str, dict[str, Any]]:
    return {record["uri"]: record for record in map(json.loads, text.splitlines())}


def until_printed(process: subprocess.Popen[str], words: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return
    pytest.fail(f"it never said {words!r}")


def assert_gone(family: list[psutil.Process]) -> None:
    gone, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    assert gone


def test_it_gives_the_answers_of_a_run_and_keeps_nothing(data: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures ü"
    for number in range(5):
        draw(pictures / f"{number}.png", number)
    scored = scanfleet("score", pictures, "--json", data_dir=data, cwd=data, model="fake")
    assert (scored.returncode, scored.stderr) == (0, "")
    assert not list(data.iterdir())
    run = scanfleet("run", pictures, "--check", "overlay", data_dir=data, model="fake")
    assert run.returncode == 0, run.stderr
    kept = records(scanfleet("results", "export", data_dir=data).stdout)
    here = records(scored.stdout)
    assert set(here) == set(kept)
    assert len(here) == 5
    for uri, record in here.items():
        names = set(record) - {"scorer"}
        assert {name: record[name] for name in names} == {name: kept[uri][name] for name in names}
        assert record["scorer"].items() <= kept[uri]["scorer"].items()


def test_json_is_one_list(data: Path, tmp_path: Path) -> None:
    names = [draw(tmp_path / name, 1).name for name in ("a.png", "b.png")]
    answer = scanfleet("score", *names, "--format", "json", data_dir=data, cwd=tmp_path, model="fake")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert [Path(record["uri"]).name for record in json.loads(answer.stdout)] == names


@pytest.mark.slow
def test_stderr_is_ours_alone(data: Path, tmp_path: Path) -> None:
    """In a precision that loads every library which has something to say."""
    draw(tmp_path / "a.png", 1)
    answer = process("score", "a.png", data_dir=data, cwd=tmp_path, model="pocket", precision="nf4")
    assert answer.returncode == 0, answer.stderr
    scorer, caveat = answer.stderr.splitlines()
    assert scorer.startswith("scanfleet: pocket (nf4), ")
    assert caveat.startswith("scanfleet: the built-in model pocket has seen generated pictures only")


def test_what_is_wrong_with_some_is_reported_and_the_others_are_scored(data: Path, tmp_path: Path) -> None:
    draw(tmp_path / "a.png", 1)
    draw(tmp_path / "b.png", 2)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 and then nothing")
    (tmp_path / "empty").mkdir()
    names = ("a.png", "gone.png", "broken.jpg", "empty", "s.docx", "b.png")
    (tmp_path / "s.docx").write_bytes(b"PK")
    answer = scanfleet("score", *names, data_dir=data, cwd=tmp_path, model="fake")
    assert answer.returncode == 20
    header, *rows = answer.stdout.splitlines()
    assert header.split() == ["file", "decision", "label", "score", "margin", "mass"]
    assert [row.split()[0] for row in rows] == ["a.png", "b.png"]
    said = "\n".join(sorted(answer.stderr.splitlines()))
    assert said.count("\n") == 5
    for words in (
        "scanfleet: no such folder or file: gone.png",
        f"scanfleet: no images found in {tmp_path / 'empty'} (files with .jpg",
        "scanfleet: s.docx is neither a folder nor an image nor a manifest",
        "scanfleet: broken.jpg: decode: not_an_image: ",
        "scanfleet: 1 of 3 images could not be scored",
        "scanfleet: fake (fp32), no adapter: margins are not calibrated, there is no score",
    ):
        assert words in said


def test_a_list_on_stdin_is_scored_in_its_order(data: Path, tmp_path: Path) -> None:
    names = [draw(tmp_path / f"{number}.png", number).name for number in range(20)]
    names.insert(7, "gone.png")
    names.insert(9, "nowhere/at/all.png")
    answer = subprocess.run(
        [*COMMAND, "score", "-", "--jsonl"],
        input="".join(f"{name}\n" for name in names),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(data, model="fake"),
        timeout=120,
        check=False,
    )
    assert answer.returncode == 20
    told = [json.loads(line) for line in answer.stdout.splitlines()]
    assert [record["uri"] for record in told] == [str(tmp_path / name) for name in names]
    assert told[9]["failure"]["reason"] == "gone"
    assert told[7]["failure"] == {"stage": "fetch", "reason": "gone", "detail": "the file no longer exists"}
    assert {len(record) for record in told} == {len(told[0])}
    assert "scanfleet: gone.png: fetch: gone: the file no longer exists" in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("none.png",), 14, "no such folder or file: none.png"),
        (("empty",), 16, "empty"),
        (("https://b/k?X-Amz-Signature=geheim1",), 13, "presigned"),
        (("a.png", "--check", "nope"), 17, "no built-in check 'nope'"),
        (("a.png", "--model", "pockt"), 10, "'pockt' is unknown (did you mean pocket?)"),
        (("a.png", "--model", "./empty"), 10, "config.json is missing"),
        (("a.png", "--model", "fake", "--adapter", "empty"), 10, "adapter.json is missing"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(
    data: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    (tmp_path / "empty").mkdir()
    draw(tmp_path / "a.png", 1)
    answer = scanfleet("score", *arguments, data_dir=data, cwd=tmp_path)
    assert (answer.returncode, answer.stdout) == (code, ""), answer.stderr
    assert answer.stderr.startswith("scanfleet: ")
    assert words in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    assert "geheim1" not in answer.stderr


def test_a_reader_that_leaves_ends_it(data: Path, tmp_path: Path) -> None:
    names = "".join(f"{draw(tmp_path / f'{number}.png', number)}\n" for number in range(16))  # one chunk
    with subprocess.Popen(
        [*COMMAND, "score", "-", "--json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(data, model="fake", token_budget="512"),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(names)
        process.stdin.flush()
        assert process.stdout.readline().startswith("{")
        family = psutil.Process(process.pid).children(recursive=True)
        process.stdout.close()
        process.stdin.write(names)
        process.stdin.flush()
        assert process.stderr.read() == ""
    assert process.returncode == 141
    assert_gone(family)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_end_it_and_its_children(data: Path, tmp_path: Path, number: int, code: int) -> None:
    draw(tmp_path / "a.png", 1)
    with start("score", tmp_path / "a.png", data_dir=data, model="fake", fake_seconds="600") as process:
        until_printed(process, "fake (fp32)")
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "")
    assert "Traceback" not in err
    assert_gone(family)


def test_ctrl_c_while_the_list_is_awaited_ends_it(data: Path, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [*COMMAND, "score", "-"],
        stdin=reader,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(data, model="fake"),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    os.close(reader)
    os.write(writer, f"{draw(tmp_path / 'a.png', 1)}\n".encode())
    family: list[psutil.Process] = []
    while not family:  # the child is there: the rest of the list is awaited in a thread
        family = psutil.Process(process.pid).children(recursive=True)
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    os.close(writer)
    assert (process.returncode, out, err) == (130, "", "scanfleet: interrupted\n")
    assert_gone(family)


def test_a_store_that_is_away_is_no_failed_image(data: Path, tmp_path: Path) -> None:
    draw(tmp_path / "a.png", 1)
    (tmp_path / "list.txt").write_text(f"{tmp_path / 'not-mounted' / 'b.png'}\na.png\n")
    answer = scanfleet("score", "list.txt", "--json", data_dir=data, cwd=tmp_path, model="fake")
    assert answer.returncode == 75
    assert list(records(answer.stdout)) == [str(tmp_path / "a.png")]
    assert "scanfleet: 1 image and all later ones are not scored: " in answer.stderr
    assert "check that it is mounted" in answer.stderr


def test_an_image_that_kills_the_model_is_not_passed_over(data: Path, tmp_path: Path) -> None:
    draw(tmp_path / "a.png", 1)
    PillowImage.new("RGB", (20, 20), LETHAL).save(tmp_path / "lethal.png")
    poison = ",".join(map(str, LETHAL))
    answer = scanfleet("score", "a.png", "lethal.png", data_dir=data, cwd=tmp_path, model="fake", fake_poison=poison)
    assert answer.returncode == 21
    assert "killed by signal 9" in answer.stderr


def test_without_torch_the_extra_is_named(data: Path, tmp_path: Path) -> None:
    draw(tmp_path / "a.png", 1)
    code = (
        "import sys; sys.modules['torch'] = None; from scanfleet.producer.cli.main import main;"
        "sys.argv = ['scanfleet', 'score', 'a.png']; sys.exit(main())"
    )
    command = [sys.executable, "-P", "-c", code]
    answer = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment(data), timeout=60, check=False
    )
    assert answer.returncode == 19
    assert "pip install -c constraints.txt '.[worker]'" in answer.stderr
