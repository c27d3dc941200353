"""`scanfleet doctor`: check every service, forecast the speed of this machine, and advise."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scanfleet.producer.cli.options import Flags, echo_line, printable
from scanfleet.producer.cli.tables import echo_table

if TYPE_CHECKING:
    from scanfleet.checks.check import Check
    from scanfleet.config.settings import Settings
    from scanfleet.producer.local.doctor import Finding

MARKS = {"ok": "ok", "warn": "WARN", "fail": "FAIL", "skip": "-"}


@click.command(short_help="Check this machine's set-up and measure its throughput.")
@click.option(
    "--check", "check_name", default="overlay", show_default=True, metavar="NAME", help="A check's name or .toml file."
)
@click.option("--model", metavar="MODEL", help="Built-in name, hub id, folder or endpoint:NAME. Default: the setting.")
@click.option("--source", metavar="SRC", help="Folder or s3://bucket/prefix to list and fetch from.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, max=60),
    default=2.0,
    show_default=True,
    help="How long to measure each stage.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", help="json: same as --json.")
@click.pass_obj
def doctor(
    flags: Flags, /, *, check_name: str, model: str | None, source: str | None, seconds: float, as_json: bool, form: str
) -> None:
    """Check settings, database, broker, storage, device and model, and measure the throughput of each stage.

    The stages are measured one after the other on generated pictures; nothing is written. The exit code is 0, or that
    of the first failure.

    \b
    Example:
      scanfleet doctor
      scanfleet doctor --model Qwen/Qwen3-VL-4B-Instruct --source s3://ads/
    """
    from scanfleet.config.model_names import require_model
    from scanfleet.producer.local.scoring import find_check
    from scanfleet.producer.local.settings_origin import origins, relevant

    settings = flags.settings(model=model)
    require_model(settings.model, elsewhere=False)
    check = find_check(settings, check_name)
    given = {**asdict(flags), "model": model}
    found = origins(settings, flags=given, folder=Path.cwd())
    as_json = as_json or form == "json"
    report = _Report(as_json=as_json)
    report.settings([asdict(one) for one in (found if as_json else relevant(found))])
    for finding in _check_reachable(settings, source, seconds):
        report.finding(finding)
    for message in _check_scoring(settings, check, seconds):
        report.message(message)
    report.end()


def _check_reachable(settings: Settings, source: str | None, seconds: float) -> Iterator[Finding]:
    from scanfleet.producer.local.doctor import check_services, check_source

    yield from check_services(settings)
    yield check_source(settings, source, seconds=seconds)


def _check_scoring(settings: Settings, check: Check, seconds: float) -> Iterator[dict[str, Any]]:
    """Yield the findings of the worker half, or a warning that it is not installed."""
    from scanfleet.errors import MissingExtra, WorkerDied
    from scanfleet.producer.local.child import Child, ChildFailed
    from scanfleet.producer.local.workers import require_worker_extra

    try:
        require_worker_extra()
    except MissingExtra as error:
        text = "not checked: this machine can list and enqueue, but not score"
        yield {"kind": "finding", "name": "scoring", "status": "warn", "text": text, "remedy": str(error)}
        return
    try:
        with Child(settings, "scanfleet.worker.commands.doctor") as child:
            child.feed([{"check": check.model_dump(mode="json"), "seconds": seconds}])
            yield from child.messages()
    except (ChildFailed, WorkerDied) as error:
        yield {"kind": "finding", "name": "scoring", "status": "fail", "text": str(error), "exit_code": error.exit_code}


class _Report:
    """Prints each finding as it comes; with JSON, prints one object at the end."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._settings: list[dict[str, Any]] = []
        self._findings: list[Finding] = []
        self._rates: dict[str, float] = {}
        self._measured_on: dict[str, str] = {}

    def settings(self, rows: list[dict[str, Any]]) -> None:
        self._settings = rows
        if not self._as_json:
            echo_table(("setting", "value", "from"), [tuple(row.values()) for row in rows])
            click.echo()

    def finding(self, finding: Finding) -> None:
        self._findings.append(finding)
        if finding.name == "store" and "images_per_second" in finding.figures:
            self._rates["fetch"] = finding.figures["images_per_second"]
            self._measured_on["fetch"] = "the source"
        if self._as_json:
            return
        echo_line(f"{MARKS[finding.status]:<4}  {finding.name}: {printable(finding.text)}", hang=6)
        if finding.remedy:
            echo_line(f"      {printable(finding.remedy)}", hang=6)

    def message(self, message: dict[str, Any]) -> None:
        """Take one message of the worker half."""
        from scanfleet.producer.local.doctor import Finding

        kind = message.pop("kind")
        if kind == "finding":
            self.finding(Finding(**message))
        elif kind == "rate":
            self._rates[message["stage"]] = message["images_per_second"]
            self._measured_on[message["stage"]] = message["how"]

    def end(self) -> None:
        """Print forecast and advice. Raises click's Exit with the code of the first failure."""
        forecast = self._forecast()
        if self._as_json:
            findings = [asdict(one) for one in self._findings]
            whole = {"settings": self._settings, "findings": findings, "images_per_second": self._rates}
            click.echo(json.dumps({**whole, "forecast": forecast}, ensure_ascii=False))
        elif forecast is not None:
            self._echo_forecast(forecast)
        codes = [finding.exit_code for finding in self._findings if finding.status == "fail"]
        if codes:
            raise click.exceptions.Exit(codes[0] or 1)

    def _forecast(self) -> dict[str, Any] | None:
        from scanfleet.producer.local.forecast import advice, forecast

        if "device" not in self._rates:
            return None
        device = next((one.figures.get("device") for one in self._findings if one.name == "device"), None)
        shares_cores = not str(device).startswith("cuda")
        found = forecast(self._rates, shares_cores=shares_cores)
        return {**asdict(found), "advice": advice(self._rates, found, shares_cores=shares_cores)}

    def _echo_forecast(self, forecast: dict[str, Any]) -> None:
        click.echo()
        rows = [(stage, round(rate, 1), self._measured_on[stage]) for stage, rate in self._rates.items()]
        echo_table(("stage", "images/s", "measured on"), [(stage, f"{rate:.1f}", how) for stage, rate, how in rows])
        idle = f"{forecast['idle_share']:.0%}".replace("%", " %")
        click.echo()
        rate = f"expected: about {forecast['images_per_second']:.1f} images/s"
        echo_line(f"{rate}; the slowest stage is {forecast['limit']}; the device would be idle {idle} of the time")
        echo_line(forecast["advice"])
