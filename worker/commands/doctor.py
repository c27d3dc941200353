"""`python -m scanfleet.worker.commands.doctor`: the child process of `scanfleet doctor`.

It reads and writes JSON lines.

In: {"check": {...}, "seconds": how long to measure each stage}. Out, as soon as they are known:
{"kind": "finding", "name", "status", "text", "remedy", "figures"} for each examination,
{"kind": "rate", "stage", "images_per_second"} for each measurement, and "fault" as in `worker.commands.score`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import IO, Any

from scanfleet.checks.check import Check
from scanfleet.config.settings import Settings
from scanfleet.decoding.amounts import default_children
from scanfleet.worker.commands.stage_rates import HEIGHT, WIDTH, StageRates
from scanfleet.worker.commands.standalone import resolve_alone
from scanfleet.worker.device.memory import memory_of
from scanfleet.worker.device.probe import budget_for, can_probe
from scanfleet.worker.runtime.child_protocol import Reports, serve_request
from scanfleet.worker.scoring.factory import Resolved
from scanfleet.worker.scoring.model import Model, load_model

MB = 1_000_000


def main() -> None:
    serve_request(_serve)


def _serve(settings: Settings, asked: dict[str, Any], _: IO[str], reports: Reports) -> None:
    _Examination(settings, reports).run(asked)


class _Examination:
    """Examines the model, the machine and the scorer, and measures the stages. The first error ends it."""

    def __init__(self, settings: Settings, reports: Reports) -> None:
        self._settings = settings
        self._reports = reports

    def run(self, asked: dict[str, Any]) -> None:
        model = self._load()
        self._machine(model)
        resolved = self._scorer(model, Check.model_validate(asked["check"]))
        if model.one_by_one:
            self._find("stages", "skip", "the model runs on a server, where each request costs: not measured")
            return
        budget = self._budget(model)
        self._measure(resolved, budget, streams=model.streams, seconds=asked["seconds"])

    def _find(self, name: str, status: str, text: str, remedy: str | None = None, **figures: Any) -> None:
        self._reports.send("finding", name=name, status=status, text=text, remedy=remedy, figures=figures)

    def _load(self) -> Model:
        memory = memory_of("cpu")
        memory.begin()
        start = time.perf_counter()
        model = load_model(self._settings)
        seconds, taken = time.perf_counter() - start, memory.taken()
        name, precision = model.identity.base_model, model.identity.precision
        in_memory = "" if taken is None else f", {taken / MB:.0f} MB of memory with its libraries"
        self._find(
            "model",
            "ok",
            f"{name} ({precision}) loads in {seconds:.1f} s{in_memory}",
            seconds=seconds,
            memory_bytes=taken,
        )
        return model

    def _machine(self, model: Model) -> None:
        cores = _cores()
        if model.device.startswith("cuda"):
            self._card(model.device, cores)
        elif model.device == "cpu":
            self._host(model, cores)
        else:
            self._find("device", "ok", f"{model.device}, {cores} cores", device=model.device, cores=cores)

    def _card(self, device: str, cores: int) -> None:
        import torch

        free, total = torch.cuda.mem_get_info(device)
        name = torch.cuda.get_device_name(device)
        text = f"{device}: {name}, {free / MB:.0f} of {total / MB:.0f} MB free, {cores} cores for decoding"
        self._find("device", "ok", text, device=device, card=name, free_bytes=free, total_bytes=total, cores=cores)

    def _host(self, model: Model, cores: int) -> None:
        import torch

        threads = model.streams * torch.get_num_threads()
        idle = threads < cores
        remedy = f"unset OMP_NUM_THREADS, or set it to {cores}" if idle else None
        text = f"cpu: forwards at once: {model.streams}, on {threads} of {cores} cores; no GPU in use"
        self._find("device", "warn" if idle else "ok", text, remedy, device="cpu", threads=threads, cores=cores)

    def _scorer(self, model: Model, check: Check) -> Resolved:
        resolved = resolve_alone(model, check, None)
        sha256 = resolved.scorer.identity.adapter_sha256
        if sha256 is None:
            text = f"check {check.name}: answered by the base alone, margins are not calibrated"
            self._find("scorer", "ok", text, adapter=None)
        else:
            self._find("scorer", "ok", f"check {check.name}: adapter {sha256[:12]}", adapter=sha256)
        return resolved

    def _budget(self, model: Model) -> int:
        start = time.perf_counter()
        budget = budget_for(self._settings, model)
        how = "as set"
        if self._settings.token_budget == "auto":  # noqa: S105
            how = f"a probe of {time.perf_counter() - start:.1f} s" if can_probe(model) else "there is nothing to probe"
        self._find("token budget", "ok", f"{budget} visual tokens in a forward ({how})", token_budget=budget)
        return budget

    def _measure(self, resolved: Resolved, budget: int, *, streams: int, seconds: float) -> None:
        rates = StageRates(self._settings, resolved.scorer, seconds=seconds)
        stages: dict[str, Callable[[], float]] = {
            "decode": rates.decode,
            "prepare": rates.prepare,
            "device": lambda: rates.device(token_budget=budget, streams=streams),
        }
        how = {
            "decode": f"{default_children(self._settings)} processes, JPEG of {WIDTH} x {HEIGHT} pixels",
            "prepare": f"{self._settings.fetch_threads} threads",
            "device": f"forwards at once: {streams}, of {budget} visual tokens each",
        }
        for stage, measure in stages.items():
            self._reports.send("rate", stage=stage, images_per_second=measure(), how=how[stage])


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


if __name__ == "__main__":
    main()
