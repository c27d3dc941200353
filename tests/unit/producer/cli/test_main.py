"""Every command has help; errors of scanfleet become one line and an exit code."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from scanfleet.producer.cli.main import cli
from scanfleet.producer.cli.options import printable
from scanfleet.worker import __main__ as worker_options
from tests.helpers import cli_process
from tests.helpers.cli_call import scanfleet
from tests.helpers.cli_process import COMMAND, environment


def commands(
    command: click.Command = cli, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from commands(child, (*path, name))


ALL = dict(commands())


def test_every_command_has_help_with_an_example_that_names_it() -> None:
    for path, command in ALL.items():
        text = command.help or ""
        assert "Example:" in text, path
        example = text.split("Example:")[1]
        assert not {"scanfleet", *path} - set(re.findall(r"[\w-]+", example)), path


def test_every_summary_is_a_whole_sentence_at_80_columns() -> None:
    for path, command in ALL.items():
        if isinstance(command, click.Group):
            page = CliRunner().invoke(cli, [*path, "--help"], terminal_width=80).output
            summaries = page.partition("Commands:\n")[2].splitlines()
            assert len(summaries) == len(command.commands), path
            for line in summaries:
                assert line.endswith("."), (path, line)
                assert not line.endswith("..."), (path, line)
                assert len(line) <= 80, (path, line)


def test_every_help_page_fits_80_columns() -> None:
    for path in ALL:
        page = CliRunner().invoke(cli, [*path, "--help"], terminal_width=80).output
        assert [line for line in page.splitlines() if len(line) > 80] == [], path


@pytest.mark.parametrize("command", [worker_options.score, worker_options.train])
def test_the_options_of_a_worker_are_in_the_help_of_the_command_that_starts_it(command: click.Command) -> None:
    page = CliRunner().invoke(cli, ["worker", str(command.name), "--help"]).output
    for parameter in command.params:
        for option in (*parameter.opts, *parameter.secondary_opts):
            assert re.search(rf"{option}\b", page), option


def test_every_option_says_what_it_is_for() -> None:
    for path, command in ALL.items():
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not isinstance(parameter.type, click.Choice):
                assert parameter.help, (path, parameter.name)


def test_every_help_page_prints() -> None:
    for path in ALL:
        answer = CliRunner().invoke(cli, [*path, "--help"])
        assert answer.exit_code == 0, path
        assert "Usage:" in answer.output, path


def test_the_command_line_starts_without_torch() -> None:
    code = "import sys, scanfleet.producer.cli.main; print({'torch', 'transformers', 'numpy'} & sys.modules.keys())"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"


def test_a_whole_scan_is_listed_without_torch(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    lines = (
        "import sys",
        "from scanfleet.producer.cli.main import main",
        "sys.argv = ['scanfleet', 'scan', 'a.jpg', '--check', 'overlay']",
        "code = main()",
        "print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules], code)",
    )
    answer = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=environment(tmp_path / "data"),
    )
    assert answer.stdout.splitlines()[-1] == "[] 0"


FAULTS: tuple[tuple[tuple[str, ...], int, str], ...] = (
    (("scan", "missing", "--check", "overlay"), 14, "no such folder or file: missing"),
    (("scan", ".", "--check", "overlay"), 16, "no images found in"),
    (("scan", ".", "--check", "nope"), 17, "no check 'nope'"),
    (("scan", ".", "--check", "bad.toml"), 11, "bad.toml:2: labels"),
    (("scan", "bad.csv", "--check", "overlay"), 12, "bad.csv, line 1: no column `uri`"),
    (("scan", "http://x", "--check", "overlay"), 13, "not supported"),
    (("scan", ".", "--check", "overlay", "--sample", "2.5"), 2, "--sample 2.5"),
    (("scan", ".", "--check", "overlay", "--limit", "0"), 2, "--limit"),
    (("scan", "."), 2, "--check"),
    (("scan", "", "--check", "overlay"), 13, "the source is empty"),
    (
        ("scan", ".", "--check", "overlay", "--include", "*.gif"),
        16,
        "--include and --exclude select none of them",
    ),
    (("scan", ".", "--check", "none.toml"), 11, "none.toml: cannot be read: No such file or directory"),
    (("scan", ".", "--check", "overlay", "--data-dir", "x"), 2, "--data-dir goes before the command"),
    (("scan", ".", "--check", "overlay", "--fresk"), 2, "No such option '--fresk'. Did you mean '--fresh'?"),
    (("scans", "list"), 2, "No such command 'list'; commands: ls, show, watch"),
    (("scan", ".", "--check", "overlay", "--model", "pockt"), 10, "'pockt' is unknown (did you mean pocket?)"),
    (("scan", ".", "--check", "overlay", "--model", "pockt", "--dry-run"), 10, "a built-in name (pocket)"),
    (("run", ".", "--check", "overlay", "--model", "./none"), 10, "an existing folder or a hub id owner/name"),
    (("scans", "show", "zzz"), 17, "no scan 'zzz'"),
    (("results", "show", "nothing.jpg"), 17, "no scan holds nothing.jpg"),
    (("results", "export", "--scan", "zzz"), 17, "no scan 'zzz'"),
    (("results", "export", "-o", "none/x.csv"), 2, "cannot write none/x.csv: there is no folder"),
    (("scans", "report", "zzz", "-o", "none/x.html"), 2, "cannot write none/x.html"),
    (("run", ".", "--check", "overlay", "--report", "none/x.html"), 2, "cannot write none/x.html"),
    (("checks", "add", "notes.md"), 11, "a check is a .toml file"),
    (("--broker-url", "amqp://u:secret@h", "scans", "ls"), 10, "broker_url: scheme 'amqp'"),
    (("--database-url", "sqlite:///none.db", "scans", "ls"), 18, "scanfleet db upgrade"),
    (("--database-url", "sqlite:///none/x.db", "scans", "ls"), 10, "database_url: there is no folder"),
    (("--database-url", "sqlite:////", "scans", "ls"), 10, "is a folder: name a file"),
    (("--database-url", "postgresql://u:secret@127.0.0.1:1/x", "scans", "ls"), 75, "database"),
)


@pytest.mark.parametrize(("arguments", "code", "words"), FAULTS)
def test_an_error_is_one_line_and_an_exit_code(
    tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    _require_one_line(scanfleet, tmp_path, arguments, code, words)


@pytest.mark.parametrize(("arguments", "code", "words"), [FAULTS[0], FAULTS[8], FAULTS[-1]])
def test_an_error_of_a_process_is_one_line_and_an_exit_code(
    tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    _require_one_line(cli_process.scanfleet, tmp_path, arguments, code, words)


def _require_one_line(
    scanfleet: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    arguments: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    (tmp_path / "bad.csv").write_text("path\nx\n")
    (tmp_path / "bad.toml").write_text('name = "x"\nlabels = ["one"]\nprompt = "What?"\n')
    answer = scanfleet(*arguments, data_dir=tmp_path)
    assert answer.returncode == code, answer.stderr
    assert words in answer.stderr
    assert "secret" not in answer.stderr
    assert "Traceback" not in answer.stderr
    assert answer.stdout == ""
    if code != 2 or "--sample" in arguments or "cannot write" in words:
        assert answer.stderr.startswith("scanfleet: ")
        assert len(answer.stderr.splitlines()) == 1


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "many.txt").write_text("".join(f"/none/{number}.jpg\n" for number in range(3000)))
    scanfleet("scan", "many.txt", "--check", "overlay", data_dir=tmp_path)
    export = subprocess.Popen(
        [*COMMAND, "results", "export"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(tmp_path),
    )
    assert export.stdout is not None
    assert export.stdout.readline().startswith("{")
    export.stdout.close()
    _, words = export.communicate(timeout=60)
    assert (export.returncode, words) == (141, "")


def test_names_from_outside_do_nothing_to_a_terminal() -> None:
    assert printable("a\x1b[31mred\r\nü 漢") == "a\\x1b[31mred\\r\\nü 漢"


@pytest.mark.parametrize("arguments", [("run", ".", "--check", "overlay"), ("worker", "train")])
def test_without_torch_the_extra_is_named(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from scanfleet.producer.cli.main import main;"
        f"sys.argv = ['scanfleet', *{arguments!r}]; sys.exit(main())"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(tmp_path), check=False
    )
    assert answer.returncode == 19
    assert "pip install -c constraints.txt '.[worker]'" in answer.stderr


def test_db_commands_bring_a_named_database_up_to_date(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'own.db'}"
    assert scanfleet("--database-url", url, "db", "check", data_dir=tmp_path).returncode == 18
    upgraded = scanfleet("--database-url", url, "db", "upgrade", data_dir=tmp_path)
    checked = scanfleet("--database-url", url, "db", "check", data_dir=tmp_path)
    assert (upgraded.returncode, checked.returncode) == (0, 0)
    assert upgraded.stdout == checked.stdout != ""


def test_checks_are_listed_shown_and_added(tmp_path: Path) -> None:
    shown = scanfleet("checks", "show", "overlay", data_dir=tmp_path).stdout
    assert not list(tmp_path.iterdir())  # looking makes no database
    mine = tmp_path / "mine.toml"
    mine.write_text(shown.replace('name = "overlay"', 'name = "mine"'), encoding="utf-8")
    assert scanfleet("checks", "add", mine, data_dir=tmp_path).returncode == 0
    listed = scanfleet("checks", "ls", data_dir=tmp_path).stdout
    assert [line.split()[0] for line in listed.splitlines()] == [
        "check", "baggage", "flowers", "mine", "overlay", "overlay-once", "overlay-steps", "razor",
    ]  # fmt: skip


def test_a_dry_run_counts_and_writes_nothing(tmp_path: Path) -> None:
    data, pictures = tmp_path / "data", tmp_path / "pictures"
    data.mkdir()
    pictures.mkdir()
    for name in ("a.jpg", "b.png", "notes.md"):
        (pictures / name).write_bytes(b"12345")
    answer = scanfleet("scan", pictures, "--check", "overlay", "--dry-run", data_dir=data)
    *lines, hours = answer.stdout.splitlines()
    assert hours.startswith("device hours    unknown")
    counts = [line.split()[-1] if "bytes" not in line else line.split()[1] for line in lines]
    assert counts == ["2", "10", "0", "1"]
    assert answer.stderr == ""
    assert not list(data.iterdir())
