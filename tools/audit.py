"""Run pip-audit over this environment, without a false all-clear.

A vulnerability fails the check. If the vulnerability service cannot be reached, one line reports it and the check
passes, so that it works offline. A package index without vulnerability data answers "not found" for every package, and
pip-audit then reports "No known vulnerabilities found" and succeeds. That is reported as unchecked too.
"""

import json
import subprocess
import sys
from pathlib import Path

TIMEOUT = 15  # seconds for one request
UNREACHABLE = (
    "ConnectionError",
    "Connection refused",
    "Max retries",
    "ServiceError",
    "timed out",
    "ProxyError",
)


def main() -> int:
    """The exit status: 1 for a vulnerability or an error of pip-audit's own, otherwise 0."""
    program = Path(sys.executable).with_name("pip-audit")
    options = ["--local", "--skip-editable", "--format", "json", "--progress-spinner", "off"]
    command = [str(program), *options, "--timeout", str(TIMEOUT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (json.JSONDecodeError, KeyError):
        return no_report(done.stderr)
    return verdict(packages)


def no_report(stderr: str) -> int:
    """Handle a pip-audit that ended without a report."""
    if any(word in stderr for word in UNREACHABLE):
        say("the vulnerability service is unreachable, nothing was checked")
        return 0
    say(stderr.strip() or "ended without a report")
    return 1


def verdict(packages: list[dict[str, object]]) -> int:
    """Judge pip-audit's list of {name, version, vulns} or {name, skip_reason}."""
    checked = [package for package in packages if "vulns" in package]
    bad = [package for package in checked if package["vulns"]]
    for package in bad:
        for found in package["vulns"]:  # type: ignore[attr-defined]
            fixed = ", ".join(found["fix_versions"]) or "no version yet"
            say(f"{package['name']} {package['version']}: {found['id']}, fixed in {fixed}")
    if not checked:
        say("the package index here has no vulnerability data, nothing was checked")
    elif not bad:
        say(f"no known vulnerability in {len(checked)} of {len(packages)} packages")
    return 1 if bad else 0


def say(line: str) -> None:
    """One line for the person at the terminal."""
    sys.stderr.write(f"pip-audit: {line}\n")


if __name__ == "__main__":
    sys.exit(main())
