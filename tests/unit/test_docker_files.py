"""The container files agree with the code: commands exist, settings are spelled right, images hold what they copy."""

import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from scanfleet.settings import Settings
from tools.try_docker_steps import Step, read_stages

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
GPU: dict[str, Any] = yaml.safe_load((ROOT / "docker/compose.gpu.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
STAGES = read_stages(ROOT / "docker/Dockerfile")
OURS = ("migrate", "producer", "worker", "trainer")
SETTING_NAMES = {f"SCANFLEET_{name.upper()}" for name in Settings.model_fields}


def _steps(stage: str, word: str) -> list[str]:
    return [step.text for step in STAGES[stage] if step.word == word]


def _exec_form(stage: str, word: str) -> list[str]:
    """CMD ["a", "b"] as a list, the last one in the stage."""
    return [str(part) for part in yaml.safe_load(_steps(stage, word)[-1])]


def _parse(words: list[str]) -> click.Context:
    """Let the command line parse the words without running anything; raises click.UsageError."""
    from producer.cli.main import cli

    command: click.Command = cli
    context = click.Context(cli, info_name="scanfleet")
    rest = list(words)
    while isinstance(command, click.Group):
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None
        command, context = found, click.Context(found, info_name=name, parent=context)
    command.parse_args(context, rest)
    return context


@pytest.mark.parametrize(
    ("words", "path"),
    [
        (SERVICES["migrate"]["command"], "scanfleet db upgrade"),
        (SERVICES["producer"]["command"], "scanfleet scan"),
        (SERVICES["worker"]["command"], "scanfleet worker score"),
        (SERVICES["trainer"]["command"], "scanfleet worker train"),
        (_exec_form("worker", "CMD"), "scanfleet worker score"),
    ],
)
def test_commands_of_the_containers_parse(words: list[str], path: str) -> None:
    assert _parse(words).command_path == path


def test_a_command_that_does_not_exist_is_noticed() -> None:
    with pytest.raises(click.UsageError):
        _parse(["worker", "scoore"])


def test_every_setting_named_in_docker_exists() -> None:
    text = "".join(path.read_text() for path in (ROOT / "docker").iterdir() if path.is_file())
    named = set(re.findall(r"SCANFLEET_[A-Z0-9_]*[A-Z0-9]", text))
    assert named >= {"SCANFLEET_DATABASE_URL", "SCANFLEET_BROKER_URL", "SCANFLEET_S3_ENDPOINT_URL"}
    assert named - SETTING_NAMES == set()


@pytest.mark.parametrize("service", OURS)
def test_urls_of_compose_pass_the_settings(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SERVICES[service]["environment"].items():
        monkeypatch.setenv(name, re.sub(r"\$\{\w+:\?[^}]*\}", "secret", value))
    settings = Settings()
    assert settings.database == "postgresql+psycopg://scanfleet:secret@postgres:5432/scanfleet"
    assert settings.broker == "redis://:secret@valkey:6379/0"


def test_variables_of_compose_are_explained_in_the_example() -> None:
    used = set(re.findall(r"\$\{(\w+)", (ROOT / "docker/compose.yaml").read_text()))
    explained = set(re.findall(r"^#?(\w+)=", (ROOT / "docker/env.example").read_text(), re.MULTILINE))
    assert used - explained == set()


def test_example_holds_no_secret_and_git_ignores_the_real_file() -> None:
    example = (ROOT / "docker/env.example").read_text()
    filled = re.findall(r"^\w*(?:PASSWORD|SECRET|KEY)\w*=(.+)$", example, re.MULTILINE)
    assert filled == []
    assert "docker/.env" in (ROOT / ".gitignore").read_text().splitlines()


@pytest.mark.parametrize("service", OURS)
def test_our_containers_wait_for_healthy_services(service: str) -> None:
    for name, condition in SERVICES[service]["depends_on"].items():
        one_shot = condition["condition"] == "service_completed_successfully"
        assert one_shot or "healthcheck" in SERVICES[name]
        assert not one_shot or name == "migrate"


@pytest.mark.parametrize("service", OURS)
def test_our_containers_have_least_privilege(service: str) -> None:
    container = SERVICES[service]
    assert container["init"] is True
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    stage = container["build"]["target"]
    assert _steps(stage, "USER") == ["scanfleet"]
    assert _steps(stage, "STOPSIGNAL") == ["SIGTERM"]


def test_worker_is_given_longer_to_stop_than_it_takes() -> None:
    worker = SERVICES["worker"]
    grace = int(worker["stop_grace_period"].removesuffix("s"))
    assert grace > float(worker["environment"]["SCANFLEET_DRAIN_SECONDS"])


def test_trainer_and_workers_share_the_place_of_adapters() -> None:
    assert SERVICES["trainer"]["volumes"] == SERVICES["worker"]["volumes"]
    assert "SCANFLEET_ADAPTERS_URL" not in SERVICES["worker"]["environment"]  # the default lies in that volume


def test_gpu_file_changes_only_services_that_exist() -> None:
    assert GPU["services"].keys() <= SERVICES.keys()


@pytest.mark.parametrize("stage", ["producer-build", "worker-build", "worker"])
def test_copied_files_exist_and_reach_the_builder(stage: str) -> None:
    allowed = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines()}
    for text in _steps(stage, "COPY"):
        if text.startswith("--from"):
            continue
        for source in text.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert source in allowed, f"{source} is hidden by .dockerignore"


def test_producer_image_has_no_worker_code_and_no_worker_extra() -> None:
    steps = STAGES["producer-build"]
    copied = {text.split()[0] for text in _steps("producer-build", "COPY")}
    assert copied.isdisjoint({"models", "worker"})
    assert not any("[worker]" in step.text for step in steps if step.word == "RUN")


def test_reader_joins_continued_lines_and_skips_comments(tmp_path: Path) -> None:
    path = tmp_path / "Dockerfile"
    path.write_text("# note\nFROM x AS one\nRUN a \\\n    # why\n    && b\nFROM one AS two\nUSER me\n")
    assert read_stages(path) == {
        "one": [Step(word="RUN", text="a && b")],
        "two": [Step(word="USER", text="me")],
    }
