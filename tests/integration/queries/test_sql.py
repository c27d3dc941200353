"""Questions in SQL: answered on both databases, and nothing gets through that writes, reads files or takes long."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from scanfleet.db.engine import reading
from scanfleet.db.tables import Image, Verdict
from scanfleet.producer.cli.main import cli
from tests.helpers.cli_call import scanfleet
from tests.rigs.asked_rig import Asked
from tests.services import PostgresServer

JSON_PARTS = {
    "sqlite": "select value as part from json_each('[1,2]') union all select atom from json_tree('3')",
    "postgresql": "select value as part from jsonb_array_elements('[1,2,3]')",
}
ENDLESS = "with recursive c(n) as (select 1 union all select n + 1 from c) select count(*) from c"


@dataclass(frozen=True)
class Asker:
    """How questions reach the ledger: settings of the command."""

    held: Asked
    settings: dict[str, str]

    def ask(self, *arguments: str) -> tuple[int, str, str]:
        folder = self.held.archive.settings.data_dir
        done = scanfleet("results", "sql", *arguments, data_dir=folder, **self.settings)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout, done.stderr

    def refused(self, *arguments: str) -> str:
        code, out, said = self.ask(*arguments)
        assert (code in (15, 27), out, said.count("\n")) == (True, "", 1), (code, out, said)
        return said


@dataclass(frozen=True)
class Logins:
    """Addresses of logins of a server: the reader's, one that may take its role and more, and the superuser's."""

    reader: str
    member: str
    mighty: str


def _logins(server: PostgresServer, url: str) -> Iterator[Logins]:
    name, host = url.rpartition("/")[2], url.partition("@")[2]
    reader, member = f"reads_{name}", f"member_{name}"
    with server.connect(name) as connection:
        connection.execute(CliRunner().invoke(cli, ["db", "roles"]).output)  # type: ignore[call-overload]
        connection.execute(f"CREATE ROLE {reader} LOGIN PASSWORD 'pw' IN ROLE scanfleet_reader")  # type: ignore[call-overload]
        connection.execute(f"CREATE ROLE {member} LOGIN PASSWORD 'pw' IN ROLE scanfleet_reader, scanfleet_worker")  # type: ignore[call-overload]
    yield Logins(reader=f"postgresql://{reader}:pw@{host}", member=f"postgresql://{member}:pw@{host}", mighty=url)
    with server.connect(name) as connection:
        connection.execute(f"DROP ROLE {reader}, {member}")  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def logins(held: Asked, request: pytest.FixtureRequest) -> Iterator[Logins | None]:
    """None on SQLite."""
    url = held.archive.settings.database
    if url.startswith("sqlite"):
        yield None
    else:
        yield from _logins(request.getfixturevalue("postgres_server"), url)


@pytest.fixture
def asker(held: Asked, logins: Logins | None) -> Asker:
    url = held.archive.settings.database
    return Asker(held, {"database_url": url} if logins is None else {"database_url": url, "reader_url": logins.reader})


@pytest.fixture
def server_logins(logins: Logins | None) -> Logins:
    """For tests of PostgreSQL alone."""
    assert logins is not None
    return logins


ON_SQLITE = pytest.mark.parametrize("held", ["sqlite"], indirect=True)
ON_POSTGRESQL = pytest.mark.parametrize("held", ["postgresql"], indirect=True)


def test_a_question_is_answered_in_every_format(asker: Asker) -> None:
    query = "select state, count(*) as n from images where rescan_of is null group by state order by n"
    assert asker.ask(query) == (0, "state     n\nfailed    1\nverdict  15\n", "")
    assert asker.ask(query, "--format", "csv")[1] == "state,n\nfailed,1\nverdict,15\n"
    code, out, said = asker.ask(query, "--format", "jsonl", "--limit", "1")
    assert (code, json.loads(out)) == (0, {"state": "failed", "n": 1})
    assert "only the first 1 rows" in said


def test_lists_are_taken_apart(asker: Asker) -> None:
    kind = "postgresql" if "reader_url" in asker.settings else "sqlite"
    assert asker.ask(JSON_PARTS[kind], "--format", "csv") == (0, "part\n1\n2\n3\n", "")


def test_a_table_keeps_what_is_small_or_huge(asker: Asker) -> None:
    code, out, _ = asker.ask("select 0.00001 as tiny, cast(1.5e300 as double precision) as huge, 0.25 as plain")
    assert (code, out.split()) == (0, ["tiny", "huge", "plain", "1e-05", "1.5e+300", "0.2500"])


def test_values_of_every_kind_are_printed_and_no_column_is_lost(asker: Asker) -> None:
    query = "select 1 as a, 2 as a, 'x%y' as t, 1.5 as f, null as missing, min(created_at) as at, sum(id) as s"
    query += " from verdicts"
    code, out, _ = asker.ask(query, "--format", "json")
    [row] = json.loads(out)
    assert code == 0
    assert list(row) == ["a", "a_2", "t", "f", "missing", "at", "s"]
    assert (row["a_2"], row["t"], row["f"], row["missing"], type(row["s"])) == (2, "x%y", 1.5, None, int)
    assert row["at"].startswith("20")


def test_stdin_holds_the_question(asker: Asker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    question = tmp_path / "question.sql"
    question.write_text("-- how many\nselect count(*) as n from scans;\n", encoding="utf-8")
    with question.open(encoding="utf-8") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert asker.ask("-")[1].split() == ["n", "3"]


@pytest.mark.parametrize(
    "query",
    [
        *("", "/* nothing */", "selec 1", "select nope from images", "select 1 from nowhere", "select '", "\ud800"),
        *("delete from verdicts", "update images set state = 'failed'", "drop table images", "begin", "commit"),
        "with gone as (select id from images) delete from images where id in (select id from gone)",
        "with gone as (delete from failures returning *) select * from gone",
        *("select 1; select 2", "select 1; delete from verdicts", "select 1; commit; delete from verdicts"),
        *(
            "select 1 into evil",
            "create table evil (a int)",
            "create temp table evil (a int)",
            "select id from images for update",
        ),
        "values (1); drop table images",
    ],
)
def test_what_does_more_than_read_or_is_no_sql_is_refused(asker: Asker, query: str) -> None:
    before = _rows(asker.held)
    asker.refused(query)
    assert _rows(asker.held) == before


def _rows(held: Asked) -> list[int]:
    with reading(held.archive.engine) as connection:
        tables = (Image, Verdict)
        return [connection.execute(sa.select(sa.func.count()).select_from(each)).scalar_one() for each in tables]


def test_a_question_without_end_is_stopped(asker: Asker) -> None:
    assert "stopped after 0.3 s" in asker.refused(ENDLESS, "--timeout", "0.3")
    assert asker.ask("select 1 as a")[0] == 0


@ON_SQLITE
@pytest.mark.parametrize(
    "query",
    [
        "attach '{place}' as evil",
        "vacuum into '{place}'",
        "select * from images; attach '{place}' as evil",
        "pragma query_only = off",
        "pragma writable_schema = on",
        "select * from pragma_query_only",
        "select load_extension('{place}')",
        "select writefile('{place}', 'x')",
        "select readfile('/etc/passwd')",
        "select fts3_tokenizer('simple')",
        "select length(zeroblob(2000000000))",
        "select randomblob(2000000000)",
        "explain select 1",
    ],
)
def test_sqlite_opens_no_other_file(asker: Asker, tmp_path: Path, query: str) -> None:
    asker.refused(query.format(place=tmp_path / "evil"))
    assert list(tmp_path.iterdir()) == []


@ON_POSTGRESQL
@pytest.mark.parametrize(
    "query",
    [
        "copy images to '/tmp/evil'",
        "copy (select 1) to program 'touch /tmp/evil'",
        "select pg_read_file('/etc/passwd')",
        "select pg_ls_dir('.')",
        "select lo_import('/etc/passwd')",
        "select nextval('images_id_seq')",
        "select set_config('transaction_read_only', 'off', true)",
        "select set_config('role', 'none', true), query_to_xml('delete from verdicts returning 1', true, true, '')",
        "select set_config('role', 'none', true), query_to_xml('select pg_read_file(''/etc/passwd'')', true, true, '')",
        "select query_to_xml('copy images to ''/tmp/evil''', true, true, '')",
        "select pg_terminate_backend(pid) from pg_stat_activity where usename = '{superuser}'",
        "select * from pg_authid",
        "do $$ begin delete from verdicts; end $$",
        "set role none",
        "select 'infinity'::timestamptz",
    ],
)
@pytest.mark.parametrize("who", ["reader", "member"])
def test_postgresql_lets_no_function_do_more(asker: Asker, server_logins: Logins, who: str, query: str) -> None:
    before = _rows(asker.held)
    settings = {"reader_url": server_logins.reader} if who == "reader" else {"database_url": server_logins.member}
    superuser = server_logins.mighty.partition("://")[2].partition(":")[0]
    Asker(asker.held, settings).refused(query.replace("{superuser}", superuser))
    assert _rows(asker.held) == before


@ON_POSTGRESQL
def test_a_login_with_more_rights_asks_as_the_reader(asker: Asker, server_logins: Logins) -> None:
    for settings in ({"reader_url": server_logins.member}, {"database_url": server_logins.member}):
        who = Asker(asker.held, settings).ask("select current_user as who", "--format", "csv")[1]
        assert who.split() == ["who", "scanfleet_reader"]


@ON_POSTGRESQL
def test_a_login_that_may_do_everything_is_refused(asker: Asker, server_logins: Logins) -> None:
    said = Asker(asker.held, {"database_url": server_logins.mighty}).refused("select 1")
    assert "set reader_url to a login of the role scanfleet_reader" in said


@ON_POSTGRESQL
def test_a_wrong_address_of_the_reader_is_a_wrong_setting(asker: Asker, server_logins: Logins) -> None:
    wrong = server_logins.reader.replace(":pw@", ":no@")
    code, _, said = Asker(asker.held, {"reader_url": wrong}).ask("select 1")
    assert (code, said.count("\n")) == (10, 1)
    assert ":no@" not in said
    assert Asker(asker.held, {"reader_url": "sqlite:///x"}).ask("select 1")[0] == 10
    assert psycopg.connect(server_logins.reader).close() is None
