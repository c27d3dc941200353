"""The Helm chart, rendered without a cluster: Kubernetes' and KEDA's fields, and what it promises."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scanfleet.config.settings import Settings
from scanfleet.worker.__main__ import main as workers
from tests.unit.project.test_docker_files import _parse

CHART = Path(__file__).parents[3] / "docker/chart"
EVERYTHING = {
    "serve": {"enabled": True},
    "train": {"enabled": True, "gpus": 1},
    "models": {
        "pocket": {"model": "pocket"},
        "qwen": {"model": "Qwen/Qwen3-VL-4B-Instruct", "gpus": 2, "loadSeconds": 900, "settings": {"A": "1"}},
        "spot": {"model": "pocket", "spot": True},
    },
}
KUBERNETES = "1.30"
# Of KEDA's ScaledObject, the fields that the chart uses (keda.sh/docs, 2.14): a closed list.
SCALED_OBJECT = {
    "scaleTargetRef", "minReplicaCount", "maxReplicaCount", "pollingInterval", "cooldownPeriod", "advanced", "triggers",
}  # fmt: skip
METRICS_API = {"url", "format", "valueLocation", "targetValue", "activationTargetValue"}

if os.environ.get("CI"):
    import helm_python
    import kubernetes_validate
else:
    helm_python = pytest.importorskip("helm_python")
    kubernetes_validate = pytest.importorskip("kubernetes_validate")


def rendered(values: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    files = helm_python.Chart.load(CHART).render(values or {}, name="fleet", namespace="scan")
    return [each for text in files.values() for each in yaml.safe_load_all(text) if each]


def pods(objects: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for each in objects:
        if "template" in each.get("spec", {}):
            yield each["metadata"]["name"], each["spec"]["template"]["spec"]


def named(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = [each for each in objects if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


@pytest.mark.parametrize("values", [{}, EVERYTHING, {"autoscaling": {"enabled": False}}])
def test_kubernetes_and_keda_know_every_field(values: dict[str, Any]) -> None:
    objects = rendered(values)
    for each in objects:
        if each["kind"] != "ScaledObject":
            kubernetes_validate.validate(each, KUBERNETES, strict=True)
    scaled = [each for each in objects if each["kind"] == "ScaledObject"]
    assert len(scaled) == (0 if "autoscaling" in values else len(values.get("models", {"pocket": 0})))
    for each in scaled:
        assert set(each["spec"]) <= SCALED_OBJECT
        (trigger,) = each["spec"]["triggers"]
        assert set(trigger["metadata"]) == METRICS_API
        assert all(isinstance(value, str) for value in trigger["metadata"].values())
        named(objects, "Deployment", each["spec"]["scaleTargetRef"]["name"])


def test_commands_parse_and_settings_exist() -> None:
    known = {f"SCANFLEET_{name.upper()}" for name in Settings.model_fields} | {"A"}
    for _, pod in pods(rendered(EVERYTHING)):
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            words = [str(word) for word in container["args"]]
            if words[0] == "worker":
                workers.commands[words[1]].make_context(words[1], words[2:])
            elif words[0] != "serve":
                _parse(words)
            assert {each["name"] for each in container["env"]} - known == set()


def test_no_root_no_writable_root_no_capability() -> None:
    found = dict(pods(rendered(EVERYTHING)))
    assert len(found) == 7
    for pod in found.values():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["automountServiceAccountToken"] is False
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}


def test_pods_wait_for_the_migration_which_comes_first() -> None:
    objects = rendered(EVERYTHING)
    job = named(objects, "Job", "fleet-migrate")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert job["spec"]["template"]["spec"]["containers"][0]["args"] == ["db", "upgrade"]
    for name, pod in pods(objects):
        if name != "fleet-migrate":
            assert pod["initContainers"][0]["args"][:2] == ["db", "wait"], name


def test_the_drain_fits_the_grace_also_on_spot_nodes() -> None:
    objects = rendered(EVERYTHING)
    for name, pod in pods(objects):
        environment = {each["name"]: each["value"] for each in pod["containers"][0]["env"]}
        if "SCANFLEET_DRAIN_SECONDS" in environment:
            assert float(environment["SCANFLEET_DRAIN_SECONDS"]) < pod["terminationGracePeriodSeconds"], name
    spot = named(objects, "Deployment", "fleet-worker-spot")["spec"]["template"]["spec"]
    assert spot["terminationGracePeriodSeconds"] == 15
    with pytest.raises(helm_python.HelmError, match="graceSeconds"):
        rendered({"modelDefaults": {"drainSeconds": 60}})


def test_workers_scale_to_zero_no_sooner_than_they_load() -> None:
    objects = rendered(EVERYTHING)
    scaled = named(objects, "ScaledObject", "fleet-worker-qwen")["spec"]
    assert (scaled["minReplicaCount"], scaled["cooldownPeriod"]) == (0, 1800)
    metadata = scaled["triggers"][0]["metadata"]
    assert metadata["valueLocation"] == 'scanfleet_workers_wanted{model="Qwen/Qwen3-VL-4B-Instruct"}'
    service = named(objects, "Service", "fleet-metrics")
    assert metadata["url"] == f"http://fleet-metrics.scan.svc:{service['spec']['ports'][0]['port']}/metrics"
    worker = named(objects, "Deployment", "fleet-worker-qwen")
    assert "replicas" not in worker["spec"]  # KEDA's
    probe = worker["spec"]["template"]["spec"]["containers"][0]["startupProbe"]
    assert probe["failureThreshold"] * probe["periodSeconds"] > 900
    exported = named(objects, "Deployment", "fleet-metrics")["spec"]["template"]["spec"]["containers"][0]["args"]
    assert "--model=Qwen/Qwen3-VL-4B-Instruct" in exported


def test_a_pod_with_several_cards_has_a_process_each() -> None:
    objects = rendered(EVERYTHING)
    qwen = named(objects, "Deployment", "fleet-worker-qwen")["spec"]["template"]["spec"]["containers"][0]
    assert qwen["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert qwen["args"][-2:] == ["--devices", "all"]
    pocket = named(objects, "Deployment", "fleet-worker-pocket")["spec"]["template"]["spec"]["containers"][0]
    pod = named(objects, "Deployment", "fleet-worker-qwen")["spec"]["template"]["spec"]
    assert pod["initContainers"][1]["args"] == ["worker", "fetch", "--model", "Qwen/Qwen3-VL-4B-Instruct"]
    assert "nvidia.com/gpu" not in pocket["resources"]["limits"]


def test_only_metrics_and_serve_are_reached() -> None:
    policy = named(rendered(), "NetworkPolicy", "fleet")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert [port["port"] for rule in policy["ingress"] for port in rule["ports"]] == [9464, 8000]
