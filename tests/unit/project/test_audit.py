"""The audit step: red for a vulnerability, and never green for a check that did not happen."""

import pytest

from tools import audit

CLEAN: dict[str, object] = {"name": "good", "version": "1.0", "vulns": []}
SKIPPED: dict[str, object] = {"name": "unknown", "skip_reason": "not found on PyPI"}
BAD: dict[str, object] = {
    "name": "bad",
    "version": "0.1",
    "vulns": [{"id": "CVE-2026-0001", "fix_versions": ["0.2"], "aliases": [], "description": ""}],
}


def test_a_vulnerability_fails_and_names_the_fix(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.verdict([CLEAN, BAD]) == 1
    assert capsys.readouterr().err == "pip-audit: bad 0.1: CVE-2026-0001, fixed in 0.2\n"


def test_a_clean_environment_says_how_much_was_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.verdict([CLEAN, SKIPPED]) == 0
    assert "no known vulnerability in 1 of 2 packages" in capsys.readouterr().err


def test_an_index_without_data_is_no_all_clear(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.verdict([SKIPPED]) == 0
    assert "nothing was checked" in capsys.readouterr().err


def test_unreachable_service_goes_on_and_any_other_error_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.no_report("pip_audit.ServiceError: Max retries exceeded") == 0
    assert "unreachable" in capsys.readouterr().err
    assert audit.no_report("unrecognized arguments: --format") == 1
