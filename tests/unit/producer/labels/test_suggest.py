"""How suggestions are apportioned and spread, and what `labels suggest` and `drift` say to a person."""

import json
import random
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from scanfleet.config.settings import load_settings
from scanfleet.db.engine import connect
from scanfleet.errors import DriftAlarm, RequestError, UnknownName
from scanfleet.producer.cli.main import cli
from scanfleet.producer.labels.suggest import DEFAULT_MIX, apportion, farthest, read_mix, scaled
from tests.helpers.migrated import upgrade
from tests.rigs.verdict_rig import VerdictRig


@pytest.mark.parametrize("n", [1, 3, 7, 100, 101])
def test_parts_sum_to_what_was_asked_for(n: int) -> None:
    counts = apportion(n, DEFAULT_MIX)
    assert sum(counts.values()) == n
    assert all(abs(counts[part] - n * share) < 1 for part, share in DEFAULT_MIX.items())


def test_the_default_mix_is_what_the_help_says() -> None:
    assert read_mix("threshold=.4,disagreement=.2,diversity=.1,random=.3") == DEFAULT_MIX
    assert read_mix("random=1")["threshold"] == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("chance=1", "a part is one of threshold, disagreement, diversity, random"),
        ("random", "'' is not a number"),
        ("random=x", "'x' is not a number"),
        ("random=nan", "between 0 and 1"),
        ("random=-1", "between 0 and 1"),
        ("random=.5", "sum to 0.5, not to 1"),
    ],
)
def test_a_bad_mix_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        read_mix(text)


def test_the_farthest_points_are_taken_one_after_the_other() -> None:
    draw = random.Random(0)
    places = {str(n): (draw.gauss(0, 0.1), draw.gauss(0, 0.1)) for n in range(50)}
    places |= {"right": (9.0, 0.0), "up": (0.0, 8.0), "near right": (8.9, 0.0)}
    assert farthest(places, [(0.0, 0.0)], 2) == ["right", "up"]
    assert farthest(places, [(9.0, 0.0)], 1) == ["up"]
    assert len(farthest(places, [], 100)) == 53


def test_a_feature_in_large_units_weighs_no_more_than_another() -> None:
    places = scaled({"a": (0.0, 0.0, 7.0), "b": (1.0, 1000.0, 7.0)})
    assert places == {"a": (0.0, 0.0, 7.0), "b": (2.0, 2.0, 7.0)}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The folder of a ledger with two scans by one scorer: the second one's margins lie elsewhere."""
    engine = connect(load_settings(data_dir=tmp_path))
    upgrade(engine)
    rig, draw = VerdictRig(engine), random.Random(0)
    scorer = rig.scorer()
    for scan, mean in (("first", 0.0), ("moved", 3.0)):
        rig.scan(scan)
        rig.verdicts(scan, scorer, [draw.gauss(mean, 1) for _ in range(250)])
    engine.dispose()
    return tmp_path


def scanfleet(data: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["--data-dir", str(data), *arguments])


def test_drift_is_shown_with_its_alarms_and_ends_well(data: Path) -> None:
    answer = scanfleet(data, "drift", "--by", "source")
    assert answer.exit_code == 0, answer.output
    lines = answer.stdout.splitlines()
    assert lines[0] == "check overlay"
    assert any(line.startswith("moved  (all)     ") and line.endswith("scan first") for line in lines)
    assert any(line.startswith("first  (all)") and line.endswith("is the reference") for line in lines)
    assert any(line.startswith("alarm: scan moved: margins moved: PSI") for line in lines)


def test_drift_as_json_has_every_figure(data: Path) -> None:
    (found,) = json.loads(scanfleet(data, "drift", "--scan", "moved", "--format", "json").stdout)
    (one,) = found["slices"]
    assert (one["scan"], one["images"], one["reference"], one["reference_images"]) == ("moved", 250, "scan first", 250)
    assert one["psi"] > 1 > one["psi_by_chance"] > 0
    assert found["labels"][1]["overridden"] == {"k": 0, "n": 0, "value": None, "low": 0.0, "high": 1.0}
    assert "alarm" in {finding["level"] for finding in found["findings"]}


def test_who_asks_for_it_gets_an_exit_code_of_its_own(data: Path) -> None:
    answer = scanfleet(data, "drift", "--alarm")
    assert isinstance(answer.exception, DriftAlarm)
    assert DriftAlarm.exit_code == 25
    assert "scan moved: margins moved" in str(answer.exception)
    assert scanfleet(data, "drift", "--scan", "first", "--alarm").exit_code == 0


def test_a_scan_is_shown_with_its_alarm(data: Path) -> None:
    shown = scanfleet(data, "scans", "show", "moved")
    (line,) = [line for line in shown.stderr.splitlines() if "alarm" in line]
    assert line.startswith("scanfleet: alarm: scan moved: margins moved: PSI")
    assert line.endswith("`scanfleet drift --scan moved` shows the figures")
    assert len(json.loads(scanfleet(data, "scans", "show", "moved", "--format", "json").stdout)["alarms"]) == 1
    assert "alarm" not in scanfleet(data, "scans", "show", "first").stderr


@pytest.mark.parametrize("by", ["folder", "0", "6", "²"])
def test_a_part_that_does_not_exist_is_wrong_usage(data: Path, by: str) -> None:
    answer = scanfleet(data, "drift", "--by", by)
    assert (answer.exit_code, "neither source nor a depth from 1 to 5" in answer.output) == (2, True)


@pytest.mark.parametrize("command", [("drift",), ("labels", "suggest")])
def test_a_name_that_is_not_there_or_does_not_fit_is_refused(data: Path, command: tuple[str, ...]) -> None:
    assert isinstance(scanfleet(data, *command, "--check", "none").exception, UnknownName)
    assert isinstance(scanfleet(data, *command, "--check", "overlay", "--scan", "zzz").exception, UnknownName)
    answer = scanfleet(data, *command, "--check", "baggage", "--scan", "moved")
    assert "scan moved is of check overlay, not of baggage" in str(answer.exception)


def test_suggestions_go_to_a_file_and_are_summarised(data: Path) -> None:
    answer = scanfleet(data, "labels", "suggest", "--check", "overlay", "-n", "20", "-o", str(data / "next.csv"))
    assert answer.exit_code == 0, answer.output
    assert "disagreement: 0 of 4 found, the rest goes to diversity" in answer.stderr
    assert "20 images of 250 unlabelled: threshold 8, disagreement 0, diversity 6, random 6" in answer.stderr
    assert len((data / "next.csv").read_text().splitlines()) == 21


def test_where_nothing_is_left_it_is_reported_and_no_file_appears(data: Path) -> None:
    answer = scanfleet(data, "labels", "suggest", "--check", "baggage", "-o", str(data / "next.csv"))
    assert answer.exit_code == 0
    assert "nothing to suggest: the ledger" in answer.stderr
    assert not (data / "next.csv").exists()


def test_the_exit_codes_are_in_the_help() -> None:
    assert isinstance(cli, click.Group)
    assert f"{DriftAlarm.exit_code} drift" in (cli.help or "")
