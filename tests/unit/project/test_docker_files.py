"""The container files agree with the code: commands exist, settings are spelled right, compose keeps its promises.

What the images hold and how they start is seen on the real ones (tests/integration/fleet/test_container_build.py).
"""

import json
import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from scanfleet.config.settings import Settings

ROOT = Path(__file__).parents[3]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
GPU: dict[str, Any] = yaml.safe_load((ROOT / "docker/compose.gpu.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("migrate", "producer", "worker", "trainer", "metrics")
SETTING_NAMES = {f"SCANFLEET_{name.upper()}" for name in Settings.model_fields}


def _parse(words: list[str]) -> click.Context:
    """Let the command line parse the words without running anything; raises click.UsageError."""
    from scanfleet.producer.cli.main import cli

    command: click.Command = cli
    context = click.Context(cli, info_name="scanfleet")
    rest = list(words)
    while isinstance(command, click.Group):
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None
        command, context = found, click.Context(found, info_name=name, parent=context)
    command.parse_args(context, rest)
    return context


def test_commands_of_the_containers_parse() -> None:
    paths = {service: _parse(SERVICES[service]["command"]).command_path for service in OURS}
    assert paths == {
        "migrate": "scanfleet db upgrade",
        "producer": "scanfleet scan",
        "worker": "scanfleet worker score",
        "trainer": "scanfleet worker train",
        "metrics": "scanfleet metrics",
    }
    for words in re.findall(r"^CMD (.+)$", (ROOT / "docker/Dockerfile").read_text(), re.MULTILINE):
        assert json.loads(words) == ["--help"] or _parse(json.loads(words)).command_path == "scanfleet worker score"
    with pytest.raises(click.UsageError):
        _parse(["worker", "scoore"])


def test_every_setting_named_in_docker_exists() -> None:
    text = "".join(path.read_text() for path in (ROOT / "docker").iterdir() if path.is_file())
    named = set(re.findall(r"SCANFLEET_[A-Z0-9_]*[A-Z0-9]", text))
    assert named >= {"SCANFLEET_DATABASE_URL", "SCANFLEET_BROKER_URL", "SCANFLEET_S3_ENDPOINT_URL"}
    assert named - SETTING_NAMES == set()


def test_urls_of_compose_pass_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for service in OURS:
        for name, value in SERVICES[service]["environment"].items():
            monkeypatch.setenv(name, re.sub(r"\$\{\w+:\?[^}]*\}", "secret", value))
        settings = Settings()
        assert settings.database == "postgresql+psycopg://scanfleet:secret@postgres:5432/scanfleet", service
        assert settings.broker == "redis://:secret@valkey:6379/0", service


def test_variables_of_compose_are_explained_in_the_example() -> None:
    used = set(re.findall(r"\$\{(\w+)", (ROOT / "docker/compose.yaml").read_text()))
    explained = set(re.findall(r"^#?(\w+)=", (ROOT / "docker/env.example").read_text(), re.MULTILINE))
    assert used - explained == set()


def test_example_holds_no_secret_and_git_ignores_the_real_file() -> None:
    example = (ROOT / "docker/env.example").read_text()
    filled = re.findall(r"^\w*(?:PASSWORD|SECRET|KEY)\w*=(.+)$", example, re.MULTILINE)
    assert filled == []
    assert "docker/.env" in (ROOT / ".gitignore").read_text().splitlines()


def test_our_containers_wait_for_healthy_services() -> None:
    for service in OURS:
        for name, condition in SERVICES[service]["depends_on"].items():
            one_shot = condition["condition"] == "service_completed_successfully"
            assert one_shot or "healthcheck" in SERVICES[name], service
            assert not one_shot or name == "migrate", service


def test_our_containers_have_least_privilege() -> None:
    for service in OURS:
        container = SERVICES[service]
        assert (container["init"], container["read_only"], container["cap_drop"]) == (True, True, ["ALL"]), service
        assert "user" not in container, service  # the image's, by number


def test_worker_is_given_longer_to_stop_than_it_takes() -> None:
    worker = SERVICES["worker"]
    grace = int(worker["stop_grace_period"].removesuffix("s"))
    assert grace > float(worker["environment"]["SCANFLEET_DRAIN_SECONDS"])


def test_trainer_and_workers_share_the_place_of_adapters() -> None:
    assert SERVICES["trainer"]["volumes"] == SERVICES["worker"]["volumes"]
    assert "SCANFLEET_ADAPTERS_URL" not in SERVICES["worker"]["environment"]  # the default lies in that volume


def test_gpu_file_changes_only_services_that_exist() -> None:
    assert GPU["services"].keys() <= SERVICES.keys()


def test_prometheus_asks_the_metrics_service_and_finds_its_rules() -> None:
    folder = ROOT / "docker/monitoring"
    config = yaml.safe_load((folder / "prometheus.yaml").read_text())
    assert all((folder / name).exists() for name in config["rule_files"])
    (target,) = config["scrape_configs"][0]["static_configs"][0]["targets"]
    host, _, port = target.partition(":")
    assert _parse(SERVICES[host]["command"]).params["port"] == int(port)
    assert "./monitoring:/etc/scanfleet:ro" in SERVICES["prometheus"]["volumes"]
    assert SERVICES["prometheus"]["profiles"] == SERVICES["metrics"]["profiles"] == ["monitoring"]
