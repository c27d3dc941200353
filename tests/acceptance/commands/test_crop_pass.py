"""A check with a crop pass, from file to export: `scanfleet score` and `scanfleet run` on the pocket model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import scanfleet as scanfleet_package
from scanfleet.checks.check import load_check
from scanfleet.models.pocket.scenes.planted import planted
from tests.helpers.cli_call import scanfleet

N = 6
CROP = """
[crop]
when = "always"
max_extra = {max_extra}

[descriptions]"""


def check_file(folder: Path, max_extra: float) -> Path:
    words = (Path(scanfleet_package.__file__).parent / "builtin" / "razor.toml").read_text(encoding="utf-8")
    path = folder / f"razor{max_extra}.toml"
    path.write_text(words.replace("\n[descriptions]", CROP.format(max_extra=max_extra)), encoding="utf-8")
    return path


def records(text: str) -> dict[str, dict[str, Any]]:
    return {record["uri"]: record for record in map(json.loads, text.splitlines())}


@pytest.mark.slow
def test_both_margins_come_out_and_a_scan_keeps_to_its_share(tmp_path: Path) -> None:
    pictures, data = tmp_path / "pictures", tmp_path / "data"
    pictures.mkdir()
    data.mkdir()
    for index in range(N):
        planted(11, index).image.save(pictures / f"{index}.png", compress_level=1)
    free, capped = check_file(tmp_path, 100), check_file(tmp_path, 0.8)
    assert load_check(str(free)).hash != load_check("razor").hash

    scored = scanfleet("score", pictures, "--check", free, "--json", data_dir=data, model="pocket")
    assert scored.returncode == 0, scored.stderr
    every = records(scored.stdout)
    assert len(every) == N
    assert {record["crop"]["skipped"] for record in every.values()} <= {None, "diffuse", "whole"}

    run = scanfleet("run", pictures, "--check", capped, "--report", tmp_path / "r.html", data_dir=data, model="pocket")
    assert run.returncode == 0, run.stderr
    told = records(scanfleet("results", "export", data_dir=data, model="pocket").stdout)
    assert set(told) == set(every)
    n_seen = 0
    for uri, record in told.items():
        look = record["crop"]
        assert look["first"] == pytest.approx(every[uri]["crop"]["first"], abs=1e-3)
        if look["skipped"] == "cap":
            assert (record["decision"], record["margin"], record["score"]) == ("review", look["first"], None)
            continue
        n_seen += look["second"] is not None
        assert record["margin"] == pytest.approx(every[uri]["margin"], abs=1e-3)
        assert look["box"] == every[uri]["crop"]["box"]
    assert 0 < n_seen < N
    (scan,) = {record["scan"] for record in told.values()}
    shown = scanfleet("scans", "show", scan, data_dir=data, model="pocket").stdout
    spent = sum(record["crop"]["tokens"] for record in told.values())
    assert f"{n_seen} read (" in shown
    assert f"they took {spent:,} visual tokens" in shown
    assert 'looks</dt><dd class="soft">margin' in (tmp_path / "r.html").read_text()
