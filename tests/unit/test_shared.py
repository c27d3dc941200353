"""Settings, checks, messages, queue and log: the small parts that both sides share."""

import doctest
import os
from pathlib import Path

import kombu
import pydantic
import pytest

import scanfleet.config.validation
import scanfleet.messages
import scanfleet.redaction
from scanfleet.checks.check import Check, builtin_names, load_check, parse_check
from scanfleet.config.diagnosis import describe_database_error
from scanfleet.config.settings import load_settings
from scanfleet.config.variables import RENAMED
from scanfleet.errors import BadCheck, BadSettings, BrokerUnavailable, ScanfleetError, SchemaTooNew, UnknownName
from scanfleet.messages import ScoreBatch
from scanfleet.queue.app import clear_taken, make_app, notify
from scanfleet.worker.scoring.model import FAKE_POISON, FAKE_SECONDS

GOOD = 'name = "x"\nprompt = "what is it?"\nlabels = ["a", "b"]\nflags = ["a"]\n'


def test_examples_in_docstrings() -> None:
    for module in (scanfleet.config.validation, scanfleet.messages, scanfleet.redaction):
        outcome = doctest.testmod(module)
        assert outcome.attempted
        assert outcome.failed == 0


def test_flag_beats_environment_beats_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scanfleet.toml").write_text("batch_images = 5\nfetch_threads = 5\nlease_seconds = 5.0\n")
    monkeypatch.setenv("SCANFLEET_BATCH_IMAGES", "6")
    monkeypatch.setenv("SCANFLEET_FETCH_THREADS", "6")
    settings = load_settings(batch_images=7, fetch_threads=None)
    assert (settings.batch_images, settings.fetch_threads, settings.lease_seconds) == (7, 6, 5.0)


def test_wrong_settings_are_named_without_their_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCANFLEET_BROKER_URL", "sqla://user:hunter2@host/x")
    with pytest.raises(BadSettings, match="broker_url: scheme 'sqla' is not one of") as caught:
        load_settings()
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(("slip", "meant"), [("BATCHIMAGES", "BATCH_IMAGES"), ("MODLE", "MODEL")])
def test_a_mistyped_variable_is_refused_with_the_name_it_is_like(
    monkeypatch: pytest.MonkeyPatch, slip: str, meant: str
) -> None:
    monkeypatch.setenv(f"SCANFLEET_{slip}", "5")
    monkeypatch.setenv("SCANFLEET_FETCH_THREADS", "many")
    with pytest.raises(BadSettings, match=rf"SCANFLEET_{slip}: .*SCANFLEET_{meant}\?.*; fetch_threads: "):
        load_settings()


@pytest.mark.parametrize("name", ["SCANFLEET_NIGHT_SHIFT", "SCANFLEET_DATABASE_PORT"])  # a newer release; Kubernetes
def test_a_variable_like_no_setting_is_reported_once_and_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    monkeypatch.setenv("scanfleet_batch_images", "6")
    assert load_settings().batch_images == 6
    load_settings()
    (told,) = caplog.messages
    assert name in told
    assert name not in os.environ  # a child process would report it again


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_setting_has_its_old_name_for_one_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, old: str, new: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scanfleet.toml").write_text(f"{old} = 7\n")
    assert getattr(load_settings(), new) == 7
    monkeypatch.setenv(f"SCANFLEET_{old.upper()}", "8")
    assert getattr(load_settings(), new) == 8
    monkeypatch.setenv(f"SCANFLEET_{old.upper()}", "9")
    monkeypatch.setenv(f"SCANFLEET_{new.upper()}", "10")
    assert getattr(load_settings(), new) == 10
    assert any(old in said and new in said for said in caplog.messages)


def test_parameters_of_the_fake_model_are_no_typo(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (FAKE_SECONDS, FAKE_POISON):
        monkeypatch.setenv(name, "0")
    load_settings()
    assert {FAKE_SECONDS, FAKE_POISON} <= set(os.environ)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_postgresql_has_several_names(scheme: str) -> None:
    settings = load_settings(database_url=f"{scheme}://user@host/postgres")
    assert settings.database == "postgresql+psycopg://user@host/postgres"


@pytest.mark.parametrize(
    ("words", "begins"),
    [
        ('connection failed: FATAL: role "me" does not exist', "the database refuses the connection: "),
        ("connection refused", "the database cannot be used right now: "),
    ],
)
def test_a_database_that_refuses_a_connection_is_not_called_unavailable(words: str, begins: str) -> None:
    assert describe_database_error(words).startswith(f"{begins}{words}")


def test_a_settings_file_that_is_not_toml_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scanfleet.toml").write_text("batch_images = \n")
    with pytest.raises(BadSettings, match=r"scanfleet\.toml"):
        load_settings()


def test_secrets_do_not_show_in_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCANFLEET_DATABASE_URL", "postgresql://user:hunter2@host/x")
    settings = load_settings()
    assert "hunter2" not in repr(settings)
    assert settings.database == "postgresql+psycopg://user:hunter2@host/x"


def test_built_in_checks_are_valid_and_have_distinct_hashes() -> None:
    checks = [load_check(name) for name in builtin_names()]
    names = [check.name for check in checks]
    assert names == ["baggage", "flowers", "overlay", "overlay-once", "overlay-steps", "razor"]
    assert len({check.hash for check in checks}) == len(checks)


def test_a_least_size_that_is_stated_keeps_its_hash_and_an_open_one_is_another_check() -> None:
    """The first two are hashes of the release before, in which 64 x 64 pixels was the default."""
    stated, left_open = parse_check(GOOD + "min_pixels = 4096\n", where="a"), parse_check(GOOD, where="b")
    assert stated.hash == "b774777fc332d7274403cd3cf4e2aee1609e74501ccc35604639fee5908d5148"
    assert load_check("overlay").hash == "5b7a8b7ff1a0be1245b47b7b858edbbcc63eb3a33de0231b929d9ec5c2354691"
    assert left_open.hash != stated.hash
    assert (left_open.min_pixels, "min_pixels" in left_open.as_file()) == (None, False)
    assert Check.model_validate(left_open.model_dump(mode="json")) == left_open


def test_the_hash_is_of_the_content_and_not_of_the_layout() -> None:
    assert parse_check(GOOD, where="a").hash == parse_check("# note\n" + GOOD, where="b").hash
    assert parse_check(GOOD, where="a").hash != parse_check(GOOD.replace("what", "who"), where="a").hash


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (GOOD.replace('flags = ["a"]', 'flags = ["c"]'), "f.toml:4: flags: c is not among the labels"),
        (GOOD.replace('labels = ["a", "b"]', "labels = [1, 2]"), "f.toml:3: labels"),
        (GOOD + "max_pixels = 5\n", "f.toml:5: max_pixels"),
        (GOOD + "colour = 5\n", "f.toml:5: colour"),
        (GOOD + '[descriptions]\nz = "1"\n', "f.toml:5: descriptions: z is not among the labels"),
        ('name = "x"\nlabels = ["a", "b"]\n', "f.toml:1: prompt: is missing"),
        ("name = \n", "line 1"),
    ],
)
def test_a_wrong_check_names_line_and_field(text: str, where: str) -> None:
    with pytest.raises(BadCheck) as caught:
        parse_check(text, where="f.toml")
    assert where in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_problems_of_a_check_come_in_one_line() -> None:
    text = 'name = "X Y"\nlabels = ["a", 2]\nflag = ["a"]\nmax_pixels = 5\nboxes = "maybe"\ntarget_recall = 2\n'
    with pytest.raises(BadCheck) as caught:
        parse_check(text, where="f.toml")
    assert str(caught.value).split("; ") == [
        "f.toml:1: name: must be lower-case letters, digits, - and _, at most 63",
        "line 1: prompt: is missing",
        "line 2: labels: entry 2 must be text",
        "line 3: flag: is not known (did you mean flags?)",
        "line 4: max_pixels: must be at least 784",
        "line 5: boxes: must be true or false",
        "line 6: target_recall: must be less than 1",
    ]


@pytest.mark.parametrize("wrong", ["", "colour = 5\n", 'max_pixels = "many"\n'])
def test_contradictions_are_reported_together_and_beside_other_problems(wrong: str) -> None:
    text = GOOD.replace('["a", "b"]', '["a", "b", "a"]').replace('flags = ["a"]', 'flags = ["z"]') + wrong
    with pytest.raises(BadCheck) as caught:
        parse_check(text + '[descriptions]\nq = "1"\n', where="f.toml")
    for words in ("labels: a is there twice", "flags: z is not among the labels", "descriptions: q is not among"):
        assert words in str(caught.value)
    assert ("line 5: colour" in str(caught.value)) == wrong.startswith("colour")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("min_pixels = 300000\n", "f.toml:5: min_pixels: is larger than max_pixels"),
        ('min_pixels = "300000.0"\n', "f.toml:5: min_pixels: is larger than max_pixels"),
        ('flags = ["b", "a"]\n', "f.toml:4: flags: at least one label must not flag"),
    ],
)
def test_fields_that_do_not_go_together_are_named(more: str, words: str) -> None:
    text = (GOOD.replace('flags = ["a"]\n', "") if "flags" in more else GOOD) + more
    with pytest.raises(BadCheck, match=words):
        parse_check(text, where="f.toml")


def test_settings_are_refused_with_a_plain_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCANFLEET_BATCH_IMAGES", "0")
    monkeypatch.setenv("SCANFLEET_FETCH_THREADS", "many")
    with pytest.raises(BadSettings) as caught:
        load_settings()
    assert "batch_images: must be at least 1; fetch_threads: must be a whole number (flag," in str(caught.value)


def test_unknown_and_unreadable_checks(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="baggage, flowers, overlay, overlay-once, overlay-steps"):
        load_check("nothing")
    with pytest.raises(BadCheck, match="cannot be read"):
        load_check(str(tmp_path / "nothing.toml"))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadCheck, match="cannot be read"):
        load_check(str(tmp_path / "binary.toml"))


@pytest.mark.parametrize("body", [{"batch_id": "1"}, {"batch_id": 1, "more": 2}, {}, {"batch_id": 1.5}])
def test_messages_refuse_what_they_do_not_know(body: dict[str, object]) -> None:
    with pytest.raises(pydantic.ValidationError):
        ScoreBatch.model_validate(body)


def test_a_notification_arrives_over_the_embedded_broker_and_leaves_no_file(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path)
    app = make_app(settings, ("score.fake",))
    notify(app, queue="score.fake", batch_id=7)
    with app.connection_for_read() as connection, connection.SimpleQueue("score.fake") as queue:
        message = queue.get(timeout=5)
        assert message.payload[1] == {"batch_id": 7}
        message.ack()
    clear_taken(settings)
    assert list((tmp_path / "broker").rglob("*.msg")) == []


def test_a_broker_that_is_away_is_named(tmp_path: Path) -> None:
    with kombu.Connection("redis://127.0.0.1:1/0"), pytest.raises(BrokerUnavailable):
        notify(make_app(load_settings(broker_url="redis://127.0.0.1:1/0")), queue="score.fake", batch_id=1)


def test_every_error_has_a_docstring_and_request_errors_differ_in_exit_code() -> None:
    def below(kind: type[ScanfleetError]) -> list[type[ScanfleetError]]:
        return [kind, *(deeper for child in kind.__subclasses__() for deeper in below(child))]

    kinds = below(ScanfleetError)
    assert all(kind.__doc__ for kind in kinds)
    # SchemaTooNew is the same answer from the other side, and has the code of its parent.
    own = [kind.exit_code for kind in kinds if 10 <= kind.exit_code < 75 and kind is not SchemaTooNew]
    assert len(own) == len(set(own)) >= 10


@pytest.mark.parametrize("place", ["taken/by/a/file", "/proc/nowhere"])
def test_a_data_folder_that_cannot_be_made_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(BadSettings, match="data_dir: cannot make the folder"):
        load_settings(data_dir=tmp_path / place).make_folder("broker")
