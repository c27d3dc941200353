"""Alerts, dashboard and exporter agree, and each alert has its section of what to do."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from scanfleet.producer.fleet.metrics import Ledger
from tests.rigs.ledger_rig import QUEUE, ledger_with_scan
from tests.rigs.metrics import names_of

ROOT = Path(__file__).parents[3]
MONITORING = ROOT / "docker/monitoring"
RULES: list[dict[str, Any]] = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"][0]["rules"]
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
TARGETS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_what_alerts_and_dashboard_name_is_exported(tmp_path: Path) -> None:
    ledger_with_scan(tmp_path, failures=(("decode", "truncated"),), worker_queue=QUEUE)
    exported = names_of(tmp_path)
    assert {"scanfleet_ledger_up", "scanfleet_images_scored_total", "scanfleet_recent_score_bucket"} <= exported
    for expression in [rule["expr"] for rule in RULES] + TARGETS:
        assert set(re.findall(r"\bscanfleet_\w+", expression)) - exported == set(), expression


def test_each_alert_has_its_section_and_its_trial() -> None:
    headings = re.findall(r"^### (\w+)$", (ROOT / "docs/operate.md").read_text(), re.MULTILINE)
    tried = re.findall(r"name: (\w+) fires", (MONITORING / "alerts_test.yaml").read_text())
    for rule in RULES:
        name = rule["alert"]
        assert rule["annotations"]["runbook_url"] == f"docs/operate.md#{name.lower()}"
        assert headings.count(name) == 1, name
        assert tried.count(name) == 1, name


@pytest.mark.parametrize("words", [("check", "rules", "alerts.yaml"), ("test", "rules", "alerts_test.yaml")])
def test_promtool_accepts_the_rules_and_their_trials(words: tuple[str, ...]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        if os.environ.get("CI"):
            pytest.fail("promtool is missing: tools/setup-services.sh installs it")
        pytest.skip("promtool is not installed (Debian: prometheus)")
    done = subprocess.run([promtool, *words], cwd=MONITORING, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_ledger_that_is_away_is_a_metric(tmp_path: Path) -> None:
    from scanfleet.config.settings import load_settings
    from scanfleet.db.engine import connect

    nowhere = connect(load_settings(database_url="postgresql://me@127.0.0.1:1/none?connect_timeout=1"))
    found = {metric.name: metric.samples[0].value for metric in Ledger(nowhere).collect()}
    assert found["scanfleet_ledger_up"] == 0
    assert set(found) == {"scanfleet_ledger_up", "scanfleet_scrape_seconds"}
